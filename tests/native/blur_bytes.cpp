// Draws, normalises, and blurs pictures of every kind in each instruction set of this CPU; prints a line a set: its
// name and a hash of all bytes that were made. Plain blurs are held against direct sums in double.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <vector>

#include "blur.h"
#include "convolve.h"
#include "strips.h"

using namespace deblurgan;

namespace {

constexpr int64_t kPictures = 2, kSteps = 2000, kSize = 33, kElements = 4099;
const Draws kDraws{0x123456789ABCDEF, 0xFFFFFFFF, nullptr};

class Hash {  // FNV-1a
 public:
  template <class T>
  void take(const T* values, int64_t n) {
    const auto* bytes = reinterpret_cast<const unsigned char*>(values);
    for (size_t i = 0; i < n * sizeof(T); ++i) state = (state ^ bytes[i]) * 0x100000001B3u;
  }
  unsigned long long value() const { return state; }

 private:
  uint64_t state = 0xCBF29CE484222325u;
};

struct Psfs {
  std::vector<int32_t> offset, count;
  std::vector<float> weight;
  int64_t capacity;
};

Psfs draw(Hash& hash) {
  const float anxiety[kPictures] = {0.005f, 0.1f}, exposure[kPictures] = {1.0f, 0.7f};
  std::vector<float> paths(kPictures * kSteps * 2), psf(kPictures * kSize * kSize);
  random_trajectories_cpu({kDraws, anxiety, paths.data(), kPictures, kSteps, 30.0f}, 1);
  hash.take(paths.data(), paths.size());
  const auto kept = std::make_unique<bool[]>(kPictures * kElements);
  dropout_mask_cpu({kDraws, kept.get(), kPictures, kElements, 1u << 31, 3}, 1);
  hash.take(kept.get(), kPictures * kElements);
  rasterize_psf_cpu({paths.data(), exposure, psf.data(), nullptr, kPictures, kSteps, kSize, true}, 1);
  const int64_t capacity = max_taps_cpu(psf.data(), kPictures, kSize);
  Psfs made{std::vector<int32_t>(kPictures * capacity * 2), std::vector<int32_t>(kPictures),
            std::vector<float>(kPictures * capacity), capacity};
  psf_taps_cpu({psf.data(), made.offset.data(), made.weight.data(), made.count.data(), kPictures, kSize, capacity}, 1);
  return made;
}

struct Case {
  DType type;
  int64_t channels, h, w;
  bool interleaved;
  bool plain;   // blurs all of the picture and nothing else; or a window, by all that a blur does besides
  bool camera;  // with highlights and a sensor
};

void set_strides(int64_t channels, int64_t h, int64_t w, bool interleaved, int64_t (&stride)[4]) {
  stride[0] = channels * h * w;
  stride[1] = interleaved ? 1 : h * w;
  stride[3] = interleaved ? channels : 1;
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

// False where a plain blur is wrong.
bool blur(const Case& it, const Psfs& psfs, Hash& hash) {
  std::vector<float> image(kPictures * it.channels * it.h * it.w), out(image.size());  // room for any type
  for (size_t i = 0; i < image.size(); ++i) {
    const float drawn = uniform(philox(7, i, 0, 0).v[0]), x = it.camera ? clipped(1.2f * drawn) : drawn;
    if (it.type == DType::kUint8) from_float(255.0f * x, reinterpret_cast<uint8_t*>(image.data())[i]);
    if (it.type == DType::kHalf) from_float(x, reinterpret_cast<Half*>(image.data())[i]);
    if (it.type == DType::kBFloat16) from_float(x, reinterpret_cast<BFloat16*>(image.data())[i]);
    if (it.type == DType::kFloat) image[i] = x;
  }
  const Window windows[kPictures] = {{0, 0, 0}, {4, 19, 1}};
  const float noise[kPictures] = {0.02f, 0.1f}, highlights[kPictures] = {0.25f, 1.75f};
  const Sensor sensors[kPictures] = {{1e-3f, 0.0f}, {2e-3f, 0.01f}};
  ApplyArgs a{};
  a.image = image.data(), a.image_type = it.type;
  a.out = out.data(), a.out_type = it.type;
  a.n = kPictures, a.c = it.channels, a.h = a.out_h = it.h, a.w = a.out_w = it.w;
  a.offset = psfs.offset.data(), a.weight = psfs.weight.data(), a.count = psfs.count.data();
  a.capacity = psfs.capacity;
  a.padding = static_cast<Padding>(it.channels % 3);
  a.white = it.type == DType::kUint8 ? 255.0f : 1.0f;
  a.gamma = 1.0f;
  if (!it.plain) {
    a.out_h -= windows[1].top, a.out_w -= windows[1].left, a.windows = windows;
    if (it.channels % 2) a.gamma = 2.2f;
    a.noise = noise, a.draws = kDraws;
    if (it.channels > 2) a.out_type = DType::kHalf, a.is_signed = true;
  }
  if (it.camera) a.highlights = highlights, a.sensor = sensors;
  set_strides(a.c, a.h, a.w, it.interleaved, a.image_stride);
  set_strides(a.c, a.out_h, a.out_w, it.interleaved, a.out_stride);
  apply_psf_cpu(a, 2);
  hash.take(out.data(), out.size());
  return !it.plain || error_of(a) < 1e-6;
}

template <class T>
void norm_strip(DType type, Hash& hash) {
  const int64_t rows = 5, w = 67, c = 27, border = 3, padded = w + 2 * border;
  std::vector<T> y(rows * w * c), residual(y.size()), out(rows * padded * c);
  for (size_t i = 0; i < y.size(); ++i) {
    const Words words = philox(11, i, 0, 0);
    from_float(uniform(words.v[0]) + 3.0f, y[i]);
    from_float(uniform(words.v[1]), residual[i]);
  }
  std::vector<float> stats(2 * c);
  strip_moments_cpu({y.data(), type, stats.data(), rows * w, c}, 2);
  hash.take(stats.data(), stats.size());
  for (const bool relu : {false, true}) {
    strip_activate_cpu({y.data(), relu ? nullptr : residual.data(), out.data() + border * c, type, stats.data(), w * c,
                        w * c, padded * c, rows, w, c, border, relu, relu},
                       2);
    hash.take(out.data(), out.size());
  }
}

}  // namespace

int main() {
  std::vector<Case> cases;
  for (const bool interleaved : {false, true})
    for (const int64_t channels : {1, 2, 3, 4}) {
      for (const DType type : {DType::kUint8, DType::kHalf, DType::kBFloat16, DType::kFloat})
        for (const bool camera : {false, true}) cases.push_back({type, channels, 13, 90, interleaved, false, camera});
      cases.push_back({DType::kFloat, channels, 37, 67, interleaved, true, false});
      cases.push_back({DType::kFloat, channels, 3, 2, interleaved, true, false});
    }
  for (const std::string& set : instruction_sets()) {
    use_instruction_set(set);
    Hash hash;
    const Psfs psfs = draw(hash);
    for (const Case& it : cases)
      if (!blur(it, psfs, hash))
        return std::printf("%s is wrong at %dx%dx%d\n", set.c_str(), int(it.channels), int(it.h), int(it.w)), 1;
    norm_strip<float>(DType::kFloat, hash);
    norm_strip<BFloat16>(DType::kBFloat16, hash);
    std::printf("%s %016llx\n", set.c_str(), hash.value());
  }
}
