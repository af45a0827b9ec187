#include "convolve.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("fp-contract=fast")
#endif

namespace deblurgan {
namespace {

#define DEBLURGAN_FORCED inline __attribute__((always_inline))

// Sixteen neighbouring elements, at any address.
typedef float Lanes __attribute__((vector_size(64), aligned(4), may_alias));

template <int kFirst, int kLast, int kWide>
DEBLURGAN_FORCED void accumulate(const float* source, const RowTaps& taps, Lanes (&sums)[kRows][kWide]) {
  for (const RowTap& tap : taps.of[kFirst][kLast]) {
    const Lanes* x = reinterpret_cast<const Lanes*>(source + tap.offset);
#pragma GCC unroll 4
    for (int k = 0; k < kWide; ++k) {
      const Lanes pixels = x[k];
#pragma GCC unroll 4
      for (int row = kFirst; row <= kLast; ++row) sums[row][k] += tap.weight[row] * pixels;
    }
  }
}

// A block of 16 kWide columns.
template <int kWide>
DEBLURGAN_FORCED void convolve(const float* source, const RowTaps& taps, float* out, int64_t pitch) {
  static_assert(kRows == 4);
  Lanes sums[kRows][kWide] = {};
  accumulate<0, 0>(source, taps, sums);
  accumulate<0, 1>(source, taps, sums);
  accumulate<0, 2>(source, taps, sums);
  accumulate<0, 3>(source, taps, sums);
  accumulate<1, 1>(source, taps, sums);
  accumulate<1, 2>(source, taps, sums);
  accumulate<1, 3>(source, taps, sums);
  accumulate<2, 2>(source, taps, sums);
  accumulate<2, 3>(source, taps, sums);
  accumulate<3, 3>(source, taps, sums);
  for (int row = 0; row < kRows; ++row)
    for (int k = 0; k < kWide; ++k) reinterpret_cast<Lanes*>(out + row * pitch)[k] = sums[row][k];
}

using Convolve = void (*)(const float* source, const RowTaps& taps, float* out, int64_t pitch);

// Blocks are as wide as the sums fit into the CPU's registers.
void convolve_plain(const float* source, const RowTaps& taps, float* out, int64_t pitch) {
  for (int64_t j = 0; j < kColumns; j += 16) convolve<1>(source + j, taps, out + j, pitch);
}

#if defined(__x86_64__) && defined(__GNUC__)
__attribute__((target("avx512f"))) void convolve_avx512(const float* source, const RowTaps& taps, float* out,
                                                        int64_t pitch) {
  convolve<4>(source, taps, out, pitch);
}

__attribute__((target("avx2,fma"))) void convolve_avx2(const float* source, const RowTaps& taps, float* out,
                                                       int64_t pitch) {
  for (int64_t j = 0; j < kColumns; j += 16) convolve<1>(source + j, taps, out + j, pitch);
}

Convolve best() {
  if (__builtin_cpu_supports("avx512f")) return convolve_avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return convolve_avx2;
  return convolve_plain;
}
#else
Convolve best() { return convolve_plain; }
#endif

}  // namespace

void convolve_block(const float* source, const RowTaps& taps, float* out, int64_t pitch) {
  static const Convolve chosen = best();
  chosen(source, taps, out, pitch);
}

}  // namespace deblurgan
