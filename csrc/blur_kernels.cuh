// The CUDA kernels of the blur. A kernel's one argument is the struct that its CPU function takes. Blocks have kThreads
// threads, and take one picture, path or tile after another where there are more of those than blocks.
//
// The floating-point work is done by the functions of draws.h, trajectory.h, psf.h and picture.h, which the CPU uses
// too, and sums over threads are of integers. So results equal the CPU's byte for byte, except those of apply_psf,
// which rounds a product and its sum once.
#pragma once
#include <cstdint>

#include "blur.h"

namespace deblurgan {

constexpr int kThreads = 256;
constexpr int kMostBlocks = 1 << 20;  // more than any GPU holds at once

__global__ void uniforms_kernel(UniformsArgs a) {
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < a.n; i += stride) {
    const Words words = philox(a.draws.the_seed(), a.draws.index(i), 0, kUniforms);
    for (int k = 0; k < 4; ++k) a.out[4 * i + k] = uniform(words.v[k]);
  }
}

__global__ void windows_kernel(WindowsArgs a) {
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < a.n; i += stride)
    a.out[i] = draw_window(a.draws.the_seed(), a.draws.index(i), a.h, a.w, a.out_h, a.out_w, a.flip);
}

__global__ void dropout_kernel(DropoutArgs a) {
  const int64_t stride = int64_t{gridDim.x} * blockDim.x, groups = a.groups();
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < a.n * groups; i += stride) {
    const int64_t picture = i / groups, group = i % groups;
    const Words kept = keep_words(a, a.draws.the_seed(), a.draws.index(picture), group);
    for (int64_t k = 0; k < 4 && 4 * group + k < a.elements; ++k)
      a.out[picture * a.elements + 4 * group + k] = kept.v[k] != 0;
  }
}

// A block a path: its threads draw the kicks of kThreads steps, then one thread advances the path by them.
__global__ void trajectories_kernel(TrajectoryArgs a) {
  __shared__ Kick kicks[kThreads];
  const int thread = static_cast<int>(threadIdx.x);
  for (int64_t i = blockIdx.x; i < a.n; i += gridDim.x) {
    const uint64_t seed = a.draws.the_seed(), index = a.draws.index(i);
    const Shake shake = draw_shake(a.steps, a.length, a.anxiety[i], seed, index);
    PathState path{{0.0f, 0.0f}, shake.velocity};
    float* out = a.out + i * a.steps * 2;
    if (thread == 0) out[0] = out[1] = 0.0f;
    for (int64_t t = 0; t + 1 < a.steps; t += kThreads) {
      if (t + thread + 1 < a.steps) kicks[thread] = draw_kick(shake, seed, index, static_cast<uint32_t>(t + thread));
      __syncthreads();
      if (thread == 0) {
        const int count = static_cast<int>(a.steps - 1 - t < kThreads ? a.steps - 1 - t : kThreads);
        for (int k = 0; k < count; ++k) {
          path = advance(path, shake, kicks[k]);
          out[2 * (t + k) + 2] = path.at.re;
          out[2 * (t + k) + 3] = path.at.im;
        }
      }
      __syncthreads();
    }
  }
}

// What a thread knows of its samples of a path; `join` merges two.
struct PathExtent {
  int64_t sum[2];
  float low[2], high[2];
  int outside;
};

DEBLURGAN_INLINE PathExtent join(const PathExtent& a, const PathExtent& b) {
  PathExtent c;
  for (int k = 0; k < 2; ++k) {
    c.sum[k] = a.sum[k] + b.sum[k];
    c.low[k] = a.low[k] < b.low[k] ? a.low[k] : b.low[k];
    c.high[k] = a.high[k] > b.high[k] ? a.high[k] : b.high[k];
  }
  c.outside = a.outside | b.outside;
  return c;
}

