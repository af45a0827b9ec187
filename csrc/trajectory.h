// The camera-shake path of DeblurGAN (after Boracchi and Foi 2012), one per (seed, index).
//
//   v <- v + thrown v + anxiety (gauss (n1 + i n2) - spring x) step,   then |v| <- step,   x <- x + v
//
// An impulse (probability shake * anxiety a step) throws the velocity back by about half a turn: thrown is then
// 2 e^(i (pi +- 0.5)), else 0. The spring pulls to the starting point. The first velocity has modulus `anxiety`, not
// `step`, unless anxiety is 0: as released.
#pragma once
#include "maths.h"

namespace deblurgan {

// The streams of one index's Philox counter. kNoise takes the bits above 8 for pixels past 2^34; kDropout is the first
// of as many as a network has masks.
enum Stream : uint32_t { kSteps = 0, kSetup = 1, kChoices = 2, kNoise = 3, kWindow = 4, kDropout = 16 };

// What is drawn once a path.
struct Shake {
  float step, impulse_probability, jerk, jerk_spring;  // jerk = anxiety step gauss, jerk_spring = anxiety step spring
  Complex velocity;
};

DEBLURGAN_INLINE Shake draw_shake(int64_t steps, float length, float anxiety, uint64_t seed, uint64_t index) {
  const Words words = philox(seed, index, 0, kSetup);
  const float step = steps > 1 ? length / static_cast<float>(steps - 1) : 0.0f;
  const float speed = anxiety > 0.0f ? anxiety : step;
  const Complex start = unit_vector(uniform(words.v[3]));
  const float spring = 0.7f * uniform(words.v[0]);
  const float shake = 0.2f * uniform(words.v[1]);
  const float gauss = 10.0f * uniform(words.v[2]);
  return {step, shake * anxiety, anxiety * step * gauss, anxiety * step * spring, {speed * start.re, speed * start.im}};
}

// What is drawn at each step.
struct Kick {
  Complex noise, thrown;
};

DEBLURGAN_INLINE Kick draw_kick(const Shake& shake, uint64_t seed, uint64_t index, uint32_t t) {
  const Words words = philox(seed, index, t, kSteps);
  const Complex normal = normal_pair(words.v[2], words.v[3]);
  const Complex back = unit_vector(0.5f + (uniform(words.v[1]) - 0.5f) * 0.15915494f);  // half a turn +- half a radian
  const float factor = uniform(words.v[0]) < shake.impulse_probability ? 2.0f : 0.0f;
  return {{shake.jerk * normal.re, shake.jerk * normal.im}, {factor * back.re, factor * back.im}};
}

struct PathState {
  Complex at, velocity;
};

DEBLURGAN_INLINE PathState advance(const PathState& path, const Shake& shake, const Kick& kick) {
  const Complex v = path.velocity;
  const float dx = kick.noise.re - shake.jerk_spring * path.at.re + (v.re * kick.thrown.re - v.im * kick.thrown.im);
  const float dy = kick.noise.im - shake.jerk_spring * path.at.im + (v.re * kick.thrown.im + v.im * kick.thrown.re);
  const float vx = v.re + dx, vy = v.im + dy;
  const float norm = sqrtf(vx * vx + vy * vy);
  const float scale = norm > 0.0f ? shake.step / norm : 0.0f;
  const Complex velocity{vx * scale, vy * scale};
  return {{path.at.re + velocity.re, path.at.im + velocity.im}, velocity};
}

}  // namespace deblurgan
