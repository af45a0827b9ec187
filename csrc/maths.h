// The arithmetic of the random draws, the same bytes on every machine.
//
// Only + - * / and sqrt are used, which IEEE 754 rounds one way; the library's log and sincos differ between libms and
// between host and device, so both stand here as polynomials. Compile without contraction into fma
// (-ffp-contract=off, -fmad=false).
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define DEBLURGAN_INLINE __host__ __device__ inline
#else
#define DEBLURGAN_INLINE inline
#endif

namespace deblurgan {

struct Words {
  uint32_t v[4];
};

// Philox4x32-10 (Salmon et al. 2011): four random words for each (key, counter).
DEBLURGAN_INLINE Words philox(uint64_t key, uint64_t index, uint32_t draw, uint32_t stream) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  Words c{{static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), draw, stream}};
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c.v[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57u} * c.v[2];
    c = Words{{static_cast<uint32_t>(p1 >> 32) ^ c.v[1] ^ k0, static_cast<uint32_t>(p1),
               static_cast<uint32_t>(p0 >> 32) ^ c.v[3] ^ k1, static_cast<uint32_t>(p0)}};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

// Uniform in [0, 1), a multiple of 2^-24.
DEBLURGAN_INLINE float uniform(uint32_t word) { return static_cast<float>(word >> 8) * 0x1p-24f; }

// Uniform in (0, 1], for a logarithm.
DEBLURGAN_INLINE float uniform_positive(uint32_t word) { return static_cast<float>((word >> 8) + 1) * 0x1p-24f; }

// Natural logarithm of a normal positive x: x = m 2^e with m in [sqrt(1/2), sqrt(2)), log m = 2 atanh((m-1)/(m+1)).
DEBLURGAN_INLINE float log_positive(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  const uint32_t shifted = bits - 0x3F3504F3u;  // sqrt(1/2)
  const int32_t e = static_cast<int32_t>(shifted) >> 23;
  bits -= static_cast<uint32_t>(e) << 23;
  float m;
  memcpy(&m, &bits, sizeof m);
  const float f = (m - 1.0f) / (m + 1.0f);
  const float z = f * f;
  const float series = 1.0f + z * (0.33333333f + z * (0.2f + z * (0.14285714f + z * 0.11111111f)));
  return 2.0f * f * series + static_cast<float>(e) * 0.69314718f;
}

struct Complex {
  float re, im;
};

// cos and sin of 2 pi `turns`, |turns| < 2^20.
DEBLURGAN_INLINE Complex unit_vector(float turns) {
  const float kRound = 12582912.0f;  // 1.5 * 2^23: adding and subtracting it rounds to the nearest integer
  const float whole = (turns + kRound) - kRound;
  const float r = turns - whole;                          // [-1/2, 1/2]
  const float quarter = (4.0f * r + kRound) - kRound;     // -2 ... 2
  const float x = 6.2831853f * (r - 0.25f * quarter);     // [-pi/4, pi/4]
  const float z = x * x;
  const float s = x * (1.0f + z * (-0.16666667f + z * (8.3333333e-3f + z * (-1.9841270e-4f + z * 2.7557319e-6f))));
  const float c = 1.0f + z * (-0.5f + z * (4.1666667e-2f + z * (-1.3888889e-3f + z * 2.4801587e-5f)));
  switch (static_cast<int>(quarter) & 3) {
    case 0: return {c, s};
    case 1: return {-s, c};
    case 2: return {-c, -s};
    default: return {s, -c};
  }
}

}  // namespace deblurgan
