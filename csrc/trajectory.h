// The camera-shake path of DeblurGAN (Kupyn et al. 2018, section 4, after Boracchi and Foi 2012), with the constants of
// its released generate_trajectory.py; one path for each (seed, index). Positions are (x, y) in px from the start.
//
//   v <- v + thrown v + anxiety (gauss (n1 + i n2) - spring x) step,   then |v| <- step,   x <- x + v
//
// An impulse (probability shake * anxiety a step) throws the velocity back by about half a turn: thrown is then
// 2 e^(i (pi +- 0.5)), else 0. The spring pulls to the starting point. The first velocity has modulus `anxiety`, or
// `step` where anxiety is 0, as in the released code.
//
// random_trajectories_cpu takes the most threads to use; random_trajectories_cuda works on the memory of `device`, is
// queued on its CUDA stream `stream`, never waits for it, and throws std::runtime_error where CUDA refuses.
#pragma once
#include <cmath>
#include <cstdint>

#include "draws.h"
#include "maths.h"

namespace deblurgan {

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

struct TrajectoryArgs {
  Draws draws;
  const float* anxiety;  // [n]
  float* out;            // [n, steps, 2], (x, y) px
  int64_t n, steps;
  float length;  // px
};

void random_trajectories_cpu(const TrajectoryArgs& args, int64_t threads);

#ifdef DEBLURGAN_WITH_CUDA
void random_trajectories_cuda(const TrajectoryArgs& args, int device, void* stream);
#endif

}  // namespace deblurgan
