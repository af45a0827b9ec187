// The arithmetic of the random draws and of pixel values: the same bytes on every machine.
//
// Only + - * / and sqrt are used, which IEEE 754 rounds one way; the library's log, exp and sincos differ between libms
// and between host and device, so polynomials replace them here. Compile without contraction into fma
// (-ffp-contract=off, -fmad=false). Nothing branches on data, so that loops over these functions become vector code.
//
// Sources: Philox is Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"; the normal deviates are Box and
// Muller's (1958). DEBLURGAN_INLINE marks a function for host and device alike, which is always inlined on the host.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define DEBLURGAN_INLINE __host__ __device__ inline
#elif defined(__GNUC__)
#define DEBLURGAN_INLINE inline __attribute__((always_inline))
#else
#define DEBLURGAN_INLINE inline
#endif

namespace deblurgan {

struct Words {
  uint32_t v[4];
};

// Philox4x32-10: four random words for each key and counter (index, draw, rng_stream).
DEBLURGAN_INLINE Words philox(uint64_t key, uint64_t index, uint32_t draw, uint32_t rng_stream) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  uint32_t c0 = static_cast<uint32_t>(index), c1 = static_cast<uint32_t>(index >> 32), c2 = draw, c3 = rng_stream;
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c0;
    const uint64_t p1 = uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// Uniform in [0, 1), a multiple of 2^-24.
DEBLURGAN_INLINE float uniform(uint32_t word) { return static_cast<float>(static_cast<int32_t>(word >> 8)) * 0x1p-24f; }

// Uniform in (0, 1], for a logarithm.
DEBLURGAN_INLINE float uniform_positive(uint32_t word) {
  return static_cast<float>(static_cast<int32_t>(word >> 8) + 1) * 0x1p-24f;
}

DEBLURGAN_INLINE uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

DEBLURGAN_INLINE float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

struct Binary {
  float exponent, mantissa;  // x = mantissa 2^exponent, mantissa in [sqrt(1/2), sqrt(2))
};

// Of a normal positive x.
DEBLURGAN_INLINE Binary split(float x) {
  const uint32_t bits = bits_of(x);
  const int32_t e = static_cast<int32_t>(bits - 0x3F3504F3u) >> 23;  // sqrt(1/2)
  return {static_cast<float>(e), float_of(bits - (static_cast<uint32_t>(e) << 23))};
}

// log(m) = 2 atanh((m - 1) / (m + 1)), m in [sqrt(1/2), sqrt(2)).
DEBLURGAN_INLINE float log_mantissa(float m) {
  const float f = (m - 1.0f) / (m + 1.0f);
  const float z = f * f;
  return 2.0f * f * (1.0f + z * (0.33333333f + z * (0.2f + z * (0.14285714f + z * 0.11111111f))));
}

// Natural logarithm of a normal positive x.
DEBLURGAN_INLINE float log_positive(float x) {
  const Binary b = split(x);
  return log_mantissa(b.mantissa) + b.exponent * 0.69314718f;
}

constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding and subtracting it rounds to the nearest integer

// x^power for power > 0; x below 2^-126 counts as 0, infinity and NaN stay. The relative error is about 1e-6.
DEBLURGAN_INLINE float power_positive(float x, float power) {
  const bool zero = x < 0x1p-126f, finite = x <= 3.4028235e38f;
  const Binary b = split(zero || !finite ? 1.0f : x);
  const float whole = power * b.exponent;  // the exponent of two of the result is whole + part
  const float part = power * (log_mantissa(b.mantissa) * 1.44269504f);  // kept apart until r, or digits are lost
  const float n = (whole + part + kRound) - kRound;
  const float r = ((whole - n) + part) * 0.69314718f;  // [-0.35, 0.35]
  const float series =
      1.0f +
      r * (1.0f + r * (0.5f + r * (0.16666667f + r * (4.1666667e-2f + r * (8.3333333e-3f + r * 1.3888889e-3f)))));
  const float bounded = n < -126.0f ? -126.0f : (n > 127.0f ? 127.0f : n);
  const float scaled = series * float_of(static_cast<uint32_t>(static_cast<int32_t>(bounded) + 127) << 23);
  return zero ? 0.0f : (finite ? scaled : x);
}

struct Complex {
  float re, im;
};

// cos and sin of 2 pi `turns`, |turns| < 2^20.
DEBLURGAN_INLINE Complex unit_vector(float turns) {
  const float whole = (turns + kRound) - kRound;
  const float r = turns - whole;                       // [-1/2, 1/2]
  const float quarter = (4.0f * r + kRound) - kRound;  // -2 ... 2
  const float x = 6.2831853f * (r - 0.25f * quarter);  // [-pi/4, pi/4]
  const float z = x * x;
  const float s = x * (1.0f + z * (-0.16666667f + z * (8.3333333e-3f + z * (-1.9841270e-4f + z * 2.7557319e-6f))));
  const float c = 1.0f + z * (-0.5f + z * (4.1666667e-2f + z * (-1.3888889e-3f + z * 2.4801587e-5f)));
  const int32_t q = static_cast<int32_t>(quarter);
  const float re = (q & 1) ? s : c, im = (q & 1) ? c : s;
  return {((q + 1) & 2) ? -re : re, (q & 2) ? -im : im};
}

// Two independent normal deviates from two words (Box and Muller).
DEBLURGAN_INLINE Complex normal_pair(uint32_t radius_word, uint32_t angle_word) {
  const float radius = sqrtf(-2.0f * log_positive(uniform_positive(radius_word)));
  const Complex direction = unit_vector(uniform(angle_word));
  return {radius * direction.re, radius * direction.im};
}

}  // namespace deblurgan
