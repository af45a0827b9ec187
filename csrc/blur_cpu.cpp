#include "blur.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "parallel.h"
#include "trajectory.h"

// The inner loop is built for three instruction sets and picked when the library loads. Contraction into fma is off, so
// all three give the same bytes.
#ifndef DEBLURGAN_CLONES
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define DEBLURGAN_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define DEBLURGAN_CLONES
#endif
#endif

namespace deblurgan {
namespace {

struct Tap {
  int64_t dy, dx;  // where the tap reads, relative to the output pixel
  float weight;
};

// A tap of one strip: how far its pixel lies from the output's in the strip's buffer.
struct FlatTap {
  int64_t offset;
  float weight;
};

struct Support {
  std::vector<Tap> taps;
  int64_t top = 0, bottom = 0, left = 0, right = 0;  // how far the taps reach, each >= 0
};

Support support_of(const float* psf, int64_t size) {
  Support support;
  const int64_t origin = size / 2;
  for (int64_t p = 0; p < size; ++p)
    for (int64_t q = 0; q < size; ++q) {
      const float weight = psf[p * size + q];
      if (weight == 0.0f) continue;
      const Tap tap{origin - p, origin - q, weight};
      support.taps.push_back(tap);
      support.top = std::max(support.top, -tap.dy);
      support.bottom = std::max(support.bottom, tap.dy);
      support.left = std::max(support.left, -tap.dx);
      support.right = std::max(support.right, tap.dx);
    }
  return support;
}

// The pixel that stands at position i of a line of n pixels continued past its ends; -1 where it is zero.
int64_t border_index(int64_t i, int64_t n, Padding padding) {
  if (i >= 0 && i < n) return i;
  if (padding == Padding::kZero) return -1;
  if (padding == Padding::kReplicate || n == 1) return i < 0 ? 0 : n - 1;
  const int64_t period = 2 * (n - 1);
  i = std::abs(i) % period;
  return i < n ? i : period - i;
}

constexpr int64_t kStrip = 32;  // output rows a task

// Sixteen neighbouring pixels, at any address.
typedef float Lanes __attribute__((vector_size(64), aligned(4), may_alias));
constexpr int kSums = 8;               // Lanes whose sums stay in registers
constexpr int64_t kBlock = 16 * kSums;  // output columns at a time

// out[j] = sum over taps of weight * source[j + offset], j in [0, width), width a multiple of kBlock
DEBLURGAN_CLONES void convolve_row(const float* source, const FlatTap* taps, int64_t tap_count, float* out,
                                   int64_t width) {
  for (int64_t j = 0; j < width; j += kBlock) {
    Lanes sums[kSums] = {};
    for (int64_t t = 0; t < tap_count; ++t) {
      const Lanes* x = reinterpret_cast<const Lanes*>(source + j + taps[t].offset);
      const float weight = taps[t].weight;
#pragma GCC unroll 8
      for (int k = 0; k < kSums; ++k) sums[k] += weight * x[k];
    }
    Lanes* to = reinterpret_cast<Lanes*>(out + j);
#pragma GCC unroll 8
    for (int k = 0; k < kSums; ++k) to[k] = sums[k];
  }
}

float load(float value) { return value; }
float load(uint8_t value) { return static_cast<float>(value); }
void store(float value, float& out) { out = value; }
void store(float value, uint8_t& out) { out = static_cast<uint8_t>(std::min(255.0f, std::max(0.0f, value + 0.5f))); }

// Rows [row, row + rows) of one plane.
template <class T>
void blur_strip(const T* image, T* out, int64_t h, int64_t w, int64_t row, int64_t rows, const Support& support,
                Padding padding) {
  const int64_t blocks = (w + kBlock - 1) / kBlock * kBlock;
  const int64_t pitch = blocks + support.left + support.right;
  std::vector<int64_t> column(w + support.left + support.right);
  for (size_t j = 0; j < column.size(); ++j)
    column[j] = border_index(static_cast<int64_t>(j) - support.left, w, padding);
  std::vector<float> source((rows + support.top + support.bottom) * pitch);
  for (int64_t i = 0; i < rows + support.top + support.bottom; ++i) {
    const int64_t from = border_index(row + i - support.top, h, padding);
    if (from < 0) continue;
    for (size_t j = 0; j < column.size(); ++j)
      if (column[j] >= 0) source[i * pitch + j] = load(image[from * w + column[j]]);
  }
  std::vector<FlatTap> taps;
  taps.reserve(support.taps.size());
  for (const Tap& tap : support.taps) taps.push_back({tap.dy * pitch + tap.dx, tap.weight});
  std::vector<float> sums(blocks);
  for (int64_t i = 0; i < rows; ++i) {
    convolve_row(source.data() + (i + support.top) * pitch + support.left, taps.data(),
                 static_cast<int64_t>(taps.size()), sums.data(), blocks);
    for (int64_t j = 0; j < w; ++j) store(sums[j], out[(row + i) * w + j]);
  }
}

template <class T>
void apply_psf(const ApplyArgs& a, int64_t threads) {
  std::vector<Support> supports(a.n);
  parallel_for(a.n, threads, [&](int64_t i) { supports[i] = support_of(a.psf + i * a.size * a.size, a.size); });
  const int64_t strips = (a.h + kStrip - 1) / kStrip;
  parallel_for(a.n * a.c * strips, threads, [&](int64_t task) {
    const int64_t plane = task / strips, row = task % strips * kStrip;
    blur_strip(static_cast<const T*>(a.image) + plane * a.h * a.w, static_cast<T*>(a.out) + plane * a.h * a.w, a.h, a.w,
               row, std::min(kStrip, a.h - row), supports[plane / a.c], a.padding);
  });
}

// How much of the interval between samples t - 1 and t is exposed; sample 0 is never used, as released.
double exposed(double end, int64_t t) { return std::min(1.0, std::max(0.0, end - static_cast<double>(t - 1))); }

struct Shift {
  double x, y;
};

// Puts the exposed path's centroid on the origin cell.
Shift centroid_shift(const float* path, int64_t steps, double end, int64_t size) {
  double sum = 0.0, x = 0.0, y = 0.0;
  for (int64_t t = 1; t < steps; ++t) {
    const double weight = exposed(end, t);
    sum += weight;
    x += weight * path[2 * t];
    y += weight * path[2 * t + 1];
  }
  const double origin = static_cast<double>(size / 2);
  return {origin - x / sum, origin - y / sum};
}

// The released centring of one axis: start on a whole pixel, then push by half the room that the maximum leaves.
double released_shift(const float* path, int64_t steps, int64_t size) {
  double lowest = path[0], highest = path[0];
  for (int64_t t = 1; t < steps; ++t) {
    lowest = std::min(lowest, static_cast<double>(path[2 * t]));
    highest = std::max(highest, static_cast<double>(path[2 * t]));
  }
  const double start = path[0] - lowest;
  double shift = -lowest - (start - std::floor(start)) + 1.0;
  shift += std::ceil((static_cast<double>(size) - (highest + shift)) / 2.0);
  return shift;
}

// False where the path leaves the canvas.
bool rasterize(const float* path, int64_t steps, double end, Shift shift, int64_t size, std::vector<double>& canvas) {
  for (int64_t t = 1; t < steps; ++t) {
    const double weight = exposed(end, t);
    if (weight == 0.0) break;
    const double x = path[2 * t] + shift.x, y = path[2 * t + 1] + shift.y;
    if (!(x >= 0.0 && y >= 0.0 && x < static_cast<double>(size - 1) && y < static_cast<double>(size - 1))) return false;
    const int64_t column = static_cast<int64_t>(x), row = static_cast<int64_t>(y);
    const double right = x - static_cast<double>(column), down = y - static_cast<double>(row);
    double* cell = canvas.data() + row * size + column;
    cell[0] += weight * (1.0 - right) * (1.0 - down);
    cell[1] += weight * right * (1.0 - down);
    cell[size] += weight * (1.0 - right) * down;
    cell[size + 1] += weight * right * down;
  }
  return true;
}

}  // namespace

void choices(uint64_t seed, uint64_t first, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    const Words words = philox(seed, first + static_cast<uint64_t>(i), 0, kChoices);
    for (int k = 0; k < 4; ++k) out[4 * i + k] = uniform(words.v[k]);
  }
}

