// The CUDA kernels, run on the host, against the CPU path: the same bytes, and for apply_psf the same values up to
// rounding. Built with sanitizers, which end it on any fault.
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>

// clang-format off
#include "cuda_on_host.h"  // before what it stands in for
#include "blur_kernels.cuh"
#include "parallel.h"
// clang-format on

using namespace deblurgan;

namespace {

constexpr uint64_t kLast = ~uint64_t{0} >> 1;  // the largest seed and index there are

int failures = 0;

void expect(bool good, const std::string& what) {
  if (good) return;
  std::printf("%s differs\n", what.c_str());
  ++failures;
}

template <class T>
bool same_bytes(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

// Every task is done once, by more than one thread only where there is work for them.
void test_threads() {
  for (const double work : {1e3, 1e9}) {
    std::vector<int> done(100);
    std::set<std::thread::id> workers;
    std::mutex lock;
    parallel_for<NoScratch>(100, work / 100, 4, [&](NoScratch&, int64_t i) {
      ++done[i];
      std::this_thread::sleep_for(std::chrono::microseconds(work > 1e6 ? 200 : 0));  // the helpers get their turn
      const std::lock_guard<std::mutex> guard(lock);
      workers.insert(std::this_thread::get_id());
    });
    expect(done == std::vector<int>(100, 1), "the number of times that tasks are done");
    expect((workers.size() > 1) == (work > 1e6) && workers.size() <= 4, "the number of threads");
  }
  expect(worthwhile_threads(64, 0.8e6) == 7 && worthwhile_threads(2, 0.8e6) == 2, "how many threads are worthwhile");
  std::string caught;
  try {
    parallel_for<NoScratch>(9, 1e9, 3, [](NoScratch&, int64_t i) {
      if (i == 5) throw std::runtime_error("task 5");
    });
  } catch (const std::runtime_error& error) {
    caught = error.what();
  }
  expect(caught == "task 5", "a task's exception");
}

void test_draws() {
  const int64_t n = 300;
  const int64_t counter[2] = {7, static_cast<int64_t>(kLast - n)};
  for (const Draws draws : {Draws{0, 0, nullptr}, Draws{kLast, kLast - n, nullptr}, Draws{0, 0, counter}}) {
    std::vector<float> a(4 * n), b(4 * n);
    uniforms_cpu({draws, a.data(), n}, 2);
    launch(uniforms_kernel, 1, kThreads, UniformsArgs{draws, b.data(), n});
    expect(same_bytes(a, b), "uniforms");
    std::vector<Window> u(n), v(n);
    random_windows_cpu({draws, u.data(), n, 720, 1280, 256, 1280, true}, 2);
    launch(windows_kernel, 2, kThreads, WindowsArgs{draws, v.data(), n, 720, 1280, 256, 1280, true});
    expect(same_bytes(u, v), "random_windows");
    for (const Window& w : u)
      expect(w.top >= 0 && w.top <= 720 - 256 && w.left == 0 && (w.flip == 0 || w.flip == 1), "a window's place");
  }
}

void test_dropout() {
  const int64_t counter[2] = {static_cast<int64_t>(kLast), static_cast<int64_t>(kLast - 3)};
  for (const int64_t elements : {1, 35, 4097 * 4}) {
    const int64_t n = 3;
    const auto a = std::make_unique<bool[]>(n * elements), b = std::make_unique<bool[]>(n * elements);
    const Draws draws{0, 0, counter};
    dropout_mask_cpu({draws, a.get(), n, elements, 1u << 31, 5}, 2);
    launch(dropout_kernel, 2, kThreads, DropoutArgs{draws, b.get(), n, elements, 1u << 31, 5});
    expect(std::memcmp(a.get(), b.get(), n * elements) == 0, "dropout_mask");
  }
}

std::vector<float> test_trajectories(int64_t steps) {
  const std::vector<float> anxiety = {0.0f, 0.003f, 0.01f, 1.0f, 1000.0f};
  const int64_t n = static_cast<int64_t>(anxiety.size());
  std::vector<float> a(n * steps * 2), b(a.size());
  for (const Draws draws : {Draws{kLast, kLast - n, nullptr}, Draws{1, 0, nullptr}}) {
    random_trajectories_cpu({draws, anxiety.data(), a.data(), n, steps, 60.0f}, 2);
    launch(trajectories_kernel, 3, kThreads, TrajectoryArgs{draws, anxiety.data(), b.data(), n, steps, 60.0f});
    expect(same_bytes(a, b), "random_trajectories");
  }
  return a;
}

std::vector<float> test_psf(std::vector<float> paths, int64_t steps, int64_t size, bool centered) {
  const std::vector<float> exposure = {1.0f, 0.5f, 0.1f, 0.0003f, 1.0f};
  const int64_t n = static_cast<int64_t>(exposure.size());
  std::vector<float> a(n * size * size), b(a.size());
  std::vector<int64_t> canvas(a.size());
  rasterize_psf_cpu({paths.data(), exposure.data(), a.data(), nullptr, n, steps, size, centered}, 2);
  launch(psf_kernel, 2, kThreads,
         PsfArgs{paths.data(), exposure.data(), b.data(), canvas.data(), n, steps, size, centered});
  expect(same_bytes(a, b), "rasterize_psf");
  return a;
}

struct Taps {
  std::vector<int32_t> offset, count;
  std::vector<float> weight;
};

Taps test_taps(const std::vector<float>& psf, int64_t n, int64_t size, int64_t capacity) {
  Taps a{std::vector<int32_t>(n * capacity * 2), std::vector<int32_t>(n), std::vector<float>(n * capacity)}, b = a;
  psf_taps_cpu({psf.data(), a.offset.data(), a.weight.data(), a.count.data(), n, size, capacity}, 2);
  launch(taps_kernel, 2, kThreads,
         TapsArgs{psf.data(), b.offset.data(), b.weight.data(), b.count.data(), n, size, capacity});
  expect(same_bytes(a.offset, b.offset) && same_bytes(a.weight, b.weight) && same_bytes(a.count, b.count), "psf_taps");
  return a;
}

template <class Pixel>
void run_kernels_of(const ApplyArgs& a) {
  if (!averages_light(a)) return launch(apply_kernel<Pixel, false>, 3, kThreads, a);
  launch(light_kernel<Pixel>, 3, kThreads, a);
  launch(clips_light(a) ? apply_kernel<float, true> : apply_kernel<float, false>, 3, kThreads, of_light(a));
}

void run_kernels(const ApplyArgs& a) {
  switch (a.image_type) {
    case DType::kUint8:
      return run_kernels_of<uint8_t>(a);
    case DType::kHalf:
      return run_kernels_of<Half>(a);
    case DType::kBFloat16:
      return run_kernels_of<BFloat16>(a);
    case DType::kFloat:
      return run_kernels_of<float>(a);
  }
}

int64_t bytes_of(DType type) { return type == DType::kUint8 ? 1 : type == DType::kFloat ? 4 : 2; }

float value_at(const std::vector<uint8_t>& data, DType type, int64_t i) {
  switch (type) {
    case DType::kUint8:
      return to_float(data[i]);
    case DType::kHalf:
      return to_float(reinterpret_cast<const Half*>(data.data())[i]);
    case DType::kBFloat16:
      return to_float(reinterpret_cast<const BFloat16*>(data.data())[i]);
    default:
      return reinterpret_cast<const float*>(data.data())[i];
  }
}

void set_strides(int64_t* stride, int64_t c, int64_t h, int64_t w, bool interleaved) {
  const int64_t planar[4] = {c * h * w, h * w, w, 1}, packed[4] = {c * h * w, 1, w * c, c};
  std::copy_n(interleaved ? packed : planar, 4, stride);
}

struct Case {
  DType in, out;
  int64_t c, h, w;
  bool interleaved, windowed, noisy, is_signed, gamma, highlights, sensor;
  Padding padding;
};

void test_apply(const Taps& taps, int64_t capacity, const Case& k) {
  const int64_t n = static_cast<int64_t>(taps.count.size());
  const int64_t out_h = k.windowed ? (k.h + 1) / 2 : k.h, out_w = k.windowed ? (k.w + 1) / 2 : k.w;
  const float white = k.in == DType::kUint8 ? 255.0f : 1.0f;
  std::vector<uint8_t> image(n * k.c * k.h * k.w * bytes_of(k.in));
  for (int64_t i = 0; i < n * k.c * k.h * k.w; ++i) {
    const float x = clipped(1.2f * uniform(philox(5, static_cast<uint64_t>(i), 0, 0).v[0]));
    switch (k.in) {
      case DType::kUint8:
        from_float(x * 255.0f, image[i]);
        break;
      case DType::kHalf:
        from_float(x, reinterpret_cast<Half*>(image.data())[i]);
        break;
      case DType::kBFloat16:
        from_float(x, reinterpret_cast<BFloat16*>(image.data())[i]);
        break;
      case DType::kFloat:
        from_float(x, reinterpret_cast<float*>(image.data())[i]);
        break;
    }
  }
  std::vector<Window> windows(n);
  const std::vector<float> noise(n, 0.02f), highlights(n, 1.5f);
  const std::vector<Sensor> sensors(n, Sensor{1e-3f, 0.01f});
  random_windows_cpu({{3, 0, nullptr}, windows.data(), n, k.h, k.w, out_h, out_w, true}, 1);
  std::vector<uint8_t> a(n * k.c * out_h * out_w * bytes_of(k.out), 0xFF), b = a;
  ApplyArgs args{};
  args.image = image.data();
  args.out = a.data();
  set_strides(args.image_stride, k.c, k.h, k.w, k.interleaved);
  set_strides(args.out_stride, k.c, out_h, out_w, k.interleaved);
  args.image_type = k.in;
  args.out_type = k.out;
  args.n = n, args.c = k.c, args.h = k.h, args.w = k.w, args.out_h = out_h, args.out_w = out_w;
  args.offset = taps.offset.data();
  args.weight = taps.weight.data();
  args.count = taps.count.data();
  args.capacity = capacity;
  args.padding = k.padding;
  args.windows = k.windowed ? windows.data() : nullptr;
  args.white = white;
  args.gamma = k.gamma ? 2.2f : 1.0f;
  args.highlights = k.highlights ? highlights.data() : nullptr;
  args.sensor = k.sensor ? sensors.data() : nullptr;
  args.noise = k.noisy ? noise.data() : nullptr;
  args.draws = {9, 4, nullptr};
  args.is_signed = k.is_signed;
  apply_psf_cpu(args, 3);

  std::vector<float> light(averages_light(args) ? n * k.c * k.h * k.w : 0);
  args.light = light.data();
  args.out = b.data();
  run_kernels(args);
  for (size_t i = 0; i < light.size(); ++i) {
    const float value = 1.0f / white * value_at(image, k.in, static_cast<int64_t>(i));
    expect(light[i] == light_of(value, args.gamma, k.highlights ? 1.5f : 0.0f), "light");
  }
  const float step = k.out == DType::kUint8   ? 1.0f
                     : k.out == DType::kFloat ? 1e-5f
                     : k.out == DType::kHalf  ? 1e-3f
                                              : 8e-3f;
  for (int64_t i = 0; i < n * k.c * out_h * out_w; ++i) {
    const float difference = std::fabs(value_at(a, k.out, i) - value_at(b, k.out, i));
    if (!(difference <= step)) {
      std::printf("apply_psf %ldx%ldx%ld: %g against %g\n", long(k.c), long(k.h), long(k.w), value_at(a, k.out, i),
                  value_at(b, k.out, i));
      ++failures;
      return;
    }
  }
}

// One window at the far end of a picture of more than 2^31 elements, in a second picture more than 2^31 behind the
// first.
void test_apply_far_away(const Taps& taps, int64_t capacity) {
  const int64_t side = 46400, batch = side * side + 4096, size = 24;
  const size_t bytes = static_cast<size_t>(2 * batch);
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return expect(false, "4 GiB of address space");
  uint8_t* image = static_cast<uint8_t*>(memory);
  for (int64_t i = side - 80; i < side; ++i)
    for (int64_t j = side - 80; j < side; ++j) image[batch + i * side + j] = static_cast<uint8_t>(i * 7 + j * 13);
  const Window windows[2] = {{0, 0, 0}, {side - size, side - size, 0}};
  std::vector<uint8_t> near(80 * 80), a(2 * size * size), b(a.size()), c(a.size());
  for (int64_t i = 0; i < 80; ++i)
    std::copy_n(image + batch + (side - 80 + i) * side + side - 80, 80, near.data() + i * 80);
  ApplyArgs args{};
  args.image = image;
  args.out = a.data();
  args.image_type = args.out_type = DType::kUint8;
  args.n = 2, args.c = 1, args.h = args.w = side, args.out_h = args.out_w = size;
  const int64_t stride[4] = {batch, side * side, side, 1};
  std::copy_n(stride, 4, args.image_stride);
  set_strides(args.out_stride, 1, size, size, false);
  args.offset = taps.offset.data();
  args.weight = taps.weight.data();
  args.count = taps.count.data();
  args.capacity = capacity;
  args.windows = windows;
  args.white = 255.0f;
  args.gamma = 1.0f;
  apply_psf_cpu(args, 2);
  args.out = b.data();
  run_kernels(args);
  // the same window of the small picture that holds what the far one reads
  const Window corner[2] = {{0, 0, 0}, {80 - size, 80 - size, 0}};
  args.image = near.data();
  args.out = c.data();
  args.h = args.w = 80;
  args.windows = corner;
  set_strides(args.image_stride, 1, 80, 80, false);
  args.image_stride[0] = 0;
  apply_psf_cpu(args, 2);
  const auto second = [&](const std::vector<uint8_t>& x) {
    return std::vector<uint8_t>(x.begin() + size * size, x.end());
  };
  expect(same_bytes(second(a), second(c)), "the CPU's far window");
  int worst = 0;
  for (int64_t i = size * size; i < 2 * size * size; ++i) worst = std::max(worst, std::abs(b[i] - c[i]));
  expect(worst <= 1, "the kernel's far window");
  munmap(memory, bytes);
}

}  // namespace

int main() {
  test_threads();
  test_draws();
  test_dropout();
  for (const int64_t steps : {2, 257}) test_trajectories(steps);
  const int64_t steps = 2000, n = 5;
  const std::vector<float> paths = test_trajectories(steps);
  test_psf(paths, steps, 64, false);
  test_psf(paths, steps, 5, true);  // too small a canvas
  std::vector<float> broken = paths;
  broken[100] = NAN;
  broken[steps * 2 + 5] = INFINITY;
  test_psf(broken, steps, 65, true);
  const std::vector<float> psf = test_psf(paths, steps, 65, true);
  test_taps(psf, 1, 65, 20);  // too few
  const Taps taps = test_taps(psf, n, 65, 256);
  const std::vector<float> dense(2 * 33 * 33, 1.0f / (33 * 33));
  const Taps box = test_taps(dense, 2, 33, 33 * 33);

  const DType types[] = {DType::kUint8, DType::kHalf, DType::kBFloat16, DType::kFloat};
  const int64_t sizes[][3] = {{1, 1, 1}, {3, 17, 35}, {6, 9, 9}, {3, 40, 80}};
  int turn = 0;  // every pair of types, with the other options in turn
  for (const DType in : types)
    for (const DType out : types)
      for (const auto& size : sizes) {
        if (in != out && out == DType::kUint8) continue;
        const Case k{in,
                     out,
                     size[0],
                     size[1],
                     size[2],
                     turn / 4 % 2 > 0,
                     turn % 3 == 0,
                     turn % 5 == 0,
                     in != out,
                     turn % 7 == 0,
                     turn % 4 == 1,
                     turn % 6 < 2,
                     static_cast<Padding>(turn / 3 % 3)};
        test_apply(turn % 5 == 1 ? box : taps, turn % 5 == 1 ? 33 * 33 : 256, k);
        ++turn;
      }
  test_apply_far_away(taps, 256);
  return failures == 0 ? (std::puts("clean"), 0) : 1;
}
