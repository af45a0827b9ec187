#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "blur.h"
#include "convolve.h"
#include "parallel.h"
#include "psf.h"

// Loops over arrays are built for three instruction sets and picked when the library loads.
#ifndef DEBLURGAN_CLONES
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define DEBLURGAN_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define DEBLURGAN_CLONES
#endif
#endif

namespace deblurgan {
namespace {

struct NoScratch {};

constexpr int64_t kWorthAThread = 4096;  // draws that take as long as starting a thread

constexpr int64_t kKept = 4096;

// What dropout keeps of four elements a draw, ahead of being stored, so that drawing is vector code.
struct KeptWords {
  bool v[4 * kKept];
};

DEBLURGAN_CLONES void draw_kept(const DropoutArgs& a, uint64_t seed, uint64_t index, int64_t first, int64_t count,
                                KeptWords& kept) {
  const DropoutArgs args = a;
  for (int32_t i = 0; i < static_cast<int32_t>(count); ++i) {
    const Words words = keep_words(args, seed, index, first + i);
    for (int k = 0; k < 4; ++k) kept.v[4 * i + k] = words.v[k] != 0;
  }
}

constexpr int64_t kKicks = 256;

// Kicks drawn ahead, in arrays of each part, so that drawing them is vector code.
struct Kicks {
  float noise_re[kKicks], noise_im[kKicks], thrown_re[kKicks], thrown_im[kKicks];
};

DEBLURGAN_CLONES void draw_kicks(const Shake& drawn, uint64_t seed, uint64_t index, int64_t first, int64_t count,
                                 Kicks& kicks) {
  const Shake shake = drawn;
  for (int32_t i = 0; i < static_cast<int32_t>(count); ++i) {
    const Kick kick = draw_kick(shake, seed, index, static_cast<uint32_t>(first) + static_cast<uint32_t>(i));
    kicks.noise_re[i] = kick.noise.re;
    kicks.noise_im[i] = kick.noise.im;
    kicks.thrown_re[i] = kick.thrown.re;
    kicks.thrown_im[i] = kick.thrown.im;
  }
}

void random_trajectory(const TrajectoryArgs& a, int64_t i, Kicks& kicks) {
  const uint64_t seed = a.draws.the_seed(), index = a.draws.index(i);
  const Shake shake = draw_shake(a.steps, a.length, a.anxiety[i], seed, index);
  PathState path{{0.0f, 0.0f}, shake.velocity};
  float* out = a.out + i * a.steps * 2;
  *out++ = 0.0f;
  *out++ = 0.0f;
  for (int64_t t = 0; t + 1 < a.steps; t += kKicks) {
    const int64_t count = std::min(kKicks, a.steps - 1 - t);
    draw_kicks(shake, seed, index, t, count, kicks);
    for (int64_t k = 0; k < count; ++k) {
      const Kick kick{{kicks.noise_re[k], kicks.noise_im[k]}, {kicks.thrown_re[k], kicks.thrown_im[k]}};
      path = advance(path, shake, kick);
      *out++ = path.at.re;
      *out++ = path.at.im;
    }
  }
}

struct Shift {
  double x, y;
};

Shift centroid_shift(const float* path, const Exposure& e, int64_t size) {
  int64_t x = 0, y = 0;
  for (int64_t t = 1; t <= e.full; ++t) {
    x += fixed_position(path[2 * t]);
    y += fixed_position(path[2 * t + 1]);
  }
  const float* last = path + 2 * samples_of(e);
  return {centroid_offset(e, x, fixed_position(last[0]), size), centroid_offset(e, y, fixed_position(last[1]), size)};
}

Shift released_shift(const float* path, int64_t steps, int64_t size) {
  float low[2] = {path[0], path[1]}, high[2] = {path[0], path[1]};
  for (int64_t k = 0; k < 2 * steps; ++k) {
    low[k & 1] = std::min(low[k & 1], path[k]);
    high[k & 1] = std::max(high[k & 1], path[k]);
  }
  return {released_offset(path[0], low[0], high[0], size), released_offset(path[1], low[1], high[1], size)};
}

// False where the path leaves the canvas.
bool draw_path(const PsfArgs& a, const float* path, const Exposure& e, int64_t* canvas) {
  if (!std::all_of(path, path + 2 * a.steps, in_reach)) return false;
  const Shift shift = a.centered ? centroid_shift(path, e, a.size) : released_shift(path, a.steps, a.size);
  for (int64_t t = 1; t <= samples_of(e); ++t) {
    const Splat s = splat(path[2 * t] + shift.x, path[2 * t + 1] + shift.y, weight_of(e, t), a.size);
    if (!s.inside) return false;
    int64_t* cell = canvas + s.cell;
    cell[0] += s.part[0];
    cell[1] += s.part[1];
    cell[a.size] += s.part[2];
    cell[a.size + 1] += s.part[3];
  }
  return true;
}

void rasterize_psf(const PsfArgs& a, int64_t i, std::vector<int64_t>& canvas) {
  const Exposure e = exposure_of(a.exposure[i], a.steps);
  canvas.assign(a.size * a.size, 0);
  float* out = a.out + i * a.size * a.size;
  if (!draw_path(a, a.trajectories + i * a.steps * 2, e, canvas.data())) {
    std::fill_n(out, canvas.size(), std::numeric_limits<float>::quiet_NaN());
    return;
  }
  const double total = total_of(e, a.steps, a.centered);
  for (size_t k = 0; k < canvas.size(); ++k)
    if (canvas[k] == 0)
      out[k] = 0.0f;  // most cells, and a division less
    else
      out[k] = static_cast<float>(static_cast<double>(canvas[k]) / total);
}

// How far a picture's taps reach beyond the output pixel, each >= 0.
struct Reach {
  int64_t top = 0, bottom = 0, left = 0, right = 0;
};

Reach reach_of(const ApplyArgs& a, int64_t picture) {
  Reach reach;
  const int32_t* offset = a.offset + picture * a.capacity * 2;
  for (int64_t t = 0; t < taps_of(a, picture); ++t) {
    const int64_t dy = offset[2 * t], dx = offset[2 * t + 1];
    reach.top = std::max(reach.top, -dy);
    reach.bottom = std::max(reach.bottom, dy);
    reach.left = std::max(reach.left, -dx);
    reach.right = std::max(reach.right, dx);
  }
  return reach;
}

constexpr int64_t kStrip = 32;  // output rows a task, a multiple of kRows

// A picture's taps for planes of `group` interleaved channels: one of them is blurred like a single channel whose taps
// stand `group` elements apart.
struct Plan {
  Reach reach;
  int64_t width = 0, blocks = 0, pitch = 0;  // elements of an output row, rounded up to blocks, and of a source row
  RowTaps taps;
};

Plan plan_of(const ApplyArgs& a, int64_t picture, int64_t group) {
  Plan plan;
  const Reach reach = plan.reach = reach_of(a, picture);
  plan.width = a.out_w * group;
  plan.blocks = (plan.width + kColumns - 1) / kColumns * kColumns;
  plan.pitch = plan.blocks + (reach.left + reach.right) * group;
  // the PSF's part with taps; output row i reads at dy what row i + 1 reads at dy - 1, so kRows - 1 rows come after it
  const int64_t columns = reach.left + reach.right + 1, rows = reach.top + reach.bottom + 1;
  std::vector<float> weights((rows + 2 * (kRows - 1)) * columns);
  const int32_t* offset = a.offset + picture * a.capacity * 2;
  for (int64_t t = 0; t < taps_of(a, picture); ++t)
    weights[(offset[2 * t] + reach.top + kRows - 1) * columns + offset[2 * t + 1] + reach.left] =
        a.weight[picture * a.capacity + t];
  for (int64_t y = 0; y < rows + kRows - 1; ++y)
    for (int64_t x = 0; x < columns; ++x) {
      RowTap tap{(y - reach.top) * plan.pitch + (x - reach.left) * group, {}};
      for (int64_t i = 0; i < kRows; ++i) tap.weight[i] = weights[(y + kRows - 1 - i) * columns + x];
      for (int64_t first = 0; first < kRows; ++first) {
        if (tap.weight[first] == 0.0f) continue;
        int64_t last = first;
        while (last + 1 < kRows && tap.weight[last + 1] != 0.0f) ++last;
        plan.taps.of[first][last].push_back(tap);
        first = last;
      }
    }
  return plan;
}

DEBLURGAN_CLONES void load(const float* from, float* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = from[i];
}
DEBLURGAN_CLONES void load(const uint8_t* from, float* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = to_float(from[i]);
}
DEBLURGAN_CLONES void load(const Half* from, float* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = to_float(from[i]);
}
DEBLURGAN_CLONES void load(const BFloat16* from, float* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = to_float(from[i]);
}

DEBLURGAN_CLONES void store(const float* from, float* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = from[i];
}
DEBLURGAN_CLONES void store(const float* from, uint8_t* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) from_float(from[i], to[i]);
}
DEBLURGAN_CLONES void store(const float* from, Half* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) from_float(from[i], to[i]);
}
DEBLURGAN_CLONES void store(const float* from, BFloat16* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) from_float(from[i], to[i]);
}

