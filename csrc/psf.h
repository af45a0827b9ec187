// Point spread functions (PSFs): a path (px) drawn onto a canvas of size x size cells of 1 px, and the PSF's taps.
//
// Canvases add up integers, so the result does not depend on the order of the sums: every number of threads and every
// device gives the same bytes. Mode "released" follows generate_PSF.py of the released DeblurGAN code.
//
// *_cpu functions take the most threads to use; *_cuda functions work on the memory of `device`, are queued on its CUDA
// stream `stream`, never wait for it, and throw std::runtime_error where CUDA refuses.
#pragma once
#include <cmath>
#include <cstdint>

#include "maths.h"

namespace deblurgan {

constexpr double kUnit = 4294967296.0;   // one sample's weight on the canvas
constexpr double kPosition = 1048576.0;  // one pixel, where positions are summed up
constexpr float kFarthest = 1048576.0f;  // px; a position beyond it, or NaN, lies outside every canvas

// Which samples of a path are exposed: 1 ... full wholly, sample full + 1 by the share `part`. Sample 0 is never used,
// as in the released code. None is outside the path, whatever the share.
struct Exposure {
  int64_t full;
  double part;  // [0, 1)
};

DEBLURGAN_INLINE Exposure exposure_of(float share, int64_t steps) {
  const float bounded = share > 0.0f ? (share < 1.0f ? share : 1.0f) : 0.0f;  // NaN counts as 0
  const double end = static_cast<double>(bounded) * static_cast<double>(steps);
  const int64_t full = static_cast<int64_t>(end);
  return full >= steps - 1 ? Exposure{steps - 1, 0.0} : Exposure{full, end - static_cast<double>(full)};
}

DEBLURGAN_INLINE int64_t samples_of(const Exposure& e) { return e.full + (e.part > 0.0 ? 1 : 0); }

DEBLURGAN_INLINE int64_t weight_of(const Exposure& e, int64_t t) {
  return static_cast<int64_t>((t <= e.full ? 1.0 : e.part) * kUnit);
}

// What the canvas is divided by: its own sum (centered), or the weight of all samples, exposed or not (released).
DEBLURGAN_INLINE double total_of(const Exposure& e, int64_t steps, bool centered) {
  return centered ? static_cast<double>(e.full) * kUnit + static_cast<double>(static_cast<int64_t>(e.part * kUnit))
                  : static_cast<double>(steps) * kUnit;
}

DEBLURGAN_INLINE bool near_enough(float x) { return x >= -kFarthest && x <= kFarthest; }

DEBLURGAN_INLINE int64_t fixed_position(float x) {
  return static_cast<int64_t>(floor(static_cast<double>(x) * kPosition + 0.5));
}

// The shift along one axis, in px, that puts the exposed path's centroid on the origin cell. `sum` is the sum of
// fixed_position over the wholly exposed samples, `last` the fixed_position of the sample after them.
DEBLURGAN_INLINE double centroid_offset(const Exposure& e, int64_t sum, int64_t last, int64_t size) {
  const double weighted = static_cast<double>(sum) + e.part * static_cast<double>(last);
  const double count = static_cast<double>(e.full) + e.part;
  return static_cast<double>(size / 2) - weighted / count / kPosition;
}

// Along one axis, where the released code puts the path: start on a whole pixel, then push by half the room that the
// maximum leaves.
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

struct PsfArgs {
  const float* trajectories;  // [n, steps, 2]
  const float* exposure;      // [n], the share of the path that is exposed, in (0, 1]
  float* out;                 // [n, size, size]; NaN where a path leaves the canvas
  int64_t* canvas;            // [n, size, size], scratch memory filled with zeros; CUDA only, else null
  int64_t n, steps, size;
  bool centered;  // unit sum, centroid on cell size / 2; else as in the released code
};

// A tap is a non-zero cell: it reads the pixel at (dy, dx) px from the output pixel.
struct TapsArgs {
  const float* psf;  // [n, size, size], origin at cell size / 2
  int32_t* offset;   // [n, capacity, 2], (dy, dx), by rows of the PSF
  float* weight;     // [n, capacity]
  int32_t* count;    // [n], how many cells are not zero; those past the capacity are not stored
  int64_t n, size, capacity;
};

void rasterize_psf_cpu(const PsfArgs& args, int64_t threads);
int64_t max_taps_cpu(const float* psf, int64_t n, int64_t size);  // the most non-zero cells of any of n PSFs
void psf_taps_cpu(const TapsArgs& args, int64_t threads);

#ifdef DEBLURGAN_WITH_CUDA
void rasterize_psf_cuda(const PsfArgs& args, int device, void* stream);
void psf_taps_cuda(const TapsArgs& args, int device, void* stream);
#endif

}  // namespace deblurgan
