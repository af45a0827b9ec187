#include "apply.h"

#include <algorithm>
#include <vector>

#include "clones.h"
#include "convolve.h"
#include "parallel.h"

namespace deblurgan {
namespace {

// How far a picture's taps go beyond the output pixel, in px, each >= 0.
struct TapExtent {
  int64_t top = 0, bottom = 0, left = 0, right = 0;
};

TapExtent extent_of(const ApplyArgs& a, int64_t picture) {
  TapExtent extent;
  const int32_t* offset = a.offset + picture * a.capacity * 2;
  for (int64_t t = 0; t < taps_of(a, picture); ++t) {
    const int64_t dy = offset[2 * t], dx = offset[2 * t + 1];
    extent.top = std::max(extent.top, -dy);
    extent.bottom = std::max(extent.bottom, dy);
    extent.left = std::max(extent.left, -dx);
    extent.right = std::max(extent.right, dx);
  }
  return extent;
}

constexpr int64_t kStrip = 32;  // output rows a task, a multiple of kRows

// How to blur one picture. `group` channels that lie interleaved are blurred as one plane: like a single channel whose
// taps are `group` elements apart.
struct BlurPlan {
  TapExtent extent;
  int64_t width = 0, blocks = 0, pitch = 0;  // elements of an output row, rounded up to blocks, and of a source row
  RowTaps taps;
  float highlight = 0.0f;
  std::vector<float> light;  // of each level, where light of a uint8 picture is averaged
};

DEBLURGAN_CLONES void to_light(float* x, int64_t n, float scale, float gamma, float highlight) {
  for (int64_t i = 0; i < n; ++i) x[i] = light_of(scale * x[i], gamma, highlight);
}

BlurPlan plan_of(const ApplyArgs& a, int64_t picture, int64_t group) {
  BlurPlan plan;
  const TapExtent extent = plan.extent = extent_of(a, picture);
  plan.width = a.out_w * group;
  plan.blocks = (plan.width + kColumns - 1) / kColumns * kColumns;
  plan.pitch = plan.blocks + (extent.left + extent.right) * group;
  // the part of the PSF that has taps, with kRows - 1 empty rows above and below: output row i reads at dy what row
  // i + 1 reads at dy - 1
  const int64_t columns = extent.left + extent.right + 1, rows = extent.top + extent.bottom + 1;
  std::vector<float> weights((rows + 2 * (kRows - 1)) * columns);
  const int32_t* offset = a.offset + picture * a.capacity * 2;
  for (int64_t t = 0; t < taps_of(a, picture); ++t)
    weights[(offset[2 * t] + extent.top + kRows - 1) * columns + offset[2 * t + 1] + extent.left] =
        a.weight[picture * a.capacity + t];
  for (int64_t y = 0; y < rows + kRows - 1; ++y)
    for (int64_t x = 0; x < columns; ++x) {
      RowTap tap{(y - extent.top) * plan.pitch + (x - extent.left) * group, {}};
      for (int64_t i = 0; i < kRows; ++i) tap.weight[i] = weights[(y + kRows - 1 - i) * columns + x];
      for (int64_t first = 0; first < kRows; ++first) {
        int64_t count = 0;
        while (first + count < kRows && tap.weight[first + count] != 0.0f) ++count;
        if (count > 0) plan.taps.of[first][count - 1].push_back(tap);
        first += count;
      }
    }
  if (a.highlights) plan.highlight = a.highlights[picture];
  if (a.image_type == DType::kUint8 && averages_light(a)) {  // a third of the time of a power for each pixel
    plan.light.resize(256);
    for (int64_t level = 0; level < 256; ++level) plan.light[level] = static_cast<float>(level);
    to_light(plan.light.data(), 256, 1.0f / a.white, a.gamma, plan.highlight);
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

DEBLURGAN_CLONES void to_values(float* x, int64_t n, float gamma, float white) {
  if (gamma == 1.0f)
    for (int64_t i = 0; i < n; ++i) x[i] *= white;
  else
    for (int64_t i = 0; i < n; ++i) x[i] = power_positive(x[i], 1.0f / gamma) * white;
}

DEBLURGAN_CLONES void clip(float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] = clipped(x[i]);
}

DEBLURGAN_CLONES void to_signed(float* x, int64_t n, float white) {
  for (int64_t i = 0; i < n; ++i) x[i] = signed_value(x[i], white);
}

// Turns the order of pixels round; kGroup is the number of a pixel's elements, known to the compiler unless it is 0.
template <int64_t kGroup>
DEBLURGAN_INLINE void mirror(const float* from, float* to, int64_t pixels, int64_t group) {
  if (kGroup > 0) group = kGroup;
  for (int64_t j = 0; j < pixels; ++j)
    for (int64_t k = 0; k < group; ++k) to[j * group + k] = from[(pixels - 1 - j) * group + k];
}

DEBLURGAN_CLONES void mirror(const float* from, float* to, int64_t pixels, int64_t group) {
  if (group == 1) return mirror<1>(from, to, pixels, group);
  if (group == 3) return mirror<3>(from, to, pixels, group);
  if (group == 4) return mirror<4>(from, to, pixels, group);
  mirror<0>(from, to, pixels, group);
}

// Normal numbers for the elements of pairs first, first + 1, ... of a picture, two a pair.
DEBLURGAN_CLONES void draw_normals(float* normal, int64_t pairs, RngStream purpose, uint64_t seed, uint64_t index,
                                   uint64_t first) {
  for (int64_t i = 0; i < pairs; ++i) {
    const Complex drawn = noise_pair(purpose, seed, index, first + static_cast<uint64_t>(i));
    normal[2 * i] = drawn.re;
    normal[2 * i + 1] = drawn.im;
  }
}

DEBLURGAN_CLONES void add_noise(float* x, const float* normal, int64_t n, float deviation) {
  for (int64_t i = 0; i < n; ++i) x[i] += deviation * normal[i];
}

DEBLURGAN_CLONES void sense(float* x, const float* normal, int64_t n, Sensor sensor) {
  for (int64_t i = 0; i < n; ++i) x[i] = sensed(x[i], sensor, normal[i]);
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

// Memory that a thread uses for one strip of output rows after another.
struct StripBuffers {
  std::vector<float> source, sums, row, drawn, normal;
};

// One plane of the output: a channel, or `group` interleaved ones.
class Plane {
 public:
  Plane(const ApplyArgs& args, const BlurPlan& plan, int64_t picture, int64_t channel, int64_t group)
      : a(args),
        plan(plan),
        extent(plan.extent),
        picture(picture),
        channel(channel),
        group(group),
        window(args.windows ? args.windows[picture] : Window{0, 0, 0}) {}

  // Output rows [row, row + rows).
  void blur(StripBuffers& strip, int64_t row, int64_t rows) const {
    const int64_t whole = (rows + kRows - 1) / kRows * kRows;
    stage(strip, row, whole);
    strip.sums.resize(std::max<size_t>(strip.sums.size(), whole * plan.blocks));
    const float* origin = strip.source.data() + extent.top * plan.pitch + extent.left * group;
    for (int64_t j = 0; j < plan.blocks; j += kColumns)  // a block's columns of all rows stay in the first cache
      for (int64_t i = 0; i < whole; i += kRows)
        convolve_block(origin + i * plan.pitch + j, plan.taps, strip.sums.data() + i * plan.blocks + j, plan.blocks);
    for (int64_t i = 0; i < rows; ++i) finish(strip, strip.sums.data() + i * plan.blocks, row + i);
  }

 private:
  // Fills strip.source with the rows that the strip's output reads, and the borders around them, as floats.
  void stage(StripBuffers& strip, int64_t row, int64_t rows) const {
    const int64_t count = rows + extent.top + extent.bottom;
    strip.source.resize(std::max<size_t>(strip.source.size(), count * plan.pitch));
    const int64_t left = window.left - extent.left, right = window.left + a.out_w + extent.right;
    const int64_t inner_left = std::clamp<int64_t>(left, 0, a.w), inner_right = std::clamp<int64_t>(right, 0, a.w);
    for (int64_t i = 0; i < count; ++i) {
      float* to = strip.source.data() + i * plan.pitch;
      const int64_t y = border_index(window.top + row + i - extent.top, a.h, a.padding);
      if (y < 0) {
        std::fill_n(to, plan.pitch, 0.0f);
        continue;
      }
      float* inner = to + (inner_left - left) * group;
      load_pixels(y, inner_left, inner, inner_right - inner_left);
      const auto border = [&](int64_t x) {
        float* pixel = to + (x - left) * group;
        const int64_t from = border_index(x, a.w, a.padding);
        if (from < 0)
          std::fill_n(pixel, group, 0.0f);
        else if (from >= inner_left && from < inner_right)  // most have been loaded already
          for (int64_t k = 0; k < group; ++k) pixel[k] = inner[(from - inner_left) * group + k];
        else
          load_pixels(y, from, pixel, 1);
      };
      for (int64_t x = left; x < inner_left; ++x) border(x);
      for (int64_t x = std::max(left, inner_right); x < right; ++x) border(x);
      if (averages_light(a) && plan.light.empty())
        to_light(to, (right - left) * group, 1.0f / a.white, a.gamma, plan.highlight);
    }
  }

  void load_pixels(int64_t y, int64_t x, float* to, int64_t pixels) const {
    const int64_t from = address(a.image_stride, y, x);
    if (plan.light.empty()) return load(a.image_type, a.image, from, to, pixels * group);
    const uint8_t* levels = static_cast<const uint8_t*>(a.image) + from;
    for (int64_t i = 0; i < pixels * group; ++i) to[i] = plan.light[levels[i]];
  }

  // Does to one row of sums what follows the blur, and stores it.
  void finish(StripBuffers& strip, float* x, int64_t row) const {
    if (window.flip) {
      strip.row.resize(plan.width);
      mirror(x, strip.row.data(), a.out_w, group);
      x = strip.row.data();
    }
    if (a.sensor) sense(x, normals(strip, kSensor, row), plan.width, a.sensor[picture]);
    if (clips_light(a)) clip(x, plan.width);
    if (averages_light(a)) to_values(x, plan.width, a.gamma, a.white);
    if (a.noise) add_noise(x, normals(strip, kNoise, row), plan.width, a.noise[picture] * a.white);
    if (a.is_signed) to_signed(x, plan.width, a.white);
    store(a.out_type, x, a.out, address(a.out_stride, row, 0), plan.width);
  }

  // Normal numbers for a row's elements.
  const float* normals(StripBuffers& strip, RngStream purpose, int64_t row) const {
    strip.normal.resize(plan.width);
    for (int64_t k = 0; k < group; ++k) {
      const int64_t first = ((channel + k) * a.out_h + row) * a.out_w;
      const int64_t skipped = first & 1, pairs = (skipped + a.out_w + 1) / 2;
      strip.drawn.resize(2 * pairs);
      draw_normals(strip.drawn.data(), pairs, purpose, a.draws.the_seed(), a.draws.index(picture),
                   static_cast<uint64_t>(first) >> 1);
      const float* drawn = strip.drawn.data() + skipped;
      if (group == 1) return drawn;
      for (int64_t j = 0; j < a.out_w; ++j) strip.normal[j * group + k] = drawn[j];
    }
    return strip.normal.data();
  }

  int64_t address(const int64_t* stride, int64_t y, int64_t x) const {
    return picture * stride[0] + channel * stride[1] + y * stride[2] + x * stride[3];
  }

  const ApplyArgs& a;
  const BlurPlan& plan;
  const TapExtent& extent;
  const int64_t picture, channel, group;
  const Window window;
};

constexpr double kPlanCost = 4000.0;  // ns, of a plan

// About how many ns of work an element of the output is, with AVX2.
double element_cost(const ApplyArgs& a) {
  int64_t taps = 0;
  for (int64_t i = 0; i < a.n; ++i) taps += taps_of(a, i);
  const double multiply_adds = static_cast<double>(taps) / static_cast<double>(std::max<int64_t>(a.n, 1));
  return 0.025 * multiply_adds + 0.5 + (a.gamma != 1.0f ? 3.0 : 0.0) + (a.noise ? 4.0 : 0.0) + (a.sensor ? 5.0 : 0.0);
}

}  // namespace

void apply_psf_cpu(const ApplyArgs& a, int64_t threads) {
  const bool interleaved = a.c > 1 && a.image_stride[1] == 1;
  const int64_t planes = interleaved ? 1 : a.c, group = interleaved ? a.c : 1;
  std::vector<BlurPlan> plans(a.n);
  parallel_for<NoScratch>(a.n, kPlanCost, threads, [&](NoScratch&, int64_t i) { plans[i] = plan_of(a, i, group); });
  const int64_t strips = (a.out_h + kStrip - 1) / kStrip;
  const double strip_cost = element_cost(a) * static_cast<double>(std::min(kStrip, a.out_h) * a.out_w * group);
  parallel_for<StripBuffers>(a.n * planes * strips, strip_cost, threads, [&](StripBuffers& strip, int64_t task) {
    const int64_t plane = task / strips, row = task % strips * kStrip;
    const int64_t picture = plane / planes;
    Plane(a, plans[picture], picture, plane % planes, group).blur(strip, row, std::min(kStrip, a.out_h - row));
  });
}

}  // namespace deblurgan
