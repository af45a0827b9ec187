#include "psf.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "parallel.h"

namespace deblurgan {
namespace {

constexpr double kSampleCost = 10.0, kCellCost = 0.6;  // ns, of a path's sample and of a canvas's cell

// What is added to a path's positions, in px, to put it on the canvas.
struct Shift {
  double x, y;
};

Shift centroid_shift(const float* path, const Exposure& e, int64_t size) {
  int64_t x = 0, y = 0;
  for (int64_t t = 1; t <= e.full; ++t) {
    x += fixed_position(path[2 * t]);
    y += fixed_position(path[2 * t + 1]);
  }
  const float* last = path + 2 * samples_of(e);
  return {centroid_offset(e, x, fixed_position(last[0]), size), centroid_offset(e, y, fixed_position(last[1]), size)};
}

Shift released_shift(const float* path, int64_t steps, int64_t size) {
  float low[2] = {path[0], path[1]}, high[2] = {path[0], path[1]};
  for (int64_t k = 0; k < 2 * steps; ++k) {
    low[k & 1] = std::min(low[k & 1], path[k]);
    high[k & 1] = std::max(high[k & 1], path[k]);
  }
  return {released_offset(path[0], low[0], high[0], size), released_offset(path[1], low[1], high[1], size)};
}

// Adds the exposed path to the canvas; false if it leaves the canvas, which is then left half drawn.
bool draw_path(const PsfArgs& a, const float* path, const Exposure& e, int64_t* canvas) {
  if (!std::all_of(path, path + 2 * a.steps, near_enough)) return false;
  const Shift shift = a.centered ? centroid_shift(path, e, a.size) : released_shift(path, a.steps, a.size);
  for (int64_t t = 1; t <= samples_of(e); ++t) {
    const Splat s = splat(path[2 * t] + shift.x, path[2 * t + 1] + shift.y, weight_of(e, t), a.size);
    if (!s.inside) return false;
    int64_t* cell = canvas + s.cell;
    cell[0] += s.part[0];
    cell[1] += s.part[1];
    cell[a.size] += s.part[2];
    cell[a.size + 1] += s.part[3];
  }
  return true;
}

void rasterize_psf(const PsfArgs& a, int64_t i, std::vector<int64_t>& canvas) {
  const Exposure e = exposure_of(a.exposure[i], a.steps);
  canvas.assign(a.size * a.size, 0);
  float* out = a.out + i * a.size * a.size;
  if (!draw_path(a, a.trajectories + i * a.steps * 2, e, canvas.data())) {
    std::fill_n(out, canvas.size(), std::numeric_limits<float>::quiet_NaN());
    return;
  }
  const double total = total_of(e, a.steps, a.centered);
  for (size_t k = 0; k < canvas.size(); ++k)
    if (canvas[k] == 0)
      out[k] = 0.0f;  // most cells are empty: that saves their division
    else
      out[k] = static_cast<float>(static_cast<double>(canvas[k]) / total);
}

}  // namespace

void rasterize_psf_cpu(const PsfArgs& a, int64_t threads) {
  const double cost = kSampleCost * static_cast<double>(a.steps) + kCellCost * static_cast<double>(a.size * a.size);
  parallel_for<std::vector<int64_t>>(a.n, cost, threads,
                                     [&](std::vector<int64_t>& canvas, int64_t i) { rasterize_psf(a, i, canvas); });
}

int64_t max_taps_cpu(const float* psf, int64_t n, int64_t size) {
  int64_t most = 0;
  for (int64_t i = 0; i < n; ++i) {
    const float* cells = psf + i * size * size;
    most = std::max<int64_t>(most, std::count_if(cells, cells + size * size, [](float x) { return x != 0.0f; }));
  }
  return most;
}

void psf_taps_cpu(const TapsArgs& a, int64_t threads) {
  const double cost = kCellCost * static_cast<double>(a.size * a.size);
  parallel_for<NoScratch>(a.n, cost, threads, [&](NoScratch&, int64_t i) {
    const float* psf = a.psf + i * a.size * a.size;
    int64_t count = 0;
    for (int64_t p = 0; p < a.size; ++p)
      for (int64_t q = 0; q < a.size; ++q) {
        const float weight = psf[p * a.size + q];
        if (weight == 0.0f) continue;
        if (count < a.capacity) {
          const int64_t t = i * a.capacity + count;
          a.offset[2 * t] = static_cast<int32_t>(a.size / 2 - p);
          a.offset[2 * t + 1] = static_cast<int32_t>(a.size / 2 - q);
          a.weight[t] = weight;
        }
        ++count;
      }
    a.count[i] = static_cast<int32_t>(count);
  });
}

}  // namespace deblurgan
