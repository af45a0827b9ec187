#include <pybind11/pybind11.h>

#include "blur.h"

namespace py = pybind11;
using namespace deblurgan;

namespace {

template <class T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

Padding padding_of(int value) {
  if (value < 0 || value > 2) throw py::value_error("padding must be 0 (reflect), 1 (replicate) or 2 (zero)");
  return static_cast<Padding>(value);
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Raw-pointer entry points of csrc/; deblurgan.ops checks the arguments.";

  m.def("choices", [](uint64_t seed, uint64_t first, int64_t n, uintptr_t out) {
    choices(seed, first, n, pointer<float>(out));
  });

  m.def("random_trajectories_cpu", [](uintptr_t anxiety, uintptr_t out, int64_t n, int64_t steps, float length,
                                      uint64_t seed, uint64_t first, int64_t threads) {
    const py::gil_scoped_release release;
    random_trajectories_cpu({pointer<const float>(anxiety), pointer<float>(out), n, steps, length, seed, first},
                            threads);
  });

  m.def("rasterize_psf_cpu", [](uintptr_t trajectories, uintptr_t exposure, uintptr_t out, int64_t n, int64_t steps,
                                int64_t size, bool centered, int64_t threads) {
    const py::gil_scoped_release release;
    return rasterize_psf_cpu({pointer<const float>(trajectories), pointer<const float>(exposure), pointer<float>(out),
                              n, steps, size, centered},
                             threads);
  });

  m.def("apply_psf_cpu", [](uintptr_t image, uintptr_t psf, uintptr_t out, int64_t n, int64_t c, int64_t h, int64_t w,
                            int64_t size, bool is_uint8, int padding, int64_t threads) {
    const ApplyArgs args{pointer<const void>(image), pointer<const float>(psf), pointer<void>(out), n, c, h, w, size,
                         is_uint8, padding_of(padding)};
    const py::gil_scoped_release release;
    apply_psf_cpu(args, threads);
  });

#ifdef DEBLURGAN_WITH_CUDA
  m.attr("built_with_cuda") = true;
  m.def("cuda_device_count", &cuda_device_count);
#else
  m.attr("built_with_cuda") = false;
  m.def("cuda_device_count", [] { return 0; });
#endif
}
