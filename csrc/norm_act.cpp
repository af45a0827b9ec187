#include "norm_act.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "clones.h"
#include "maths.h"
#include "parallel.h"
#include "strips.h"

namespace deblurgan {
namespace {

constexpr float kEps = 1e-5f;
constexpr int64_t kPixels = 256;      // of a block: a sum of so many fp32 numbers keeps five digits at the least
constexpr double kElementCost = 0.2;  // ns

// What a loop over a block of pixels sees; pointers are at the block's first pixel, statistics at its picture's.
template <class T>
struct Block {
  const T *y, *v, *signal, *tangent;  // v is the residual in the forward pass
  T* out;
  const float* stats;
  const float* factors;  // rows of c, see each loop
  int64_t pixels, c;
  float slope_in, slope_out;
};

template <class T>
DEBLURGAN_INLINE void forward(const Block<T>& block) {
  const T *__restrict y = block.y, *__restrict residual = block.v;
  T* __restrict out = block.out;
  const float *__restrict mean = block.stats, *__restrict rstd = mean + block.c;
  const float slope = block.slope_in;
  const int64_t pixels = block.pixels, c = block.c;
  for (int64_t p = 0; p < pixels; ++p)
#pragma GCC ivdep
    for (int64_t k = 0; k < c; ++k) {
      const int64_t i = p * c + k;
      const float z = (to_float(y[i]) - mean[k]) * rstd[k], active = z > 0.0f || z != z ? z : slope * z;
      from_float(residual ? active + to_float(residual[i]) : active, out[i]);
    }
}

// sums [kCount, c] of e, z e and, of the third, signal times the tangent before its leak.
template <class T, int kCount>
DEBLURGAN_INLINE void add_up(const Block<T>& block, float* sums) {
  const T *__restrict y = block.y, *__restrict v = block.v;
  const T *__restrict signal = block.signal, *__restrict tangent = block.tangent;
  const int64_t pixels = block.pixels, c = block.c;
  const float *__restrict mean = block.stats, *__restrict rstd = mean + c;
  const float slope = block.slope_in, unleak = 1.0f / block.slope_out;
  float *__restrict shift = sums, *__restrict product = sums + c, *__restrict paired = sums + 2 * c;
  std::fill(sums, sums + kCount * c, 0.0f);
  for (int64_t p = 0; p < pixels; ++p)
#pragma GCC ivdep
    for (int64_t k = 0; k < c; ++k) {
      const int64_t i = p * c + k;
      const float z = (to_float(y[i]) - mean[k]) * rstd[k];
      const float e = to_float(v[i]) * (z > 0.0f ? 1.0f : slope);
      shift[k] += e;
      product[k] += z * e;
      if (kCount == 3) paired[k] += to_float(signal[i]) * to_float(tangent[i]) * (z > 0.0f ? 1.0f : unleak);
    }
}

// By factors mean(e), mean(z e).
template <class T>
DEBLURGAN_INLINE void jacobian(const Block<T>& block) {
  const T *__restrict y = block.y, *__restrict v = block.v;
  T* __restrict out = block.out;
  const int64_t pixels = block.pixels, c = block.c;
  const float *__restrict mean = block.stats, *__restrict rstd = mean + c;
  const float *__restrict shift = block.factors, *__restrict product = shift + c;
  const float slope_in = block.slope_in, slope_out = block.slope_out;
  for (int64_t p = 0; p < pixels; ++p)
#pragma GCC ivdep
    for (int64_t k = 0; k < c; ++k) {
      const int64_t i = p * c + k;
      const float z = (to_float(y[i]) - mean[k]) * rstd[k];
      const float e = to_float(v[i]) * (z > 0.0f ? 1.0f : slope_in);
      const float made = rstd[k] * (e - shift[k] - z * product[k]);
      from_float(made * (z > 0.0f ? 1.0f : slope_out), out[i]);
    }
}

// By factors mean(e), what z, signal and the tangent before its leak are multiplied by.
template <class T>
DEBLURGAN_INLINE void second(const Block<T>& block) {
  const T *__restrict y = block.y, *__restrict v = block.v;
  const T *__restrict signal = block.signal, *__restrict tangent = block.tangent;
  T* __restrict out = block.out;
  const int64_t pixels = block.pixels, c = block.c;
  const float *__restrict mean = block.stats, *__restrict rstd = mean + c;
  const float *__restrict shift = block.factors, *__restrict of_z = shift + c;
  const float *__restrict of_signal = of_z + c, *__restrict of_tangent = of_signal + c;
  const float slope = block.slope_in, unleak = 1.0f / block.slope_out;
  for (int64_t p = 0; p < pixels; ++p)
#pragma GCC ivdep
    for (int64_t k = 0; k < c; ++k) {
      const int64_t i = p * c + k;
      const float z = (to_float(y[i]) - mean[k]) * rstd[k];
      const float e = to_float(v[i]) * (z > 0.0f ? 1.0f : slope);
      const float before_leak = to_float(tangent[i]) * (z > 0.0f ? 1.0f : unleak);
      const float known = of_z[k] * z + of_signal[k] * to_float(signal[i]) + of_tangent[k] * before_leak;
      from_float(rstd[k] * (e - shift[k] - known), out[i]);
    }
}

#define DEBLURGAN_LOOPS(T)                                                                             \
  DEBLURGAN_CLONES void forward_block(const Block<T>& block) { forward<T>(block); }                    \
  DEBLURGAN_CLONES void add_up_two(const Block<T>& block, float* sums) { add_up<T, 2>(block, sums); }   \
  DEBLURGAN_CLONES void add_up_three(const Block<T>& block, float* sums) { add_up<T, 3>(block, sums); } \
  DEBLURGAN_CLONES void jacobian_block(const Block<T>& block) { jacobian<T>(block); }                  \
  DEBLURGAN_CLONES void second_block(const Block<T>& block) { second<T>(block); }
DEBLURGAN_LOOPS(float)
DEBLURGAN_LOOPS(BFloat16)
#undef DEBLURGAN_LOOPS

int64_t blocks_of(const Planes& planes) { return (planes.pixels + kPixels - 1) / kPixels; }

// Calls task(picture, block of the picture, its first element, its pixels), on all threads.
template <class Task>
void for_blocks(const Planes& planes, int64_t threads, const Task& task) {
  const int64_t blocks = blocks_of(planes);
  parallel_for<NoScratch>(planes.n * blocks, kElementCost * kPixels * planes.c, threads, [&](NoScratch&, int64_t i) {
    const int64_t picture = i / blocks, first = i % blocks * kPixels;
    task(picture, i % blocks, (picture * planes.pixels + first) * planes.c, std::min(kPixels, planes.pixels - first));
  });
}

// [n, count, c]: means over the pixels of what add(picture, element, pixels, sums) adds up, [count, c] a block.
template <class Add>
std::vector<float> means(const Planes& planes, int64_t count, int64_t threads, const Add& add) {
  const int64_t blocks = blocks_of(planes), width = count * planes.c;
  std::vector<float> parts(static_cast<size_t>(planes.n * blocks * width));
  for_blocks(planes, threads, [&](int64_t picture, int64_t block, int64_t element, int64_t pixels) {
    add(picture, element, pixels, &parts[static_cast<size_t>((picture * blocks + block) * width)]);
  });
  std::vector<float> found(static_cast<size_t>(planes.n * width));
  std::vector<double> total(static_cast<size_t>(width));
  for (int64_t picture = 0; picture < planes.n; ++picture) {
    std::fill(total.begin(), total.end(), 0.0);
    for (int64_t block = 0; block < blocks; ++block)
      for (int64_t k = 0; k < width; ++k)
        total[static_cast<size_t>(k)] += parts[static_cast<size_t>((picture * blocks + block) * width + k)];
    for (int64_t k = 0; k < width; ++k)
      found[static_cast<size_t>(picture * width + k)] =
          static_cast<float>(total[static_cast<size_t>(k)] / static_cast<double>(planes.pixels));
  }
  return found;
}

template <class T>
const T* at(const void* pictures, int64_t element) {
  return pictures ? static_cast<const T*>(pictures) + element : nullptr;
}

template <class T>
void norm_act(const NormActArgs& args, int64_t threads) {
  const auto& [type, n, pixels, c] = args.planes;
  for (int64_t i = 0; i < n; ++i) {
    float* stats = args.stats + i * 2 * c;
    strip_moments_cpu({at<T>(args.y, i * pixels * c), type, stats, pixels, c}, threads);
    for (int64_t k = c; k < 2 * c; ++k) stats[k] = 1.0f / std::sqrt(stats[k] / static_cast<float>(pixels) + kEps);
  }
  for_blocks(args.planes, threads, [&](int64_t picture, int64_t, int64_t element, int64_t count) {
    const float* stats = args.stats + picture * 2 * args.planes.c;
    forward_block(Block<T>{at<T>(args.y, element), at<T>(args.residual, element), nullptr, nullptr,
                           static_cast<T*>(args.out) + element, stats, nullptr, count, args.planes.c, args.slope,
                           1.0f});
  });
}

template <class T>
void norm_act_grad(const NormActGradArgs& args, int64_t threads) {
  const int64_t c = args.planes.c;
  const auto block_at = [&](int64_t picture, int64_t element, int64_t count) {
    return Block<T>{at<T>(args.y, element), at<T>(args.v, element), nullptr, nullptr,
                    static_cast<T*>(args.out) + element, args.stats + picture * 2 * c, args.sums + picture * 2 * c,
                    count, c, args.slope_in, args.slope_out};
  };
  const std::vector<float> sums =
      means(args.planes, 2, threads, [&](int64_t picture, int64_t element, int64_t count, float* part) {
        add_up_two(block_at(picture, element, count), part);
      });
  std::copy(sums.begin(), sums.end(), args.sums);
  for_blocks(args.planes, threads, [&](int64_t picture, int64_t, int64_t element, int64_t count) {
    jacobian_block(block_at(picture, element, count));
  });
}

template <class T>
void norm_act_second(const NormActSecondArgs& args, int64_t threads) {
  const int64_t n = args.planes.n, c = args.planes.c;
  std::vector<float> factors(static_cast<size_t>(n * 4 * c));
  const auto block_at = [&](int64_t picture, int64_t element, int64_t count) {
    return Block<T>{at<T>(args.y, element), at<T>(args.v, element), at<T>(args.signal, element),
                    at<T>(args.tangent, element), static_cast<T*>(args.out) + element, args.stats + picture * 2 * c,
                    &factors[static_cast<size_t>(picture * 4 * c)], count, c, args.slope, args.slope};
  };
  const std::vector<float> sums =
      means(args.planes, 3, threads, [&](int64_t picture, int64_t element, int64_t count, float* part) {
        add_up_three(block_at(picture, element, count), part);
      });
  for (int64_t picture = 0; picture < n; ++picture)
    for (int64_t k = 0; k < c; ++k) {
      const float* found = &sums[static_cast<size_t>(picture * 3 * c + k)];
      const float rstd = args.stats[picture * 2 * c + c + k];
      const float a = args.signal_sums[picture * 2 * c + c + k], m = args.tangent_sums[picture * 2 * c + c + k];
      float* factor = &factors[static_cast<size_t>(picture * 4 * c + k)];
      factor[0] = found[0];
      factor[c] = found[c] + found[2 * c] / rstd + a * m * kEps * rstd * rstd * rstd;
      factor[2 * c] = m;
      factor[3 * c] = a;
    }
  for_blocks(args.planes, threads, [&](int64_t picture, int64_t, int64_t element, int64_t count) {
    second_block(block_at(picture, element, count));
  });
}

// The indices in [-border, n + border) that mirror into i: how many, and which, i first.
struct Mirrored {
  int count = 0;
  std::array<int64_t, 3> index{};