DEBLURGAN_CLONES void to_power(float* x, int64_t n, float scale, float power, float unscale) {
  for (int64_t i = 0; i < n; ++i) x[i] = power_positive(scale * x[i], power) * unscale;
}

DEBLURGAN_CLONES void to_signed(float* x, int64_t n, float white) {
  for (int64_t i = 0; i < n; ++i) x[i] = signed_value(x[i], white);
}

// Noise for elements first, first + stride, ... of a picture.
DEBLURGAN_CLONES void add_noise(float* x, int64_t n, float deviation, uint64_t seed, uint64_t index, uint64_t first) {
  for (int64_t i = 0; i < n; ++i) x[i] += deviation * pixel_noise(seed, index, first + static_cast<uint64_t>(i));
}

void load(DType type, const void* from, int64_t offset, float* to, int64_t n) {
  switch (type) {
    case DType::kUint8:
      return load(static_cast<const uint8_t*>(from) + offset, to, n);
    case DType::kHalf:
      return load(static_cast<const Half*>(from) + offset, to, n);
    case DType::kBFloat16:
      return load(static_cast<const BFloat16*>(from) + offset, to, n);
    case DType::kFloat:
      return load(static_cast<const float*>(from) + offset, to, n);
  }
}

void store(DType type, const float* from, void* to, int64_t offset, int64_t n) {
  switch (type) {
    case DType::kUint8:
      return store(from, static_cast<uint8_t*>(to) + offset, n);
    case DType::kHalf:
      return store(from, static_cast<Half*>(to) + offset, n);
    case DType::kBFloat16:
      return store(from, static_cast<BFloat16*>(to) + offset, n);
    case DType::kFloat:
      return store(from, static_cast<float*>(to) + offset, n);
  }
}

