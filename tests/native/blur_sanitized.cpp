// Runs the CPU functions of csrc/ over odd sizes, borders and extreme draws, in each instruction set by turns; built
// with sanitizers, which end it on any fault.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

#include "blur.h"
#include "convolve.h"
#include "strips.h"

using namespace deblurgan;

namespace {

constexpr int64_t kPictures = 6, kSamples = 2000, kChannels = 2, kSize = 65;
constexpr uint64_t kLast = ~uint64_t{0} >> 1;  // the largest seed and index there are

void use_the_next_instruction_set() {
  static const std::vector<std::string> sets = instruction_sets();
  static size_t turn = 0;
  use_instruction_set(sets[turn++ % sets.size()]);
}

// Whether n pictures of `level` everywhere, blurred with each PSF, are so still; by a camera or plainly.
template <class T>
bool flat_stays_flat(const TapsArgs& taps, int64_t n, int64_t h, int64_t w, Padding padding, DType type, float level,
                     bool camera) {
  const std::vector<T> image(n * kChannels * h * w, static_cast<T>(level));
  std::vector<T> out(image.size());
  const std::vector<float> highlights(n, 0.5f);
  const std::vector<Sensor> sensors(n, Sensor{1e-3f, 0.01f});
  ApplyArgs args{};
  args.image = image.data();
  args.out = out.data();
  const int64_t stride[4] = {kChannels * h * w, h * w, w, 1};
  std::copy_n(stride, 4, args.image_stride);
  std::copy_n(stride, 4, args.out_stride);
  args.image_type = args.out_type = type;
  args.n = n, args.c = kChannels, args.h = args.out_h = h, args.w = args.out_w = w;
  args.offset = taps.offset;
  args.weight = taps.weight;
  args.count = taps.count;
  args.capacity = taps.capacity;
  args.padding = padding;
  args.white = args.gamma = 1.0f;
  if (camera) {
    args.white = level, args.gamma = h % 2 ? 2.2f : 1.0f;
    args.highlights = highlights.data(), args.sensor = sensors.data();
    args.draws = {kLast, kLast - kPictures, nullptr};
  }
  use_the_next_instruction_set();
  apply_psf_cpu(args, 3);
  if (padding == Padding::kZero) return true;
  for (const T value : out)
    if (value < static_cast<T>(level - 0.01f) || static_cast<float>(value) > level + 0.01f) return false;
  return true;
}

// Whether a flat strip becomes zeros, border and all.
template <class T>
bool strip_is_whole(int64_t w, int64_t border, DType type) {
  const int64_t rows = 5, c = 3, padded = w + 2 * border;
  std::vector<T> y(rows * w * c), out(rows * padded * c);
  for (T& value : y) from_float(0.7f, value);
  for (T& value : out) from_float(1.0f, value);
  std::vector<float> stats(2 * c);
  strip_moments_cpu({y.data(), type, stats.data(), rows * w, c}, 3);
  strip_activate_cpu({y.data(), nullptr, out.data() + border * c, type, stats.data(), w * c, 0, padded * c, rows, w, c,
                      border, w > border, true},
                     3);
  for (const T value : out)
    if (to_float(value) != 0.0f) return false;
  return true;
}

}  // namespace

int main() {
  const std::vector<float> anxiety = {0.0f, 0.003f, 0.01f, 0.1f, 1.0f, 1000.0f};
  std::vector<float> paths(kPictures * kSamples * 2);
  const Draws draws{kLast, kLast - kPictures, nullptr};
  random_trajectories_cpu({draws, anxiety.data(), paths.data(), kPictures, kSamples, 60.0f}, 3);
  const std::vector<float> exposure = {1.0f, 0.5f, 0.1f, 0.01f, 0.0003f, 1.0f};
  std::vector<float> psf(kPictures * kSize * kSize);
  for (const bool centered : {false, true}) {
    rasterize_psf_cpu({paths.data(), exposure.data(), psf.data(), nullptr, kPictures, kSamples, kSize, centered}, 3);
    if (!all_within_cpu(psf.data(), kPictures * kSize * kSize, 0.0f, 1.0f))
      return std::puts("a path left its canvas"), 1;
  }
  for (const float share : {-1.0f, 0.0f, 2.0f, 1e30f, -INFINITY, INFINITY, NAN}) {  // none reads outside the path
    std::vector<float> any(kSize * kSize);
    rasterize_psf_cpu({paths.data(), &share, any.data(), nullptr, 1, kSamples, kSize, true}, 1);
    if (samples_of(exposure_of(share, kSamples)) > kSamples - 1) return std::puts("an exposure beyond the path"), 1;
  }
  const int64_t capacity = max_taps_cpu(psf.data(), kPictures, kSize);
  std::vector<int32_t> offset(kPictures * capacity * 2), count(kPictures);
  std::vector<float> weight(kPictures * capacity);
  const TapsArgs taps{psf.data(), offset.data(), weight.data(), count.data(), kPictures, kSize, capacity};
  psf_taps_cpu(taps, 3);
  for (const int64_t h : {1, 2, 3, 31, 32, 33, 97})
    for (const int64_t w : {1, 2, 5, 64, 65, 127, 128, 129})
      for (const Padding padding : {Padding::kReflect, Padding::kReplicate, Padding::kZero})
        if (!flat_stays_flat<float>(taps, kPictures, h, w, padding, DType::kFloat, 200.0f, false) ||
            !flat_stays_flat<uint8_t>(taps, kPictures, h, w, padding, DType::kUint8, 200.0f, false) ||
            !flat_stays_flat<float>(taps, kPictures, h, w, padding, DType::kFloat, 1.0f, true) ||
            !flat_stays_flat<uint8_t>(taps, kPictures, h, w, padding, DType::kUint8, 255.0f, true))
          return std::printf("a flat picture of %ldx%ld did not stay flat\n", long(w), long(h)), 1;
  flat_stays_flat<float>(taps, 0, 8, 8, Padding::kReflect, DType::kFloat, 200.0f, true);  // nothing to do is no fault
  std::vector<float> numbers(4 * 10);
  uniforms_cpu({{kLast, kLast - 10, nullptr}, numbers.data(), 10}, 1);
  for (const int64_t w : {1, 2, 4, 67})
    for (const int64_t border : {0, 1, 3})
      if (!strip_is_whole<float>(w, border, DType::kFloat) || !strip_is_whole<BFloat16>(w, border, DType::kBFloat16))
        return std::printf("a flat strip of %ld did not become zeros\n", long(w)), 1;
  return std::puts("clean"), 0;
}
