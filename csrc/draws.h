// Numbers drawn at random: what names a draw, uniform numbers, crop windows and dropout masks.
//
// Philox4x32-10 (Salmon et al. 2011) gives four random words for each (seed, picture index, draw, RNG stream), so a
// draw does not depend on the batch or the number of threads, and CPU and CUDA give the same bytes. Windows are in px.
// *_cpu functions take the most threads to use; *_cuda functions work on the memory of `device`, are queued on its CUDA
// stream `stream`, never wait for it, and throw std::runtime_error where CUDA refuses.
#pragma once
#include <cstdint>

#include "maths.h"

namespace deblurgan {

// The last word of Philox's counter tells draws for different purposes apart. kNoise and kSensor take the bits above 8
// for pixels past 2^34; kDropout is the first of as many as a network has masks.
enum RngStream : uint32_t {
  kSteps = 0,
  kSetup = 1,
  kUniforms = 2,
  kNoise = 3,
  kWindow = 4,
  kSensor = 5,
  kDropout = 16
};

// Names the draws of pictures first, first + 1, ...
struct Draws {
  uint64_t seed, first;
  // {seed, first} in the device's memory, used instead of the two above unless null: each replay of a CUDA graph reads
  // it, so that replays differ
  const int64_t* counter;

  DEBLURGAN_INLINE uint64_t the_seed() const { return counter ? static_cast<uint64_t>(counter[0]) : seed; }
  DEBLURGAN_INLINE uint64_t index(int64_t i) const {
    return (counter ? static_cast<uint64_t>(counter[1]) : first) + static_cast<uint64_t>(i);
  }
};

// Four uniform numbers a picture.
struct UniformsArgs {
  Draws draws;
  float* out;  // [n, 4] in [0, 1)
  int64_t n;
};

// The part of a picture that a crop takes, from (top, left) on; `flip` is 1 where it is mirrored left to right, else 0.
struct Window {
  int64_t top, left, flip;
};

// A window of out_h x out_w somewhere in a picture of h x w, 1 <= out_h <= h, 1 <= out_w <= w, both < 2^31. `flip`:
// half of the draws are mirrored.
DEBLURGAN_INLINE Window draw_window(uint64_t seed, uint64_t index, int64_t h, int64_t w, int64_t out_h, int64_t out_w,
                                    bool flip) {
  const Words words = philox(seed, index, 0, kWindow);
  const uint64_t rows = static_cast<uint64_t>(h - out_h + 1), columns = static_cast<uint64_t>(w - out_w + 1);
  return {static_cast<int64_t>((words.v[0] * rows) >> 32), static_cast<int64_t>((words.v[1] * columns) >> 32),
          flip ? static_cast<int64_t>(words.v[2] >> 31) : 0};
}

// Windows of out_h x out_w in pictures of h x w.
struct WindowsArgs {
  Draws draws;
  Window* out;  // [n]
  int64_t n, h, w, out_h, out_w;
  bool flip;
};

// Element e of picture i is kept where word e % 4 of counter (index i, e / 4, kDropout + rng_stream) is at least
// `threshold`, which is the probability of dropping times 2^32.
struct DropoutArgs {
  Draws draws;
  bool* out;            // [n, elements]
  int64_t n, elements;  // at most 2^34 elements
  uint32_t threshold, rng_stream;

  DEBLURGAN_INLINE int64_t groups() const { return (elements + 3) / 4; }
};

// For four elements, 1 where dropout keeps the element, else 0.
DEBLURGAN_INLINE Words keep_words(const DropoutArgs& a, uint64_t seed, uint64_t index, int64_t group) {
  Words words = philox(seed, index, static_cast<uint32_t>(group), kDropout + a.rng_stream);
  for (uint32_t& word : words.v) word = word >= a.threshold;
  return words;
}

void uniforms_cpu(const UniformsArgs& args, int64_t threads);
void random_windows_cpu(const WindowsArgs& args, int64_t threads);
void dropout_mask_cpu(const DropoutArgs& args, int64_t threads);

#ifdef DEBLURGAN_WITH_CUDA
void uniforms_cuda(const UniformsArgs& args, int device, void* stream);
void random_windows_cuda(const WindowsArgs& args, int device, void* stream);
void dropout_mask_cuda(const DropoutArgs& args, int device, void* stream);
#endif

}  // namespace deblurgan