// Buffers that one thread uses for one strip after another.
struct Strip {
  std::vector<float> source, sums, row;
};

// One plane of the output: a channel, or `group` interleaved ones.
class Plane {
 public:
  Plane(const ApplyArgs& args, const Plan& plan, int64_t picture, int64_t channel, int64_t group)
      : a(args),
        plan(plan),
        reach(plan.reach),
        picture(picture),
        channel(channel),
        group(group),
        window(args.windows ? args.windows[picture] : Window{0, 0, 0}) {}

  // Rows [row, row + rows).
  void blur(Strip& strip, int64_t row, int64_t rows) const {
    const int64_t whole = (rows + kRows - 1) / kRows * kRows;
    stage(strip, row, whole);
    strip.sums.resize(std::max<size_t>(strip.sums.size(), whole * plan.blocks));
    const float* origin = strip.source.data() + reach.top * plan.pitch + reach.left * group;
    for (int64_t j = 0; j < plan.blocks; j += kColumns)  // a block's columns of all rows stay in the first cache
      for (int64_t i = 0; i < whole; i += kRows)
        convolve_block(origin + i * plan.pitch + j, plan.taps, strip.sums.data() + i * plan.blocks + j, plan.blocks);
    for (int64_t i = 0; i < rows; ++i) finish(strip, strip.sums.data() + i * plan.blocks, row + i);
  }

