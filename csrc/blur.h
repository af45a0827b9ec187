// Camera-shake blur: trajectory -> point spread function (PSF) -> blurred picture. All arrays are contiguous.
#pragma once
#include <cstdint>

namespace deblurgan {

struct TrajectoryArgs {
  const float* anxiety;  // [n]
  float* out;            // [n, steps, 2], (x, y) px
  int64_t n, steps;
  float length;          // px
  uint64_t seed, first;  // path i is that of index first + i
};

struct PsfArgs {
  const float* trajectories;  // [n, steps, 2]
  const float* exposure;      // [n], the share of the path that is exposed, in (0, 1]
  float* out;                 // [n, size, size]
  int64_t n, steps, size;
  bool centered;              // unit sum, centroid on cell size / 2; else as released
};

enum class Padding { kReflect, kReplicate, kZero };

struct ApplyArgs {
  const void* image;  // [n, c, h, w], float or uint8_t
  const float* psf;   // [n, size, size], origin at cell size / 2
  void* out;          // as image
  int64_t n, c, h, w, size;
  bool is_uint8;
  Padding padding;
};

// Four uniform numbers in [0, 1) for each index first + i: what a caller draws beside the path. out is [n, 4].
void choices(uint64_t seed, uint64_t first, int64_t n, float* out);

void random_trajectories_cpu(const TrajectoryArgs& args, int64_t threads);

// Returns how many paths leave the canvas; their PSFs are not written.
int64_t rasterize_psf_cpu(const PsfArgs& args, int64_t threads);

// out[i, j] = sum over p, q of psf[p, q] image[i - (p - size / 2), j - (q - size / 2)], a true convolution.
void apply_psf_cpu(const ApplyArgs& args, int64_t threads);

#ifdef DEBLURGAN_WITH_CUDA
int cuda_device_count();  // 0 without a usable driver
#endif

}  // namespace deblurgan
