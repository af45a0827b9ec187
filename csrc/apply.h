// A picture blurred by the taps of its PSF (see psf.h): out[i, j] = sum over taps of weight * image[i + dy, j + dx], a
// true convolution with the PSF; with gamma, crops, noise and the step to [-1, 1] in the same pass.
//
// Taps and windows are in px; pixel values are in [0, white], white 255 for uint8_t and 1 for floats. The order is
// gamma, highlights, blur, mirroring, sensor, clipping, gamma undone, noise, [-1, 1]. Noise is drawn for the elements
// of the output, see picture.h.
//
// apply_psf_cpu takes the most threads to use; apply_psf_cuda works on the memory of `device`, is queued on its CUDA
// stream `stream`, never waits for it, and throws std::runtime_error where CUDA refuses.
#pragma once
#include <cstdint>

#include "draws.h"
#include "picture.h"

namespace deblurgan {

struct ApplyArgs {
  const void* image;
  void* out;
  int64_t image_stride[4], out_stride[4];  // of n, c, h, w, in elements
  DType image_type, out_type;
  int64_t n, c, h, w, out_h, out_w;
  const int32_t* offset;  // the taps, as in TapsArgs
  const float* weight;
  const int32_t* count;
  int64_t capacity;
  Padding padding;
  const Window* windows;    // [n], the part of each picture that is wanted; or null
  float white;              // the value of white in the picture, 255 or 1, and in `out` unless `is_signed`
  float gamma;              // averages value^gamma, which is light, rather than values; 1 for values
  const float* highlights;  // [n], light beyond white of values at white; or null
  const Sensor* sensor;     // [n], noise of the averaged light; or null
  float* light;             // as many floats as `image` has elements, for CUDA to use if averages_light; or null
  const float* noise;       // [n], standard deviation as a share of white; or null
  Draws draws;              // of both noises
  bool is_signed;           // `out` holds 2 value / white - 1, in [-1, 1]
};

// Whether the averaged light is clipped to [0, 1].
DEBLURGAN_INLINE bool clips_light(const ApplyArgs& a) { return a.highlights || a.sensor; }

// Whether light, 1 at white, is averaged rather than values.
DEBLURGAN_INLINE bool averages_light(const ApplyArgs& a) { return a.gamma != 1.0f || clips_light(a); }

// How many taps of a picture's PSF were stored: those past the capacity were not.
DEBLURGAN_INLINE int64_t taps_of(const ApplyArgs& a, int64_t picture) {
  return a.count[picture] < a.capacity ? a.count[picture] : a.capacity;
}

// Each picture must be contiguous within itself, either [c, h, w] or [h, w, c]; on CUDA any strides do if values are
// averaged.
void apply_psf_cpu(const ApplyArgs& args, int64_t threads);

#ifdef DEBLURGAN_WITH_CUDA
void apply_psf_cuda(const ApplyArgs& args, int device, void* stream);
#endif

}  // namespace deblurgan
