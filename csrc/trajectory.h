// The camera-shake path of DeblurGAN (after Boracchi and Foi 2012), one per (seed, index).
#pragma once
#include "maths.h"

namespace deblurgan {

// The streams of one index's Philox counter.
enum Stream : uint32_t { kSteps = 0, kSetup = 1, kChoices = 2 };

// Writes `steps` points (x, y) in px to `path`; the path starts at the origin and is `length` px long.
//
//   v <- v + impulse + anxiety (gauss (n1 + i n2) - spring x) step,   then |v| <- step,   x <- x + v
//
// An impulse (probability shake * anxiety a step) throws the velocity back by about half a turn. The spring pulls to
// the starting point. The first velocity has modulus `anxiety`, not `step`, unless anxiety is 0: as released.
DEBLURGAN_INLINE void random_trajectory(float* path, int64_t steps, float length, float anxiety, uint64_t seed,
                                        uint64_t index) {
  const Words setup = philox(seed, index, 0, kSetup);
  const float spring = 0.7f * uniform(setup.v[0]);
  const float shake = 0.2f * uniform(setup.v[1]);
  const float gauss = 10.0f * uniform(setup.v[2]);
  const Complex start = unit_vector(uniform(setup.v[3]));
  const float step = steps > 1 ? length / static_cast<float>(steps - 1) : 0.0f;
  const float speed = anxiety > 0.0f ? anxiety : step;
  const float impulse_probability = shake * anxiety;
  const float jerk = anxiety * step;
  float vx = speed * start.re, vy = speed * start.im;
  float x = 0.0f, y = 0.0f;
  path[0] = path[1] = 0.0f;
  for (int64_t t = 0; t + 1 < steps; ++t) {
    const Words draw = philox(seed, index, static_cast<uint32_t>(t), kSteps);
    const float radius = sqrtf(-2.0f * log_positive(uniform_positive(draw.v[2])));
    const Complex normal = unit_vector(uniform(draw.v[3]));  // Box-Muller
    float dx = jerk * (gauss * (radius * normal.re) - spring * x);
    float dy = jerk * (gauss * (radius * normal.im) - spring * y);
    if (uniform(draw.v[0]) < impulse_probability) {
      const float half_turn = 0.5f + (uniform(draw.v[1]) - 0.5f) * 0.15915494f;  // half a turn +- half a radian
      const Complex back = unit_vector(half_turn);
      dx += 2.0f * (vx * back.re - vy * back.im);
      dy += 2.0f * (vx * back.im + vy * back.re);
    }
    vx += dx;
    vy += dy;
    const float norm = sqrtf(vx * vx + vy * vy);
    const float scale = norm > 0.0f ? step / norm : 0.0f;
    vx *= scale;
    vy *= scale;
    x += vx;
    y += vy;
    path[2 * t + 2] = x;
    path[2 * t + 3] = y;
  }
}

}  // namespace deblurgan
