// The inner loop of the blur on the CPU: kRows rows of output at a time, so that a pixel is read once for all of them.
#pragma once
#include <cstdint>
#include <vector>

namespace deblurgan {

constexpr int64_t kRows = 4, kColumns = 64;  // of a block of output

// A pixel that a block reads for each of its columns, and its weight in each of the block's rows.
struct RowTap {
  int64_t offset;  // from the block's first element, in elements
  float weight[kRows];
};

// RowTaps by the rows they weigh in: of[first][last], all of first ... last and no others.
struct RowTaps {
  std::vector<RowTap> of[kRows][kRows];
};

// out[i, j] = sum over taps of weight[i] source[offset + j], i in [0, kRows), j in [0, kColumns); rows of `out` are
// `pitch` elements apart. A product and its sum are rounded once where the CPU can.
void convolve_block(const float* source, const RowTaps& taps, float* out, int64_t pitch);

}  // namespace deblurgan
