#include <cuda_runtime.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "blur_kernels.cuh"

namespace deblurgan {
namespace {

void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

// Makes `device` the calling thread's CUDA device while the guard lives.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    check(cudaGetDevice(&before_), "cudaGetDevice");
    check(cudaSetDevice(device), "cudaSetDevice");
  }
  ~DeviceGuard() { cudaSetDevice(before_); }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int before_ = 0;
};

// `work` is how many items (paths, tiles, ...) there are for blocks to take.
template <class Args>
void launch(void (*kernel)(Args), const char* name, int64_t work, const Args& args, int device, void* stream) {
  if (work == 0) return;
  const DeviceGuard guard(device);
  const unsigned blocks = static_cast<unsigned>(std::min<int64_t>(work, kMostBlocks));
  kernel<<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(args);
  check(cudaGetLastError(), name);
}

int64_t blocks_of(int64_t n, int64_t block) { return (n + block - 1) / block; }

}  // namespace

int cuda_device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

void uniforms_cuda(const UniformsArgs& a, int device, void* stream) {
  launch(uniforms_kernel, "uniforms", blocks_of(a.n, kThreads), a, device, stream);
}

void random_windows_cuda(const WindowsArgs& a, int device, void* stream) {
  launch(windows_kernel, "random_windows", blocks_of(a.n, kThreads), a, device, stream);
}

void dropout_mask_cuda(const DropoutArgs& a, int device, void* stream) {
  launch(dropout_kernel, "dropout_mask", blocks_of(a.n * a.groups(), kThreads), a, device, stream);
}

void random_trajectories_cuda(const TrajectoryArgs& a, int device, void* stream) {
  launch(trajectories_kernel, "random_trajectories", a.n, a, device, stream);
}

void rasterize_psf_cuda(const PsfArgs& a, int device, void* stream) {
  launch(psf_kernel, "rasterize_psf", a.n, a, device, stream);
}

void psf_taps_cuda(const TapsArgs& a, int device, void* stream) {
  launch(taps_kernel, "psf_taps", a.n, a, device, stream);
}

void apply_psf_cuda(const ApplyArgs& a, int device, void* stream) {
  const int64_t tiles = a.n * blocks_of(a.out_w, kTileWidth) * blocks_of(a.out_h, kTileHeight);
  const auto blur = [&](auto pixel) {
    using Pixel = decltype(pixel);
    if (!averages_light(a)) return launch(apply_kernel<Pixel, false>, "apply_psf", tiles, a, device, stream);
    launch(light_kernel<Pixel>, "light of apply_psf", a.n * light_parts(a), a, device, stream);
    const auto kernel = clips_light(a) ? apply_kernel<float, true> : apply_kernel<float, false>;
    launch(kernel, "apply_psf", tiles, of_light(a), device, stream);
  };
  switch (a.image_type) {
    case DType::kUint8:
      return blur(uint8_t{});
    case DType::kHalf:
      return blur(Half{});
    case DType::kBFloat16:
      return blur(BFloat16{});
    case DType::kFloat:
      return blur(float{});
  }
}

}  // namespace deblurgan