  Mirrored(int64_t i, int64_t n, int64_t border) {
    index[static_cast<size_t>(count++)] = i;
    if (i >= 1 && i <= border) index[static_cast<size_t>(count++)] = -i;
    if (i <= n - 2 && i >= n - 1 - border) index[static_cast<size_t>(count++)] = 2 * (n - 1) - i;
  }
};

template <class T>
DEBLURGAN_INLINE void add_row(const T* __restrict x, float* __restrict sums, int64_t count) {
  for (int64_t k = 0; k < count; ++k) sums[k] += to_float(x[k]);
}
template <class T>
DEBLURGAN_INLINE void round_row(const float* __restrict sums, T* __restrict out, int64_t count) {
  for (int64_t k = 0; k < count; ++k) from_float(sums[k], out[k]);
}
#define DEBLURGAN_LOOPS(T)                                                                                      \
  DEBLURGAN_CLONES void add_row_of(const T* x, float* sums, int64_t count) { add_row<T>(x, sums, count); }      \
  DEBLURGAN_CLONES void round_row_of(const float* sums, T* out, int64_t count) { round_row<T>(sums, out, count); }
DEBLURGAN_LOOPS(float)
DEBLURGAN_LOOPS(BFloat16)
#undef DEBLURGAN_LOOPS

template <class T>
void reflect_pad(const ReflectPadArgs& args, int64_t threads) {
  const int64_t rows = args.h + 2 * args.border, columns = args.w + 2 * args.border;
  parallel_for<NoScratch>(args.n * rows, kElementCost * columns * args.c, threads, [&](NoScratch&, int64_t i) {
    const int64_t picture = i / rows, row = border_index(i % rows - args.border, args.h, Padding::kReflect);
    const T* from = static_cast<const T*>(args.x) + (picture * args.h + row) * args.w * args.c;
    T* inside = static_cast<T*>(args.out) + (i * columns + args.border) * args.c;
    std::copy_n(from, args.w * args.c, inside);
    for (int64_t j = 1; j <= args.border; ++j) {
      std::copy_n(from + j * args.c, args.c, inside - j * args.c);
      std::copy_n(from + (args.w - 1 - j) * args.c, args.c, inside + (args.w - 1 + j) * args.c);
    }
  });
}

template <class T>
void reflect_pad_grad(const ReflectPadArgs& args, int64_t threads) {
  const int64_t h = args.h, w = args.w, c = args.c, border = args.border;
  const int64_t rows = h + 2 * border, columns = w + 2 * border;
  parallel_for<std::vector<float>>(args.n * h, kElementCost * columns * c, threads, [&](auto& sums, int64_t i) {
    sums.assign(static_cast<size_t>(w * c), 0.0f);
    const Mirrored sources(i % h, h, border);
    for (int s = 0; s < sources.count; ++s) {
      const int64_t row = i / h * rows + sources.index[static_cast<size_t>(s)] + border;
      const T* inside = static_cast<const T*>(args.x) + (row * columns + border) * c;
      add_row_of(inside, sums.data(), w * c);
      for (int64_t j = 1; j <= border; ++j) {
        add_row_of(inside - j * c, &sums[static_cast<size_t>(j * c)], c);
        add_row_of(inside + (w - 1 + j) * c, &sums[static_cast<size_t>((w - 1 - j) * c)], c);
      }
    }
    round_row_of(sums.data(), static_cast<T*>(args.out) + i * w * c, w * c);
  });
}

}  // namespace

void norm_act_cpu(const NormActArgs& args, int64_t threads) {
  args.planes.type == DType::kFloat ? norm_act<float>(args, threads) : norm_act<BFloat16>(args, threads);
}

void norm_act_grad_cpu(const NormActGradArgs& args, int64_t threads) {
  args.planes.type == DType::kFloat ? norm_act_grad<float>(args, threads) : norm_act_grad<BFloat16>(args, threads);
}

void norm_act_second_cpu(const NormActSecondArgs& args, int64_t threads) {
  args.planes.type == DType::kFloat ? norm_act_second<float>(args, threads) : norm_act_second<BFloat16>(args, threads);
}

void reflect_pad_cpu(const ReflectPadArgs& args, int64_t threads) {
  args.type == DType::kFloat ? reflect_pad<float>(args, threads) : reflect_pad<BFloat16>(args, threads);
}

void reflect_pad_grad_cpu(const ReflectPadArgs& args, int64_t threads) {
  args.type == DType::kFloat ? reflect_pad_grad<float>(args, threads) : reflect_pad_grad<BFloat16>(args, threads);
}

}  // namespace deblurgan
