// Blurs pictures of every kind in each instruction set of this CPU, holds plain ones against direct sums in double, and
// prints a line a set: its name and a hash of all bytes that it made.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

#include "blur.h"
#include "convolve.h"

using namespace deblurgan;

namespace {

constexpr int64_t kPictures = 2, kChannels = 3, kSamples = 500, kSize = 33;
const Draws kDraws{1, 2, nullptr};

struct Case {
  int64_t h, w, out_h, out_w;
  DType image, out;
  Padding padding;
  float gamma, noise;
  bool interleaved, is_signed;

  bool is_plain() const { return image == DType::kFloat && !is_signed; }
};
const Case kCases[] = {
    {37, 131, 37, 131, DType::kFloat, DType::kFloat, Padding::kReflect, 1.0f, 0.0f, false, false},
    {9, 70, 9, 70, DType::kFloat, DType::kFloat, Padding::kZero, 1.0f, 0.0f, true, false},
    {5, 3, 5, 3, DType::kFloat, DType::kFloat, Padding::kReplicate, 1.0f, 0.0f, false, false},
    {37, 131, 33, 67, DType::kFloat, DType::kFloat, Padding::kReflect, 2.2f, 0.02f, true, true},
    {40, 90, 40, 65, DType::kUint8, DType::kUint8, Padding::kReplicate, 2.2f, 0.02f, false, false},
    {40, 90, 7, 90, DType::kUint8, DType::kHalf, Padding::kReflect, 1.0f, 0.1f, true, true},
    {40, 90, 40, 90, DType::kHalf, DType::kBFloat16, Padding::kZero, 1.0f, 0.0f, false, true},
    {31, 64, 31, 64, DType::kBFloat16, DType::kHalf, Padding::kReflect, 0.45f, 0.0f, false, true},
};

struct Psfs {
  std::vector<int32_t> offset, count;
  std::vector<float> weight;
  int64_t capacity;
};

Psfs draw_psfs() {
  const std::vector<float> anxiety = {0.005f, 0.1f}, exposure = {1.0f, 0.7f};
  std::vector<float> paths(kPictures * kSamples * 2), psf(kPictures * kSize * kSize);
  random_trajectories_cpu({kDraws, anxiety.data(), paths.data(), kPictures, kSamples, 30.0f}, 1);
  rasterize_psf_cpu({paths.data(), exposure.data(), psf.data(), nullptr, kPictures, kSamples, kSize, true}, 1);
  const int64_t capacity = max_taps_cpu(psf.data(), kPictures, kSize);
  Psfs made{std::vector<int32_t>(kPictures * capacity * 2), std::vector<int32_t>(kPictures),
            std::vector<float>(kPictures * capacity), capacity};
  psf_taps_cpu({psf.data(), made.offset.data(), made.weight.data(), made.count.data(), kPictures, kSize, capacity}, 1);
  return made;
}

template <class T>
std::vector<unsigned char> as_bytes(const std::vector<float>& values, float white) {
  std::vector<unsigned char> bytes(values.size() * sizeof(T));
  for (size_t i = 0; i < values.size(); ++i) from_float(white * values[i], reinterpret_cast<T*>(bytes.data())[i]);
  return bytes;
}

std::vector<unsigned char> draw_pictures(int64_t elements, DType type) {
  std::vector<float> values((elements + 3) / 4 * 4);
  uniforms_cpu({kDraws, values.data(), (elements + 3) / 4}, 1);
  switch (type) {
    case DType::kUint8:
      return as_bytes<uint8_t>(values, 255.0f);
    case DType::kHalf:
      return as_bytes<Half>(values, 1.0f);
    case DType::kBFloat16:
      return as_bytes<BFloat16>(values, 1.0f);
    default:
      return as_bytes<float>(values, 1.0f);
  }
}

void set_strides(int64_t h, int64_t w, bool interleaved, int64_t (&stride)[4]) {
  stride[0] = kChannels * h * w;
  stride[1] = interleaved ? 1 : h * w;
  stride[3] = interleaved ? kChannels : 1;
  stride[2] = w * stride[3];
}

// The distance of float pixels from the direct sums of their taps.
double error_of(const ApplyArgs& a) {
  const auto at = [](const void* x, const int64_t* stride, int64_t n, int64_t c, int64_t y, int64_t z) {
    return static_cast<const float*>(x)[n * stride[0] + c * stride[1] + y * stride[2] + z * stride[3]];
  };
  double worst = 0.0;
  for (int64_t n = 0; n < a.n; ++n)
    for (int64_t c = 0; c < a.c; ++c)
      for (int64_t i = 0; i < a.h; ++i)
        for (int64_t j = 0; j < a.w; ++j) {
          double sum = 0.0;
          for (int64_t t = n * a.capacity; t < n * a.capacity + taps_of(a, n); ++t) {
            const int64_t y = border_index(i + a.offset[2 * t], a.h, a.padding);
            const int64_t x = border_index(j + a.offset[2 * t + 1], a.w, a.padding);
            if (y >= 0 && x >= 0) sum += double{a.weight[t]} * at(a.image, a.image_stride, n, c, y, x);
          }
          worst = std::max(worst, std::fabs(sum - at(a.out, a.out_stride, n, c, i, j)));
        }
  return worst;
}

// Blurs and takes the result into the hash; false where it is wrong.
bool blur(const Case& it, const Psfs& psfs, uint64_t& hash) {
  const std::vector<unsigned char> image = draw_pictures(kPictures * kChannels * it.h * it.w, it.image);
  const int64_t bytes = it.out == DType::kFloat ? 4 : it.out == DType::kUint8 ? 1 : 2;
  std::vector<unsigned char> out(kPictures * kChannels * it.out_h * it.out_w * bytes);
  const Window windows[kPictures] = {{0, 0, 0}, {it.h - it.out_h, it.w - it.out_w, !it.is_plain()}};
  const float noise[kPictures] = {it.noise, 2.0f * it.noise};
  ApplyArgs a{};
  a.image = image.data(), a.image_type = it.image, a.h = it.h, a.w = it.w;
  a.out = out.data(), a.out_type = it.out, a.out_h = it.out_h, a.out_w = it.out_w;
  set_strides(it.h, it.w, it.interleaved, a.image_stride);
  set_strides(it.out_h, it.out_w, it.interleaved, a.out_stride);
  a.n = kPictures, a.c = kChannels, a.padding = it.padding, a.gamma = it.gamma, a.is_signed = it.is_signed;
  a.offset = psfs.offset.data(), a.weight = psfs.weight.data(), a.count = psfs.count.data();
  a.capacity = psfs.capacity;
  a.windows = windows;
  a.white = it.image == DType::kUint8 ? 255.0f : 1.0f;
  a.noise = it.noise > 0.0f ? noise : nullptr;
  a.draws = kDraws;
  apply_psf_cpu(a, 2);
  for (const unsigned char byte : out) hash = (hash ^ byte) * 0x100000001B3u;  // FNV-1a
  return !it.is_plain() || error_of(a) < 1e-6;
}

}  // namespace

int main() {
  const Psfs psfs = draw_psfs();
  for (const std::string& set : instruction_sets()) {
    use_instruction_set(set);
    uint64_t hash = 0xCBF29CE484222325u;
    for (const Case& it : kCases)
      if (!blur(it, psfs, hash)) return std::printf("%s is wrong at %dx%d\n", set.c_str(), int(it.w), int(it.h)), 1;
    std::printf("%s %016llx\n", set.c_str(), static_cast<unsigned long long>(hash));
  }
}
