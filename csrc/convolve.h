// The inner loop of the blur on the CPU: kRows rows of output at a time, so that each pixel is read once for all of
// them. Lengths and offsets count floats.
#pragma once
#include <cstdint>
#include <vector>

namespace deblurgan {

constexpr int64_t kRows = 4, kColumns = 64;  // of a block of output

// Where a block reads a pixel for each of its columns, and the pixel's weight in each of the block's rows.
struct RowTap {
  int64_t offset;  // from the block's first float
  float weight[kRows];
};

// Taps grouped by the rows in which their weight is not zero: of[first][last] has rows first ... last and no others.
struct RowTaps {
  std::vector<RowTap> of[kRows][kRows];
};

// out[i, j] = sum over taps of weight[i] source[offset + j], i in [0, kRows), j in [0, kColumns); rows of `out` are
// `pitch` floats apart. Where the CPU has fma, a product and its sum are rounded once.
void convolve_block(const float* source, const RowTaps& taps, float* out, int64_t pitch);

}  // namespace deblurgan