 private:
  // The rows that the strip's output reads, with the borders around them.
  void stage(Strip& strip, int64_t row, int64_t rows) const {
    const int64_t count = rows + reach.top + reach.bottom;
    strip.source.resize(std::max<size_t>(strip.source.size(), count * plan.pitch));
    const int64_t left = window.left - reach.left, right = window.left + a.out_w + reach.right;
    const int64_t inner_left = std::clamp<int64_t>(left, 0, a.w), inner_right = std::clamp<int64_t>(right, 0, a.w);
    for (int64_t i = 0; i < count; ++i) {
      float* to = strip.source.data() + i * plan.pitch;
      const int64_t y = border_index(window.top + row + i - reach.top, a.h, a.padding);
      if (y < 0) {
        std::fill_n(to, plan.pitch, 0.0f);
        continue;
      }
      load(a.image_type, a.image, address(a.image_stride, y, inner_left), to + (inner_left - left) * group,
           (inner_right - inner_left) * group);
      for (int64_t x = left; x < inner_left; ++x) stage_border(to, left, x, y);
      for (int64_t x = std::max(left, inner_right); x < right; ++x) stage_border(to, left, x, y);
      if (a.gamma != 1.0f && !a.linear) to_power(to, (right - left) * group, 1.0f / a.white, a.gamma, 1.0f);
    }
  }

  void stage_border(float* to, int64_t left, int64_t x, int64_t y) const {
    const int64_t from = border_index(x, a.w, a.padding);
    if (from < 0)
      std::fill_n(to + (x - left) * group, group, 0.0f);
    else
      load(a.image_type, a.image, address(a.image_stride, y, from), to + (x - left) * group, group);
  }

  void finish(Strip& strip, float* x, int64_t row) const {
    if (a.gamma != 1.0f) to_power(x, plan.width, 1.0f, 1.0f / a.gamma, a.white);
    if (window.flip) {
      strip.row.resize(plan.width);
      for (int64_t j = 0; j < a.out_w; ++j)
        std::copy_n(x + (a.out_w - 1 - j) * group, group, strip.row.data() + j * group);
      x = strip.row.data();
    }
    if (a.noise) {
      const float deviation = a.noise[picture] * a.white;
      const uint64_t seed = a.draws.the_seed(), index = a.draws.index(picture);
      const uint64_t first = static_cast<uint64_t>((channel * a.out_h + row) * a.out_w);
      if (group == 1)
        add_noise(x, plan.width, deviation, seed, index, first);
      else
        for (int64_t k = 0; k < group; ++k)
          for (int64_t j = 0; j < a.out_w; ++j)
            x[j * group + k] +=
                deviation * pixel_noise(seed, index, first + static_cast<uint64_t>(k * a.out_h * a.out_w + j));
    }
    if (a.is_signed) to_signed(x, plan.width, a.white);
    store(a.out_type, x, a.out, address(a.out_stride, row, 0), plan.width);
  }

  int64_t address(const int64_t* stride, int64_t y, int64_t x) const {
    return picture * stride[0] + channel * stride[1] + y * stride[2] + x * stride[3];
  }

  const ApplyArgs& a;
  const Plan& plan;
  const Reach& reach;
  const int64_t picture, channel, group;
  const Window window;
};

}  // namespace

void choices_cpu(const ChoicesArgs& a, int64_t threads) {
  parallel_for<NoScratch>(a.n, std::min(threads, a.n / kWorthAThread), [&](NoScratch&, int64_t i) {
    const Words words = philox(a.draws.the_seed(), a.draws.index(i), 0, kChoices);
    for (int k = 0; k < 4; ++k) a.out[4 * i + k] = uniform(words.v[k]);
  });
}