// A block a path.
__global__ void psf_kernel(PsfArgs a) {
  __shared__ PathExtent extents[kThreads];
  __shared__ int outside;
  const int thread = static_cast<int>(threadIdx.x);
  for (int64_t i = blockIdx.x; i < a.n; i += gridDim.x) {
    const float* path = a.trajectories + i * a.steps * 2;
    const Exposure e = exposure_of(a.exposure[i], a.steps);
    PathExtent extent{{0, 0}, {path[0], path[1]}, {path[0], path[1]}, 0};
    for (int64_t t = thread; t < a.steps; t += kThreads)
      for (int k = 0; k < 2; ++k) {
        const float x = path[2 * t + k];
        const bool far = !near_enough(x);
        extent.outside |= far;
        if (!far && t >= 1 && t <= e.full) extent.sum[k] += fixed_position(x);
        extent.low[k] = x < extent.low[k] ? x : extent.low[k];
        extent.high[k] = x > extent.high[k] ? x : extent.high[k];
      }
    extents[thread] = extent;
    for (int half = kThreads / 2; half > 0; half /= 2) {
      __syncthreads();
      if (thread < half) extents[thread] = join(extents[thread], extents[thread + half]);
    }
    __syncthreads();
    extent = extents[0];
    if (thread == 0) outside = extent.outside;
    __syncthreads();  // thread 0 has stored `outside` before any thread adds to it below

    int64_t* canvas = a.canvas + i * a.size * a.size;
    if (!extent.outside) {
      double shift[2];
      const float* last = path + 2 * samples_of(e);
      for (int k = 0; k < 2; ++k)
        shift[k] = a.centered ? centroid_offset(e, extent.sum[k], fixed_position(last[k]), a.size)
                              : released_offset(path[k], extent.low[k], extent.high[k], a.size);
      for (int64_t t = 1 + thread; t <= samples_of(e); t += kThreads) {
        const Splat s = splat(path[2 * t] + shift[0], path[2 * t + 1] + shift[1], weight_of(e, t), a.size);
        if (s.inside)
          for (int k = 0; k < 4; ++k)
            atomicAdd(reinterpret_cast<unsigned long long*>(canvas + s.cell + k / 2 * a.size + k % 2),
                      static_cast<unsigned long long>(s.part[k]));
        else
          atomicOr(&outside, 1);
      }
    }
    __syncthreads();
    const double total = total_of(e, a.steps, a.centered);
    float* out = a.out + i * a.size * a.size;
    for (int64_t k = thread; k < a.size * a.size; k += kThreads)
      out[k] = outside ? float_of(0x7FC00000u) : static_cast<float>(static_cast<double>(canvas[k]) / total);
    __syncthreads();  // all are done with `extents` and `outside` before the next path overwrites them
  }
}

// A block a PSF, kThreads cells at a time: the index of a non-zero cell's tap is how many come before it, a prefix sum.
__global__ void taps_kernel(TapsArgs a) {
  __shared__ int counts[2][kThreads];
  const int thread = static_cast<int>(threadIdx.x);
  for (int64_t i = blockIdx.x; i < a.n; i += gridDim.x) {
    const float* psf = a.psf + i * a.size * a.size;
    int64_t before = 0;
    for (int64_t start = 0; start < a.size * a.size; start += kThreads) {
      const int64_t cell = start + thread;
      const float weight = cell < a.size * a.size ? psf[cell] : 0.0f;
      int from = 0;
      counts[from][thread] = weight != 0.0f;
      __syncthreads();
      for (int step = 1; step < kThreads; step *= 2, from ^= 1) {
        counts[from ^ 1][thread] = counts[from][thread] + (thread >= step ? counts[from][thread - step] : 0);
        __syncthreads();
      }
      const int64_t index = before + counts[from][thread] - 1;
      if (weight != 0.0f && index < a.capacity) {
        const int64_t t = i * a.capacity + index;
        a.offset[2 * t] = static_cast<int32_t>(a.size / 2 - cell / a.size);
        a.offset[2 * t + 1] = static_cast<int32_t>(a.size / 2 - cell % a.size);
        a.weight[t] = weight;
      }
      before += counts[from][kThreads - 1];
      __syncthreads();
    }
    if (thread == 0) a.count[i] = static_cast<int32_t>(before);
  }
}

