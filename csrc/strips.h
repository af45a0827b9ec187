// What follows a convolution of a strip of rows, [rows, w, c] with channels last: statistics, and the norm by them.
#pragma once
#include <cstdint>

#include "picture.h"

namespace deblurgan {

struct MomentsArgs {
  const void* y;   // [pixels, c], contiguous
  DType type;      // kFloat or kBFloat16
  float* moments;  // [2, c]: mean, and the sum of squares about it
  int64_t pixels, c;
};

// A mean and a sum of squares for each block of pixels, in fp32; they are merged in fp64, in order.
void strip_moments_cpu(const MomentsArgs& args, int64_t threads);

struct ActivateArgs {
  const void* y;                         // [rows, w, c]
  const void* residual;                  // alike, or null
  void* out;                             // pixel (0, 0) of [rows, w + 2 border, c]'s inside
  DType type;                            // of all three
  const float* stats;                    // [2, c]: mean, 1 / std
  int64_t y_row, residual_row, out_row;  // elements from row to row
  int64_t rows, w, c;
  int64_t border;  // pixels on either side
  bool reflect;    // what they mirror; else zeros
  bool relu;
};

// out = residual + act((y - mean) / std), in fp32, rounded once.
void strip_activate_cpu(const ActivateArgs& args, int64_t threads);

}  // namespace deblurgan
