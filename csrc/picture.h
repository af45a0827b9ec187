// Pixels: their types and the conversions between them, their light, what lies past a picture's border, and noise.
//
// Half and BFloat16 hold the bits of IEEE binary16 and bfloat16. Conversions round to nearest, ties to even (uint8_t:
// halves up, clamped to [0, 255]), the same on CPU and GPU. Light is value^gamma, both 1 at white. Noise comes in units
// of its standard deviation.
#pragma once
#include <cstdint>

#include "draws.h"
#include "maths.h"

#ifdef __CUDA_ARCH__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace deblurgan {

enum class DType { kUint8, kHalf, kBFloat16, kFloat };
enum class Padding { kReflect, kReplicate, kZero };

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

DEBLURGAN_INLINE float to_float(float value) { return value; }
DEBLURGAN_INLINE float to_float(uint8_t value) { return static_cast<float>(value); }
DEBLURGAN_INLINE float to_float(BFloat16 value) { return float_of(static_cast<uint32_t>(value.bits) << 16); }
DEBLURGAN_INLINE float to_float(Half value) {
#ifdef __CUDA_ARCH__
  return __half2float(__ushort_as_half(value.bits));
#else
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16, rest = value.bits & 0x7FFFu;
  const float finite = float_of(rest << 13) * 0x1p112f;  // the product is right for denormals too
  return float_of(sign | (rest >= 0x7C00u ? (rest << 13) + 0x70000000u : bits_of(finite)));
#endif
}

DEBLURGAN_INLINE void from_float(float value, float& out) { out = value; }

// To the nearest level, halves up; NaN gives 0.
DEBLURGAN_INLINE void from_float(float value, uint8_t& out) {
  const float level = value + 0.5f;
  const float bounded = level > 0.0f ? level : 0.0f;  // first, so that both bounds become one instruction
  out = static_cast<uint8_t>(static_cast<int32_t>(bounded < 255.0f ? bounded : 255.0f));
}

// Rounds to the nearest, ties to even; from_float to Half does too.
DEBLURGAN_INLINE void from_float(float value, BFloat16& out) {
  const uint32_t bits = bits_of(value);
  const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  out.bits = static_cast<uint16_t>(value != value ? 0x7FC0u : rounded);
}

DEBLURGAN_INLINE void from_float(float value, Half& out) {
#ifdef __CUDA_ARCH__
  out.bits = __half_as_ushort(__float2half_rn(value));
#else
  const uint32_t sign = (bits_of(value) >> 16) & 0x8000u;
  const uint32_t magnitude = bits_of(value) & 0x7FFFFFFFu;
  const uint32_t odd = (magnitude >> 13) & 1u;
  const uint32_t normal = (magnitude - 0x38000000u + 0xFFFu + odd) >> 13;
  const uint32_t denormal =
      bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);  // the sum rounds to multiples of 2^-24
  const uint32_t finite = magnitude < 0x38800000u ? denormal : normal;
  const uint32_t large = magnitude > 0x7F800000u ? 0x7E00u : 0x7C00u;  // NaN, or what rounds to infinity
  out.bits = static_cast<uint16_t>(sign | (magnitude >= 0x477FF000u ? large : finite));
#endif
}

// [0, white] to [-1, 1]
DEBLURGAN_INLINE float signed_value(float x, float white) {
  const float y = x * (2.0f / white) - 1.0f;
  return y < -1.0f ? -1.0f : (y > 1.0f ? 1.0f : y);
}

// The light of a value in [0, 1]; `highlight` is the light beyond white that a value at white has lost.
DEBLURGAN_INLINE float light_of(float value, float gamma, float highlight) {
  const float light = gamma == 1.0f ? value : power_positive(value, gamma);
  return light + (value >= 1.0f ? highlight : 0.0f);
}

DEBLURGAN_INLINE float clipped(float light) { return light < 0.0f ? 0.0f : (light > 1.0f ? 1.0f : light); }

// A sensor's noise: shot noise of variance `shot` at white, in proportion to light, and read noise of deviation `read`.
struct Sensor {
  float shot, read;
};

DEBLURGAN_INLINE float sensed(float light, Sensor sensor, float normal) {
  return light + sqrtf(sensor.shot * clipped(light) + sensor.read * sensor.read) * normal;
}

// Which pixel of a line of n pixels is read at index i, which may lie past its ends; -1 where zero is read instead.
DEBLURGAN_INLINE int64_t border_index(int64_t i, int64_t n, Padding padding) {
  if (i >= 0 && i < n) return i;
  if (padding == Padding::kZero) return -1;
  if (padding == Padding::kReplicate || n == 1) return i < 0 ? 0 : n - 1;
  const int64_t period = 2 * (n - 1);
  i = (i < 0 ? -i : i) % period;
  return i < n ? i : period - i;
}

// Standard normal numbers for elements 2 pair and 2 pair + 1 of picture `index`; element e is that of
// e = (channel * height + row) * width + column. `purpose` is kNoise or kSensor.
DEBLURGAN_INLINE Complex noise_pair(RngStream purpose, uint64_t seed, uint64_t index, uint64_t pair) {
  const uint32_t rng_stream = static_cast<uint32_t>(purpose) | static_cast<uint32_t>(pair >> 32) << 8;
  const Words words = philox(seed, index, static_cast<uint32_t>(pair), rng_stream);
  return normal_pair(words.v[0], words.v[1]);
}

// One of them, for element e.
DEBLURGAN_INLINE float pixel_noise(RngStream purpose, uint64_t seed, uint64_t index, uint64_t e) {
  const Complex normal = noise_pair(purpose, seed, index, e >> 1);
  return (e & 1) ? normal.im : normal.re;
}

}  // namespace deblurgan
