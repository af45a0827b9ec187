#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <utility>

#include "blur.h"
#include "convolve.h"
#include "norm_act.h"
#include "strips.h"

namespace py = pybind11;
using namespace deblurgan;

namespace {

using Address = uintptr_t;  // 0 for what is not given
using Strides = std::array<int64_t, 4>;

// Where to work: {-1, threads} on the CPU, {device, CUDA stream} on a GPU.
using LaunchTarget = std::pair<int, uint64_t>;

template <class T>
T* pointer(Address address) {
  return reinterpret_cast<T*>(address);
}

template <class Args>
struct EntryPoint {
  using Cpu = void (*)(const Args&, int64_t threads);
  using Gpu = void (*)(const Args&, int device, void* stream);
};

template <class Args>
void run(const Args& args, LaunchTarget target, typename EntryPoint<Args>::Cpu cpu,
         typename EntryPoint<Args>::Gpu gpu) {
  const py::gil_scoped_release release;
  if (target.first < 0)
    cpu(args, static_cast<int64_t>(target.second));
  else if (gpu)
    gpu(args, target.first, reinterpret_cast<void*>(target.second));
  else
    throw std::runtime_error("deblurgan._C was built without CUDA");
}

#ifdef DEBLURGAN_WITH_CUDA
#define DEBLURGAN_GPU(function) function##_cuda
#else
#define DEBLURGAN_GPU(function) nullptr
#endif

Draws draws_of(uint64_t seed, uint64_t first, Address counter) {
  return {seed, first, pointer<const int64_t>(counter)};
}

Planes planes_of(int type, const std::array<int64_t, 3>& sizes) {
  return {static_cast<DType>(type), sizes[0], sizes[1], sizes[2]};
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Raw-pointer entry points of csrc/; deblurgan.ops checks the arguments.";

  m.def("uniforms", [](uint64_t seed, uint64_t first, Address counter, Address out, int64_t n, LaunchTarget target) {
    const UniformsArgs args{draws_of(seed, first, counter), pointer<float>(out), n};
    run(args, target, uniforms_cpu, DEBLURGAN_GPU(uniforms));
  });

  m.def("random_windows", [](uint64_t seed, uint64_t first, Address counter, Address out, int64_t n, int64_t h,
                             int64_t w, int64_t out_h, int64_t out_w, bool flip, LaunchTarget target) {
    const WindowsArgs args{draws_of(seed, first, counter), pointer<Window>(out), n, h, w, out_h, out_w, flip};
    run(args, target, random_windows_cpu, DEBLURGAN_GPU(random_windows));
  });

  m.def("dropout_mask", [](Address counter, Address out, int64_t n, int64_t elements, uint32_t threshold,
                           uint32_t rng_stream, LaunchTarget target) {
    const DropoutArgs args{draws_of(0, 0, counter), pointer<bool>(out), n, elements, threshold, rng_stream};
    run(args, target, dropout_mask_cpu, DEBLURGAN_GPU(dropout_mask));
  });

  m.def("random_trajectories", [](uint64_t seed, uint64_t first, Address counter, Address anxiety, Address out,
                                  int64_t n, int64_t steps, float length, LaunchTarget target) {
    const TrajectoryArgs args{
        draws_of(seed, first, counter), pointer<const float>(anxiety), pointer<float>(out), n, steps, length};
    run(args, target, random_trajectories_cpu, DEBLURGAN_GPU(random_trajectories));
  });

  m.def("rasterize_psf", [](Address trajectories, Address exposure, Address out, Address canvas, int64_t n,
                            int64_t steps, int64_t size, bool centered, LaunchTarget target) {
    const PsfArgs args{pointer<const float>(trajectories),
                       pointer<const float>(exposure),
                       pointer<float>(out),
                       pointer<int64_t>(canvas),
                       n,
                       steps,
                       size,
                       centered};
    run(args, target, rasterize_psf_cpu, DEBLURGAN_GPU(rasterize_psf));
  });

  m.def("all_within", [](Address values, int64_t n, float low, float high) {
    return all_within_cpu(pointer<const float>(values), n, low, high);
  });

  m.def("max_taps",
        [](Address psf, int64_t n, int64_t size) { return max_taps_cpu(pointer<const float>(psf), n, size); });

  m.def("psf_taps", [](Address psf, Address offset, Address weight, Address count, int64_t n, int64_t size,
                       int64_t capacity, LaunchTarget target) {
    const TapsArgs args{pointer<const float>(psf),
                        pointer<int32_t>(offset),
                        pointer<float>(weight),
                        pointer<int32_t>(count),
                        n,
                        size,
                        capacity};
    run(args, target, psf_taps_cpu, DEBLURGAN_GPU(psf_taps));
  });

  m.def("apply_psf",
        [](Address image, Address out, const Strides& image_stride, const Strides& out_stride, int image_type,
           int out_type, int64_t n, int64_t c, int64_t h, int64_t w, int64_t out_h, int64_t out_w, Address offset,
           Address weight, Address count, int64_t capacity, int padding, Address windows, float white, float gamma,
           Address highlights, Address sensor, Address light, Address noise, uint64_t seed, uint64_t first,
           Address counter, bool is_signed, LaunchTarget target) {
          ApplyArgs args{};
          args.image = pointer<const void>(image);
          args.out = pointer<void>(out);
          std::copy(image_stride.begin(), image_stride.end(), args.image_stride);
          std::copy(out_stride.begin(), out_stride.end(), args.out_stride);
          args.image_type = static_cast<DType>(image_type);
          args.out_type = static_cast<DType>(out_type);
          args.n = n;
          args.c = c;
          args.h = h;
          args.w = w;
          args.out_h = out_h;
          args.out_w = out_w;
          args.offset = pointer<const int32_t>(offset);
          args.weight = pointer<const float>(weight);
          args.count = pointer<const int32_t>(count);
          args.capacity = capacity;
          args.padding = static_cast<Padding>(padding);
          args.windows = pointer<const Window>(windows);
          args.white = white;
          args.gamma = gamma;
          args.highlights = pointer<const float>(highlights);
          args.sensor = pointer<const Sensor>(sensor);
          args.light = pointer<float>(light);
          args.noise = pointer<const float>(noise);
          args.draws = draws_of(seed, first, counter);
          args.is_signed = is_signed;
          run(args, target, apply_psf_cpu, DEBLURGAN_GPU(apply_psf));
        });

  m.def("strip_moments", [](Address y, int type, Address moments, int64_t pixels, int64_t c, int64_t threads) {
    const py::gil_scoped_release release;
    strip_moments_cpu({pointer<const void>(y), static_cast<DType>(type), pointer<float>(moments), pixels, c}, threads);
  });

  m.def("strip_activate", [](Address y, Address residual, Address out, int type, Address stats, int64_t y_row,
                             int64_t residual_row, int64_t out_row, int64_t rows, int64_t w, int64_t c, int64_t border,
                             bool reflect, bool relu, int64_t threads) {
    const ActivateArgs args{pointer<const void>(y),
                            pointer<const void>(residual),
                            pointer<void>(out),
                            static_cast<DType>(type),
                            pointer<const float>(stats),
                            y_row,
                            residual_row,
                            out_row,
                            rows,
                            w,
                            c,
                            border,
                            reflect,
                            relu};
    const py::gil_scoped_release release;
    strip_activate_cpu(args, threads);
  });

  using Sizes = std::array<int64_t, 3>;  // n, pixels, c
  m.def("norm_act", [](Address y, Address residual, Address out, Address stats, int type, const Sizes& sizes,
                       float slope, int64_t threads) {
    const NormActArgs args{planes_of(type, sizes), pointer<const void>(y), pointer<const void>(residual),
                           pointer<void>(out),     pointer<float>(stats),  slope};
    const py::gil_scoped_release release;
    norm_act_cpu(args, threads);
  });

  m.def("norm_act_grad", [](Address v, Address y, Address stats, Address out, Address sums, int type,
                            const Sizes& sizes, float slope_in, float slope_out, int64_t threads) {
    const NormActGradArgs args{planes_of(type, sizes), pointer<const void>(v), pointer<const void>(y),
                               pointer<const float>(stats), pointer<void>(out), pointer<float>(sums),
                               slope_in, slope_out};
    const py::gil_scoped_release release;
    norm_act_grad_cpu(args, threads);
  });

  m.def("norm_act_second", [](Address v, Address y, Address signal, Address tangent, Address stats,
                              Address signal_sums, Address tangent_sums, Address out, int type, const Sizes& sizes,
                              float slope, int64_t threads) {
    const NormActSecondArgs args{planes_of(type, sizes), pointer<const void>(v), pointer<const void>(y),
                                 pointer<const void>(signal), pointer<const void>(tangent),
                                 pointer<const float>(stats), pointer<const float>(signal_sums),
                                 pointer<const float>(tangent_sums), pointer<void>(out), slope};
    const py::gil_scoped_release release;
    norm_act_second_cpu(args, threads);
  });

  m.def("reflect_pad", [](Address x, Address out, int type, int64_t n, int64_t h, int64_t w, int64_t c, int64_t border,
                          bool gradient, int64_t threads) {
    const ReflectPadArgs args{
        pointer<const void>(x), pointer<void>(out), static_cast<DType>(type), n, h, w, c, border};
    const py::gil_scoped_release release;
    gradient ? reflect_pad_grad_cpu(args, threads) : reflect_pad_cpu(args, threads);
  });

  m.def("instruction_sets", &instruction_sets);
  m.def("instruction_set", &instruction_set);
  m.def("use_instruction_set", &use_instruction_set);

#ifdef DEBLURGAN_WITH_CUDA
  m.attr("built_with_cuda") = true;
  m.def("cuda_device_count", &cuda_device_count);
#else
  m.attr("built_with_cuda") = false;
  m.def("cuda_device_count", [] { return 0; });
#endif
}
