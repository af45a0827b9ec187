// InstanceNorm and LeakyReLU in training, and the mirrored border before a convolution, with their derivatives. All
// pictures are [n, h, w, c] or [n, pixels, c], contiguous, in one type, kFloat or kBFloat16; sums are fp32 within a
// block of pixels and fp64 over the blocks, in order, so that the number of threads changes nothing.
//
// A plane is z = (y - mean) / std, and leak(v) is v where z > 0, elsewhere slope v.
#pragma once
#include <cstdint>

#include "picture.h"

namespace deblurgan {

struct Planes {
  DType type;
  int64_t n, pixels, c;
};

struct NormActArgs {
  Planes planes;
  const void* y;
  const void* residual;  // or null
  void* out;
  float* stats;  // [n, 2, c]: mean, 1 / std
  float slope;
};

// out = residual + leak(z), and the statistics.
void norm_act_cpu(const NormActArgs& args, int64_t threads);

struct NormActGradArgs {
  Planes planes;
  const void* v;
  const void* y;
  const float* stats;
  void* out;
  float* sums;                // [n, 2, c]: mean(e), mean(z e), e = leak(v) by slope_in
  float slope_in, slope_out;  // 1 for none
};

// out = leak(J e), J the Jacobian of z by y, leak by slope_out. slope_in alone gives the gradient by y where v is that
// by leak(z); slope_out alone the tangent of leak(z) where v is that of y.
void norm_act_grad_cpu(const NormActGradArgs& args, int64_t threads);

struct NormActSecondArgs {
  Planes planes;
  const void* v;
  const void* y;
  const void* signal;   // out of norm_act_grad with slope_in
  const void* tangent;  // out of norm_act_grad with slope_out
  const float *stats, *signal_sums, *tangent_sums;
  void* out;
  float slope;
};

// The gradient by y where v is that by leak(z), and that of <e, tangent>, with what made `signal` of e.
void norm_act_second_cpu(const NormActSecondArgs& args, int64_t threads);

struct ReflectPadArgs {
  const void* x;
  void* out;
  DType type;
  int64_t n, h, w, c;  // of the picture without its border
  int64_t border;      // less than h and w
};

// out [n, h + 2 border, w + 2 border, c] is x with its border; of the gradient, out [n, h, w, c] is that by the picture
// where x is that by the padded one.
void reflect_pad_cpu(const ReflectPadArgs& args, int64_t threads);
void reflect_pad_grad_cpu(const ReflectPadArgs& args, int64_t threads);

}  // namespace deblurgan
