// Runs csrc/blur_cpu.cpp over odd sizes, borders and extreme draws; built with sanitizers, which end it on any fault.
#include <cstdio>
#include <vector>

#include "blur.h"

using namespace deblurgan;

namespace {

constexpr int64_t kPictures = 6, kSteps = 2000, kChannels = 2, kSize = 65;
constexpr uint64_t kLast = ~uint64_t{0} >> 1;  // the largest seed and index there are

template <class T>
bool flat_stays_flat(const std::vector<float>& psf, int64_t h, int64_t w, Padding padding, bool is_uint8) {
  const std::vector<T> image(kPictures * kChannels * h * w, T{200});
  std::vector<T> out(image.size());
  apply_psf_cpu({image.data(), psf.data(), out.data(), kPictures, kChannels, h, w, kSize, is_uint8, padding}, 3);
  if (padding == Padding::kZero) return true;
  for (const T value : out)
    if (value < static_cast<T>(199.99f) || static_cast<float>(value) > 200.01f) return false;
  return true;
}

}  // namespace

int main() {
  const std::vector<float> anxiety = {0.0f, 0.003f, 0.01f, 0.1f, 1.0f, 1000.0f};
  std::vector<float> paths(kPictures * kSteps * 2);
  random_trajectories_cpu({anxiety.data(), paths.data(), kPictures, kSteps, 60.0f, kLast, kLast - kPictures}, 3);
  const std::vector<float> exposure = {1.0f, 0.5f, 0.1f, 0.01f, 0.0003f, 1.0f};
  std::vector<float> psf(kPictures * kSize * kSize);
  int64_t outside = 0;
  for (const bool centered : {false, true})
    outside += rasterize_psf_cpu({paths.data(), exposure.data(), psf.data(), kPictures, kSteps, kSize, centered}, 3);
  if (outside != 0) return std::puts("a path left its canvas"), 1;
  for (const int64_t h : {1, 2, 3, 31, 32, 33, 97})
    for (const int64_t w : {1, 2, 5, 64, 65, 127, 128, 129})
      for (const Padding padding : {Padding::kReflect, Padding::kReplicate, Padding::kZero})
        if (!flat_stays_flat<float>(psf, h, w, padding, false) || !flat_stays_flat<uint8_t>(psf, h, w, padding, true))
          return std::printf("a flat picture of %ldx%ld did not stay flat\n", long(w), long(h)), 1;
  std::vector<float> numbers(4 * 10);
  choices(kLast, kLast - 10, 10, numbers.data());
  return std::puts("clean"), 0;
}
