// Prints a hash of all bytes that the loops of DEBLURGAN_CLONES make: draws, and pictures of every kind blurred by a
// PSF of one tap, whose sums no CPU rounds.
#include <cstdio>
#include <memory>
#include <vector>

#include "blur.h"

using namespace deblurgan;

namespace {

constexpr int64_t kPictures = 2, kSteps = 2000, kElements = 4099, kHeight = 9, kWidth = 71;
constexpr Draws kDraws{0x123456789ABCDEF, 0xFFFFFFFF, nullptr};

uint64_t hash = 0xCBF29CE484222325u;

void take(const void* bytes, int64_t n) {  // FNV-1a
  for (int64_t i = 0; i < n; ++i) hash = (hash ^ static_cast<const unsigned char*>(bytes)[i]) * 0x100000001B3u;
}

void draw() {
  std::vector<float> paths(kPictures * kSteps * 2);
  const float anxiety[kPictures] = {0.005f, 0.1f};
  random_trajectories_cpu({kDraws, anxiety, paths.data(), kPictures, kSteps, 60.0f}, 1);
  take(paths.data(), paths.size() * sizeof(float));
  const auto kept = std::make_unique<bool[]>(kPictures * kElements);
  dropout_mask_cpu({kDraws, kept.get(), kPictures, kElements, 1u << 31, 3}, 1);
  take(kept.get(), kPictures * kElements);
}

void blur(DType type, int64_t channels, bool interleaved, float gamma) {
  const int64_t elements = channels * kHeight * kWidth;
  std::vector<uint32_t> image(kPictures * elements), out(image.size());  // of any type: bits drawn at random
  for (size_t i = 0; i < image.size(); ++i) {
    const float x = uniform(philox(7, i, 0, 0).v[0]);
    if (type == DType::kUint8) from_float(255.0f * x, reinterpret_cast<uint8_t*>(image.data())[i]);
    if (type == DType::kHalf) from_float(x, reinterpret_cast<Half*>(image.data())[i]);
    if (type == DType::kBFloat16) from_float(x, reinterpret_cast<BFloat16*>(image.data())[i]);
    if (type == DType::kFloat) from_float(x, reinterpret_cast<float*>(image.data())[i]);
  }
  const int32_t offset[2 * kPictures] = {1, -2, 0, 3}, count[kPictures] = {1, 1};
  const float weight[kPictures] = {1.0f, 1.0f}, noise[kPictures] = {0.02f, 0.1f};
  const Window windows[kPictures] = {{0, 0, 0}, {0, 0, 1}};
  ApplyArgs a{};
  a.image = image.data(), a.out = out.data(), a.image_type = a.out_type = type;
  const int64_t stride[] = {elements, interleaved ? 1 : kHeight * kWidth, interleaved ? kWidth * channels : kWidth,
                            interleaved ? channels : 1};
  for (int k = 0; k < 4; ++k) a.image_stride[k] = a.out_stride[k] = stride[k];
  a.n = kPictures, a.c = channels, a.h = a.out_h = kHeight, a.w = a.out_w = kWidth;
  a.offset = offset, a.weight = weight, a.count = count, a.capacity = 1;
  a.windows = windows, a.noise = noise, a.draws = kDraws;
  a.white = type == DType::kUint8 ? 255.0f : 1.0f;
  a.gamma = gamma;
  a.is_signed = type != DType::kUint8;
  apply_psf_cpu(a, 1);
  take(out.data(), out.size() * sizeof(uint32_t));
}

}  // namespace

int main() {
  draw();
  for (const DType type : {DType::kUint8, DType::kHalf, DType::kBFloat16, DType::kFloat})
    for (const int64_t channels : {1, 2, 3, 4})
      for (const bool interleaved : {false, true}) blur(type, channels, interleaved, channels % 2 ? 2.2f : 1.0f);
  std::printf("%016llx\n", static_cast<unsigned long long>(hash));
}