constexpr int kTileWidth = 32, kTileHeight = kThreads / kTileWidth;
constexpr int kTapsAtOnce = 256, kChannelsAtOnce = 4;

// Some of a picture's taps, and their least and greatest dy and dx.
struct TapChunk {
  int64_t offset[kTapsAtOnce];  // in elements
  int32_t dy[kTapsAtOnce], dx[kTapsAtOnce];
  float weight[kTapsAtOnce];
  int32_t low[2], high[2];
};

DEBLURGAN_INLINE void store_value(const ApplyArgs& a, int64_t at, float x) {
  switch (a.out_type) {
    case DType::kUint8:
      return from_float(x, static_cast<uint8_t*>(a.out)[at]);
    case DType::kHalf:
      return from_float(x, static_cast<Half*>(a.out)[at]);
    case DType::kBFloat16:
      return from_float(x, static_cast<BFloat16*>(a.out)[at]);
    case DType::kFloat:
      return from_float(x, static_cast<float*>(a.out)[at]);
  }
}

constexpr int64_t kLightAtOnce = 16 * kThreads;  // elements that a block takes at once

DEBLURGAN_INLINE int64_t light_parts(const ApplyArgs& a) { return (a.c * a.h * a.w + kLightAtOnce - 1) / kLightAtOnce; }

// The blur of the light that light_kernel has made.
inline ApplyArgs of_light(ApplyArgs a) {
  a.image = a.light;
  a.image_type = DType::kFloat;
  return a;
}

// The light of each picture's elements, which lie without gaps.
template <class Pixel>
__global__ void light_kernel(ApplyArgs a) {
  const int64_t parts = light_parts(a), elements = a.c * a.h * a.w;
  for (int64_t part = blockIdx.x; part < a.n * parts; part += gridDim.x) {
    const int64_t picture = part / parts, start = part % parts * kLightAtOnce;
    const int64_t end = start + kLightAtOnce < elements ? start + kLightAtOnce : elements;
    const Pixel* image = static_cast<const Pixel*>(a.image) + picture * a.image_stride[0];
    const float highlight = a.highlights ? a.highlights[picture] : 0.0f;
    for (int64_t i = start + threadIdx.x; i < end; i += kThreads)
      a.light[picture * a.image_stride[0] + i] = light_of(1.0f / a.white * to_float(image[i]), a.gamma, highlight);
  }
}

// The value to store for a sum. kClips is clips_light(a): without a sensor more threads fit on an SM.
template <bool kClips>
DEBLURGAN_INLINE float finished(const ApplyArgs& a, float x, int64_t picture, int64_t element) {
  const auto normal = [&](RngStream purpose) {
    return pixel_noise(purpose, a.draws.the_seed(), a.draws.index(picture), static_cast<uint64_t>(element));
  };
  if (kClips) x = clipped(a.sensor ? sensed(x, a.sensor[picture], normal(kSensor)) : x);
  if (a.gamma != 1.0f)
    x = power_positive(x, 1.0f / a.gamma) * a.white;
  else if (kClips)
    x *= a.white;
  if (a.noise) x += a.noise[picture] * a.white * normal(kNoise);
  return a.is_signed ? signed_value(x, a.white) : x;
}