void random_windows_cpu(const WindowsArgs& a, int64_t threads) {
  parallel_for<NoScratch>(a.n, std::min(threads, a.n / kWorthAThread), [&](NoScratch&, int64_t i) {
    a.out[i] = draw_window(a.draws.the_seed(), a.draws.index(i), a.h, a.w, a.out_h, a.out_w, a.flip);
  });
}

void dropout_mask_cpu(const DropoutArgs& a, int64_t threads) {
  const int64_t parts = (a.groups() + kKept - 1) / kKept;
  parallel_for<KeptWords>(a.n * parts, threads, [&](KeptWords& kept, int64_t task) {
    const int64_t picture = task / parts, first = task % parts * kKept;
    const int64_t count = std::min(kKept, a.groups() - first);
    draw_kept(a, a.draws.the_seed(), a.draws.index(picture), first, count, kept);
    const int64_t elements = std::min(4 * count, a.elements - 4 * first);
    std::copy_n(kept.v, elements, a.out + picture * a.elements + 4 * first);
  });
}

void random_trajectories_cpu(const TrajectoryArgs& a, int64_t threads) {
  parallel_for<Kicks>(a.n, threads, [&](Kicks& kicks, int64_t i) { random_trajectory(a, i, kicks); });
}

void rasterize_psf_cpu(const PsfArgs& a, int64_t threads) {
  parallel_for<std::vector<int64_t>>(a.n, threads,
                                     [&](std::vector<int64_t>& canvas, int64_t i) { rasterize_psf(a, i, canvas); });
}

bool all_within_cpu(const float* values, int64_t n, float low, float high) {
  int64_t outside = 0;
  for (int64_t i = 0; i < n; ++i) outside += !(values[i] >= low && values[i] <= high);
  return outside == 0;
}

int64_t max_taps_cpu(const float* psf, int64_t n, int64_t size) {
  int64_t most = 0;
  for (int64_t i = 0; i < n; ++i) {
    const float* cells = psf + i * size * size;
    most = std::max<int64_t>(most, std::count_if(cells, cells + size * size, [](float x) { return x != 0.0f; }));
  }
  return most;
}

void psf_taps_cpu(const TapsArgs& a, int64_t threads) {
  parallel_for<NoScratch>(a.n, std::min(threads, a.n / 16), [&](NoScratch&, int64_t i) {
    const float* psf = a.psf + i * a.size * a.size;
    int64_t count = 0;
    for (int64_t p = 0; p < a.size; ++p)
      for (int64_t q = 0; q < a.size; ++q) {
        const float weight = psf[p * a.size + q];
        if (weight == 0.0f) continue;
        if (count < a.capacity) {
          const int64_t t = i * a.capacity + count;
          a.offset[2 * t] = static_cast<int32_t>(a.size / 2 - p);
          a.offset[2 * t + 1] = static_cast<int32_t>(a.size / 2 - q);
          a.weight[t] = weight;
        }
        ++count;
      }
    a.count[i] = static_cast<int32_t>(count);
  });
}

void apply_psf_cpu(const ApplyArgs& a, int64_t threads) {
  const bool interleaved = a.c > 1 && a.image_stride[1] == 1;
  const int64_t planes = interleaved ? 1 : a.c, group = interleaved ? a.c : 1;
  std::vector<Plan> plans(a.n);
  parallel_for<NoScratch>(a.n, std::min(threads, a.n / 16),
                          [&](NoScratch&, int64_t i) { plans[i] = plan_of(a, i, group); });
  const int64_t strips = (a.out_h + kStrip - 1) / kStrip;
  parallel_for<Strip>(a.n * planes * strips, threads, [&](Strip& strip, int64_t task) {
    const int64_t plane = task / strips, row = task % strips * kStrip;
    const int64_t picture = plane / planes;
    Plane(a, plans[picture], picture, plane % planes, group).blur(strip, row, std::min(kStrip, a.out_h - row));
  });
}

}  // namespace deblurgan