void random_trajectories_cpu(const TrajectoryArgs& a, int64_t threads) {
  parallel_for(a.n, threads, [&](int64_t i) {
    random_trajectory(a.out + i * a.steps * 2, a.steps, a.length, a.anxiety[i], a.seed,
                      a.first + static_cast<uint64_t>(i));
  });
}

int64_t rasterize_psf_cpu(const PsfArgs& a, int64_t threads) {
  std::atomic<int64_t> outside{0};
  parallel_for(a.n, threads, [&](int64_t i) {
    const float* path = a.trajectories + i * a.steps * 2;
    const double end = static_cast<double>(a.exposure[i]) * static_cast<double>(a.steps);
    const Shift shift = a.centered ? centroid_shift(path, a.steps, end, a.size)
                                   : Shift{released_shift(path, a.steps, a.size), released_shift(path + 1, a.steps, a.size)};
    std::vector<double> canvas(a.size * a.size);
    if (!rasterize(path, a.steps, end, shift, a.size, canvas)) {
      ++outside;
      return;
    }
    double total = static_cast<double>(a.steps);
    if (a.centered) {
      total = 0.0;
      for (const double value : canvas) total += value;
    }
    float* out = a.out + i * a.size * a.size;
    for (size_t k = 0; k < canvas.size(); ++k) out[k] = static_cast<float>(canvas[k] / total);
  });
  return outside;
}

void apply_psf_cpu(const ApplyArgs& a, int64_t threads) {
  if (a.is_uint8)
    apply_psf<uint8_t>(a, threads);
  else
    apply_psf<float>(a, threads);
}

}  // namespace deblurgan
