// The inner loop of the blur on the CPU: kRows rows of output at a time, so that each pixel is read once for all of
// them. Lengths and offsets count floats.
//
// It is built for several instruction sets: avx512, avx2 and sse2 on x86-64, neon on arm64, generic elsewhere. avx512,
// avx2 and neon round a product and its sum once (fma) and give the same bytes, NaN's sign and payload apart; sse2 has
// no fma and rounds both.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace deblurgan {

constexpr int64_t kRows = 4, kColumns = 64;  // of a block of output

// Where a block reads a pixel for each of its columns, and the pixel's weight in each of the block's rows.
struct RowTap {
  int64_t offset;  // from the block's first float
  float weight[kRows];
};

// Taps grouped by the rows in which their weight is not zero: of[first][count - 1] has `count` rows from `first` on.
struct RowTaps {
  std::vector<RowTap> of[kRows][kRows];
};

// out[i, j] = sum over taps of weight[i] source[offset + j], i in [0, kRows), j in [0, kColumns); rows of `out` are
// `pitch` floats apart. The sum begins with 0 and goes by first, count and the order of the taps, in every instruction
// set. Throws std::invalid_argument for a DEBLURGAN_CPU_ISA that is refused.
void convolve_block(const float* source, const RowTaps& taps, float* out, int64_t pitch);

// The instruction sets that this CPU has, the fastest first.
std::vector<std::string> instruction_sets();

// The one in use: what the environment's DEBLURGAN_CPU_ISA names, read once, or else the fastest.
std::string instruction_set();

// Takes another one from now on, in all threads. Throws std::invalid_argument for a name not in instruction_sets().
void use_instruction_set(const std::string& name);

}  // namespace deblurgan
