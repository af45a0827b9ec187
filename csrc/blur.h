// Camera-shake blur: trajectory -> point spread function (PSF) -> taps -> blurred picture.
//
// Arrays are contiguous but for pictures, which bring strides. *_cpu functions take the number of threads; *_cuda
// functions work on device memory, in the order of `stream`, and never wait for it.
#pragma once
#include <cstdint>

#include "picture.h"

namespace deblurgan {

// Names the draws of pictures first, first + 1, ...
struct Draws {
  uint64_t seed, first;
  const int64_t*
      counter;  // {seed, first} in the device's memory instead, so that a CUDA graph's replays differ; or null

  DEBLURGAN_INLINE uint64_t the_seed() const { return counter ? static_cast<uint64_t>(counter[0]) : seed; }
  DEBLURGAN_INLINE uint64_t index(int64_t i) const {
    return (counter ? static_cast<uint64_t>(counter[1]) : first) + static_cast<uint64_t>(i);
  }
};

// What a caller draws beside the path.
struct ChoicesArgs {
  Draws draws;
  float* out;  // [n, 4] in [0, 1)
  int64_t n;
};

struct WindowsArgs {
  Draws draws;
  Window* out;  // [n]
  int64_t n, h, w, out_h, out_w;
  bool flip;
};

// Element e of picture i is kept where word e % 4 of counter (index i, e / 4, kDropout + stream) reaches the threshold.
struct DropoutArgs {
  Draws draws;
  bool* out;            // [n, elements]
  int64_t n, elements;  // at most 2^34 elements
  uint32_t threshold, stream;

  DEBLURGAN_INLINE int64_t groups() const { return (elements + 3) / 4; }
};

DEBLURGAN_INLINE Words keep_words(const DropoutArgs& a, uint64_t seed, uint64_t index, int64_t group) {
  Words words = philox(seed, index, static_cast<uint32_t>(group), kDropout + a.stream);
  for (uint32_t& word : words.v) word = word >= a.threshold;
  return words;
}

struct TrajectoryArgs {
  Draws draws;
  const float* anxiety;  // [n]
  float* out;            // [n, steps, 2], (x, y) px
  int64_t n, steps;
  float length;  // px
};

struct PsfArgs {
  const float* trajectories;  // [n, steps, 2]
  const float* exposure;      // [n], the share of the path that is exposed, in (0, 1]
  float* out;                 // [n, size, size]; NaN where a path leaves the canvas
  int64_t* canvas;            // [n, size, size], zero; CUDA only
  int64_t n, steps, size;
  bool centered;  // unit sum, centroid on cell size / 2; else as released
};

// A tap reads the pixel (dy, dx) away from the output's.
struct TapsArgs {
  const float* psf;  // [n, size, size], origin at cell size / 2
  int32_t* offset;   // [n, capacity, 2], (dy, dx), by rows of the PSF
  float* weight;     // [n, capacity]
  int32_t* count;    // [n] non-zero cells; those past the capacity are not stored
  int64_t n, size, capacity;
};

struct ApplyArgs {
  const void* image;
  void* out;
  int64_t image_stride[4], out_stride[4];  // of n, c, h, w, in elements
  DType image_type, out_type;
  int64_t n, c, h, w, out_h, out_w;
  const int32_t* offset;  // taps as above
  const float* weight;
  const int32_t* count;
  int64_t capacity;
  Padding padding;
  const Window* windows;  // [n], the part of each picture that is wanted; or null
  float white;            // the value of white in the picture, 255 or 1, and in `out` if not `is_signed`
  float gamma;            // averages value^gamma where it is not 1
  bool linear;            // the picture holds (value / white)^gamma already; CUDA needs that if gamma is not 1
  const float* noise;     // [n], standard deviation as a share of white; or null
  Draws draws;            // of the noise
  bool is_signed;         // out is 2 value / white - 1, in [-1, 1]
};

// Taps past the capacity were not stored.
DEBLURGAN_INLINE int64_t taps_of(const ApplyArgs& a, int64_t picture) {
  return a.count[picture] < a.capacity ? a.count[picture] : a.capacity;
}

void choices_cpu(const ChoicesArgs& args, int64_t threads);
void random_windows_cpu(const WindowsArgs& args, int64_t threads);
void dropout_mask_cpu(const DropoutArgs& args, int64_t threads);
void random_trajectories_cpu(const TrajectoryArgs& args, int64_t threads);
void rasterize_psf_cpu(const PsfArgs& args, int64_t threads);
bool all_within_cpu(const float* values, int64_t n, float low, float high);  // false for NaN
int64_t max_taps_cpu(const float* psf, int64_t n, int64_t size);             // the most non-zero cells of a PSF
void psf_taps_cpu(const TapsArgs& args, int64_t threads);

// out[i, j] = sum over taps of weight image[i + dy, j + dx], a true convolution with the PSF. Each picture is either
// NCHW or NHWC within itself.
void apply_psf_cpu(const ApplyArgs& args, int64_t threads);

#ifdef DEBLURGAN_WITH_CUDA
int cuda_device_count();  // 0 without a usable driver

// `stream` belongs to `device`. They throw std::runtime_error where CUDA refuses.
void choices_cuda(const ChoicesArgs& args, int device, void* stream);
void random_windows_cuda(const WindowsArgs& args, int device, void* stream);
void dropout_mask_cuda(const DropoutArgs& args, int device, void* stream);
void random_trajectories_cuda(const TrajectoryArgs& args, int device, void* stream);
void rasterize_psf_cuda(const PsfArgs& args, int device, void* stream);
void psf_taps_cuda(const TapsArgs& args, int device, void* stream);
void apply_psf_cuda(const ApplyArgs& args, int device, void* stream);
#endif

}  // namespace deblurgan