// A block a tile of 32 x 8 output pixels, a thread a pixel in all its channels.
//
// Bound by the load of one pixel a tap (a warp's load a cycle and SM): n c h w taps / (32 SMs clock) seconds.
template <class Pixel, bool kClips>
__global__ void apply_kernel(ApplyArgs a) {
  __shared__ TapChunk chunk;
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t across = (a.out_w + kTileWidth - 1) / kTileWidth, down = (a.out_h + kTileHeight - 1) / kTileHeight;
  for (int64_t tile = blockIdx.x; tile < a.n * across * down; tile += gridDim.x) {
    const int64_t picture = tile / (across * down);
    const int64_t top = tile / across % down * kTileHeight, left = tile % across * kTileWidth;
    const int64_t row = top + thread / kTileWidth, column = left + thread % kTileWidth;
    const bool wanted = row < a.out_h && column < a.out_w;
    const Window window = a.windows ? a.windows[picture] : Window{0, 0, 0};
    const int64_t y = window.top + row, x = window.left + (window.flip ? a.out_w - 1 - column : column);
    // the first and last row and column that the tile covers in the picture
    const int64_t last_row = (top + kTileHeight < a.out_h ? top + kTileHeight : a.out_h) - 1;
    const int64_t last_column = (left + kTileWidth < a.out_w ? left + kTileWidth : a.out_w) - 1;
    const int64_t y0 = window.top + top, y1 = window.top + last_row;
    const int64_t x0 = window.left + (window.flip ? a.out_w - 1 - last_column : left);
    const int64_t x1 = window.left + (window.flip ? a.out_w - 1 - left : last_column);
    const Pixel* image = static_cast<const Pixel*>(a.image) + picture * a.image_stride[0];
    const int64_t taps = taps_of(a, picture);

    for (int64_t channel = 0; channel < a.c; channel += kChannelsAtOnce) {
      const int channels = static_cast<int>(a.c - channel < kChannelsAtOnce ? a.c - channel : kChannelsAtOnce);
      float sums[kChannelsAtOnce] = {0.0f, 0.0f, 0.0f, 0.0f};
      for (int64_t first = 0; first < taps; first += kTapsAtOnce) {
        const int count = static_cast<int>(taps - first < kTapsAtOnce ? taps - first : kTapsAtOnce);
        __syncthreads();
        if (thread < 2) chunk.low[thread] = chunk.high[thread] = 0;
        __syncthreads();
        for (int t = thread; t < count; t += kThreads) {
          const int64_t from = picture * a.capacity + first + t;
          const int32_t dy = a.offset[2 * from], dx = a.offset[2 * from + 1];
          chunk.dy[t] = dy;
          chunk.dx[t] = dx;
          chunk.offset[t] = dy * a.image_stride[2] + dx * a.image_stride[3];
          chunk.weight[t] = a.weight[from];
          atomicMin(&chunk.low[0], dy);
          atomicMin(&chunk.low[1], dx);
          atomicMax(&chunk.high[0], dy);
          atomicMax(&chunk.high[1], dx);
        }
        __syncthreads();
        if (!wanted) continue;
        const bool interior =
            y0 + chunk.low[0] >= 0 && y1 + chunk.high[0] < a.h && x0 + chunk.low[1] >= 0 && x1 + chunk.high[1] < a.w;
        const Pixel* at = image + channel * a.image_stride[1];
        if (interior) {
          at += y * a.image_stride[2] + x * a.image_stride[3];
#pragma unroll 4
          for (int t = 0; t < count; ++t) {
            const float weight = chunk.weight[t];
#pragma unroll
            for (int k = 0; k < kChannelsAtOnce; ++k)
              if (k < channels) sums[k] = fmaf(weight, to_float(at[chunk.offset[t] + k * a.image_stride[1]]), sums[k]);
          }
        } else {
          for (int t = 0; t < count; ++t) {
            const int64_t from_y = border_index(y + chunk.dy[t], a.h, a.padding);
            const int64_t from_x = border_index(x + chunk.dx[t], a.w, a.padding);
            if (from_y < 0 || from_x < 0) continue;
            const Pixel* from = at + from_y * a.image_stride[2] + from_x * a.image_stride[3];
            const float weight = chunk.weight[t];
#pragma unroll
            for (int k = 0; k < kChannelsAtOnce; ++k)
              if (k < channels) sums[k] = fmaf(weight, to_float(from[k * a.image_stride[1]]), sums[k]);
          }
        }
      }
      if (!wanted) continue;
#pragma unroll
      for (int k = 0; k < kChannelsAtOnce; ++k) {
        if (k >= channels) continue;
        const int64_t at = picture * a.out_stride[0] + (channel + k) * a.out_stride[1] + row * a.out_stride[2] +
                           column * a.out_stride[3];
        store_value(a, at, finished<kClips>(a, sums[k], picture, ((channel + k) * a.out_h + row) * a.out_w + column));
      }
    }
  }
}

}  // namespace deblurgan
