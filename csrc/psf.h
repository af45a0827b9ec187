// Rasterising a path, in integers: sums do not depend on their order, so every thread count and device gives the same.
#pragma once
#include "maths.h"

namespace deblurgan {

constexpr double kUnit = 4294967296.0;   // one sample's weight on the canvas
constexpr double kPosition = 1048576.0;  // one pixel, where positions are summed up
constexpr float kFarthest = 1048576.0f;  // px; a position beyond it, or NaN, leaves every canvas

// Samples 1 ... full are exposed whole, sample full + 1 in part. Sample 0 is never used, as released.
struct Exposure {
  int64_t full;
  double part;  // [0, 1)
};

DEBLURGAN_INLINE Exposure exposure_of(float share, int64_t steps) {
  const double end = static_cast<double>(share) * static_cast<double>(steps);
  const int64_t full = static_cast<int64_t>(end);
  return full >= steps - 1 ? Exposure{steps - 1, 0.0} : Exposure{full, end - static_cast<double>(full)};
}

DEBLURGAN_INLINE int64_t samples_of(const Exposure& e) { return e.full + (e.part > 0.0 ? 1 : 0); }

DEBLURGAN_INLINE int64_t weight_of(const Exposure& e, int64_t t) {
  return static_cast<int64_t>((t <= e.full ? 1.0 : e.part) * kUnit);
}

// What the canvas is divided by: its own sum (centered), or all samples, exposed or not (released).
DEBLURGAN_INLINE double total_of(const Exposure& e, int64_t steps, bool centered) {
  return centered ? static_cast<double>(e.full) * kUnit + static_cast<double>(static_cast<int64_t>(e.part * kUnit))
                  : static_cast<double>(steps) * kUnit;
}

DEBLURGAN_INLINE bool in_reach(float x) { return x >= -kFarthest && x <= kFarthest; }

DEBLURGAN_INLINE int64_t fixed_position(float x) {
  return static_cast<int64_t>(floor(static_cast<double>(x) * kPosition + 0.5));
}

// Along one axis, puts the exposed path's centroid on the origin cell; `sum` is that of fixed_position over the samples
// exposed whole, `last` that of the sample after them.
DEBLURGAN_INLINE double centroid_offset(const Exposure& e, int64_t sum, int64_t last, int64_t size) {
  const double weighted = static_cast<double>(sum) + e.part * static_cast<double>(last);
  const double count = static_cast<double>(e.full) + e.part;
  return static_cast<double>(size / 2) - weighted / count / kPosition;
}

// Along one axis, the released placing: start on a whole pixel, then push by half the room that the maximum leaves.
DEBLURGAN_INLINE double released_offset(float first, float lowest, float highest, int64_t size) {
  const double start = static_cast<double>(first) - static_cast<double>(lowest);
  const double shift = -static_cast<double>(lowest) - (start - floor(start)) + 1.0;
  return shift + ceil((static_cast<double>(size) - (static_cast<double>(highest) + shift)) / 2.0);
}

// One sample shared out bilinearly to four cells: cell, its right neighbour, and the two below.
struct Splat {
  bool inside;
  int64_t cell;
  int64_t part[4];
};

DEBLURGAN_INLINE Splat splat(double x, double y, int64_t weight, int64_t size) {
  const double limit = static_cast<double>(size - 1);
  if (!(x >= 0.0 && y >= 0.0 && x < limit && y < limit)) return {false, 0, {0, 0, 0, 0}};
  const int64_t column = static_cast<int64_t>(x), row = static_cast<int64_t>(y);
  const double right = x - static_cast<double>(column), down = y - static_cast<double>(row);
  const double w = static_cast<double>(weight);
  const int64_t b = static_cast<int64_t>(w * right * (1.0 - down));
  const int64_t c = static_cast<int64_t>(w * (1.0 - right) * down);
  const int64_t d = static_cast<int64_t>(w * right * down);
  return {true, row * size + column, {weight - b - c - d, b, c, d}};  // the parts add up to the weight exactly
}

}  // namespace deblurgan
