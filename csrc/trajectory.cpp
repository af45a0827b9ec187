#include "trajectory.h"

#include <algorithm>

#include "clones.h"
#include "parallel.h"

namespace deblurgan {
namespace {

constexpr int64_t kKicks = 256;
constexpr double kStepCost = 20.0;  // ns

// The kicks of kKicks steps, one array for each number of a kick, so that drawing them becomes vector code.
struct Kicks {
  float noise_re[kKicks], noise_im[kKicks], thrown_re[kKicks], thrown_im[kKicks];
};

DEBLURGAN_CLONES void draw_kicks(const Shake& drawn, uint64_t seed, uint64_t index, int64_t first, int64_t count,
                                 Kicks& kicks) {
  const Shake shake = drawn;  // a copy: stores to `kicks` cannot change it
  for (int32_t i = 0; i < static_cast<int32_t>(count); ++i) {
    const Kick kick = draw_kick(shake, seed, index, static_cast<uint32_t>(first) + static_cast<uint32_t>(i));
    kicks.noise_re[i] = kick.noise.re;
    kicks.noise_im[i] = kick.noise.im;
    kicks.thrown_re[i] = kick.thrown.re;
    kicks.thrown_im[i] = kick.thrown.im;
  }
}

void random_trajectory(const TrajectoryArgs& a, int64_t i, Kicks& kicks) {
  const uint64_t seed = a.draws.the_seed(), index = a.draws.index(i);
  const Shake shake = draw_shake(a.steps, a.length, a.anxiety[i], seed, index);
  PathState path{{0.0f, 0.0f}, shake.velocity};
  float* out = a.out + i * a.steps * 2;
  *out++ = 0.0f;
  *out++ = 0.0f;
  for (int64_t t = 0; t + 1 < a.steps; t += kKicks) {
    const int64_t count = std::min(kKicks, a.steps - 1 - t);
    draw_kicks(shake, seed, index, t, count, kicks);
    for (int64_t k = 0; k < count; ++k) {
      const Kick kick{{kicks.noise_re[k], kicks.noise_im[k]}, {kicks.thrown_re[k], kicks.thrown_im[k]}};
      path = advance(path, shake, kick);
      *out++ = path.at.re;
      *out++ = path.at.im;
    }
  }
}

}  // namespace

void random_trajectories_cpu(const TrajectoryArgs& a, int64_t threads) {
  const double cost = kStepCost * static_cast<double>(a.steps);
  parallel_for<Kicks>(a.n, cost, threads, [&](Kicks& kicks, int64_t i) { random_trajectory(a, i, kicks); });
}

}  // namespace deblurgan
