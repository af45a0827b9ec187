#include "strips.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "clones.h"
#include "maths.h"
#include "parallel.h"

namespace deblurgan {
namespace {

constexpr int64_t kPixels = 256;      // of a block: a sum of so many fp32 numbers keeps five digits at the least
constexpr double kElementCost = 0.2;  // ns

// mean and m2 [c] of y [pixels, c]. About the first pixel a constant plane keeps its value to the last bit.
template <class T>
DEBLURGAN_INLINE void block_moments(const T* __restrict y, int64_t pixels, int64_t c, float* __restrict mean,
                                    float* __restrict m2) {
  std::fill(mean, mean + c, 0.0f);
  std::fill(m2, m2 + c, 0.0f);
  for (int64_t p = 1; p < pixels; ++p)
    for (int64_t k = 0; k < c; ++k) mean[k] += to_float(y[p * c + k]) - to_float(y[k]);
  for (int64_t k = 0; k < c; ++k) mean[k] = to_float(y[k]) + mean[k] / static_cast<float>(pixels);
  for (int64_t p = 0; p < pixels; ++p)
    for (int64_t k = 0; k < c; ++k) {
      const float centred = to_float(y[p * c + k]) - mean[k];
      m2[k] += centred * centred;
    }
}

DEBLURGAN_CLONES void block_moments(const float* y, int64_t pixels, int64_t c, float* mean, float* m2) {
  block_moments<float>(y, pixels, c, mean, m2);
}

DEBLURGAN_CLONES void block_moments(const BFloat16* y, int64_t pixels, int64_t c, float* mean, float* m2) {
  block_moments<BFloat16>(y, pixels, c, mean, m2);
}

template <class T>
void moments(const MomentsArgs& args, int64_t threads) {
  const int64_t c = args.c, blocks = (args.pixels + kPixels - 1) / kPixels;
  const T* y = static_cast<const T*>(args.y);
  std::vector<float> parts(static_cast<size_t>(blocks * 2 * c));
  const auto pixels_of = [&](int64_t block) { return std::min(kPixels, args.pixels - block * kPixels); };
  parallel_for<NoScratch>(blocks, kElementCost * kPixels * c, threads, [&](NoScratch&, int64_t block) {
    float* mean = &parts[static_cast<size_t>(block * 2 * c)];
    block_moments(y + block * kPixels * c, pixels_of(block), c, mean, mean + c);
  });
  for (int64_t k = 0; k < c; ++k) {
    double mean = parts[static_cast<size_t>(k)], m2 = parts[static_cast<size_t>(c + k)];
    for (int64_t block = 1; block < blocks; ++block) {
      const float* part = &parts[static_cast<size_t>(block * 2 * c)];
      const double before = static_cast<double>(block * kPixels), here = static_cast<double>(pixels_of(block));
      const double share = here / (before + here), shift = part[k] - mean;
      mean += shift * share;
      m2 += part[c + k] + shift * shift * before * share;
    }
    args.moments[k] = static_cast<float>(mean);
    args.moments[c + k] = static_cast<float>(m2);
  }
}

template <class T>
DEBLURGAN_INLINE void activate_row(const T* __restrict y, const T* __restrict residual, T* __restrict out,
                                   const float* __restrict stats, int64_t w, int64_t c, bool relu) {
  const float lowest = relu ? 0.0f : -INFINITY;
  for (int64_t x = 0; x < w; ++x)
    for (int64_t k = 0; k < c; ++k) {
      const int64_t i = x * c + k;
      const float value = (to_float(y[i]) - stats[k]) * stats[c + k];
      const float active = value < lowest ? lowest : value;  // NaN stays
      from_float(residual ? active + to_float(residual[i]) : active, out[i]);
    }
}

DEBLURGAN_CLONES void activate_row(const float* y, const float* residual, float* out, const float* stats, int64_t w,
                                   int64_t c, bool relu) {
  activate_row<float>(y, residual, out, stats, w, c, relu);
}

DEBLURGAN_CLONES void activate_row(const BFloat16* y, const BFloat16* residual, BFloat16* out, const float* stats,
                                   int64_t w, int64_t c, bool relu) {
  activate_row<BFloat16>(y, residual, out, stats, w, c, relu);
}

template <class T>
void activate(const ActivateArgs& args, int64_t threads) {
  const int64_t w = args.w, c = args.c;
  parallel_for<NoScratch>(args.rows, kElementCost * w * c, threads, [&](NoScratch&, int64_t row) {
    const T* residual = static_cast<const T*>(args.residual);
    T* out = static_cast<T*>(args.out) + row * args.out_row;
    activate_row(static_cast<const T*>(args.y) + row * args.y_row,
                 residual ? residual + row * args.residual_row : nullptr, out, args.stats, w, c, args.relu);
    const auto put = [&](int64_t to, int64_t from) {
      if (args.reflect)
        std::copy_n(out + from * c, c, out + to * c);
      else
        std::fill_n(out + to * c, c, T{});
    };
    for (int64_t i = 1; i <= args.border; ++i) {
      put(-i, i);
      put(w - 1 + i, w - 1 - i);
    }
  });
}

}  // namespace

void strip_moments_cpu(const MomentsArgs& args, int64_t threads) {
  args.type == DType::kFloat ? moments<float>(args, threads) : moments<BFloat16>(args, threads);
}

void strip_activate_cpu(const ActivateArgs& args, int64_t threads) {
  args.type == DType::kFloat ? activate<float>(args, threads) : activate<BFloat16>(args, threads);
}

}  // namespace deblurgan
