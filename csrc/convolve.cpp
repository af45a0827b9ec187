#include "convolve.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <stdexcept>

// A product and its sum are rounded once where the CPU can, whatever the compiler's flags say.
#if defined(__clang__)
#pragma clang fp contract(fast)
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=fast")
#endif

namespace deblurgan {
namespace {

#define DEBLURGAN_FORCED inline __attribute__((always_inline))

// A `Set` below is an instruction set: Set::Lanes are neighbouring elements at any address, as many as a register holds
// (wider ones would go through memory), and Set::kWide[r - 1] is how many Lanes of r rows are summed up at a time. So
// many sums, a tap's weights and a pixel fit into the registers, and enough sums are under way to hide the latency of
// an addition.

// Adds what taps of kCount rows from `first` on give to those rows.
template <class Set, int kCount>
DEBLURGAN_FORCED void add_taps(const float* source, const RowTaps& taps, int first, float* out, int64_t pitch) {
  using Lanes = typename Set::Lanes;
  constexpr int kLanes = sizeof(Lanes) / sizeof(float), kWide = Set::kWide[kCount - 1];
  static_assert(kColumns % (kWide * kLanes) == 0);
  const std::vector<RowTap>& group = taps.of[first][kCount - 1];
  if (group.empty()) return;
  out += first * pitch;
  for (int64_t j = 0; j < kColumns; j += kWide * kLanes) {
    Lanes sums[kCount][kWide];
#pragma GCC unroll 4
    for (int row = 0; row < kCount; ++row)
#pragma GCC unroll 16
      for (int k = 0; k < kWide; ++k)
        sums[row][k] = *reinterpret_cast<const Lanes*>(out + row * pitch + j + k * kLanes);
    for (const RowTap& tap : group) {
      const float *from = source + tap.offset + j, *weight = tap.weight + first;
#pragma GCC unroll 16
      for (int k = 0; k < kWide; ++k) {
        // volatile: read once into a register, where GCC would read it anew for each row
        const Lanes pixels = *reinterpret_cast<const volatile Lanes*>(from + k * kLanes);
#pragma GCC unroll 4
        for (int row = 0; row < kCount; ++row) sums[row][k] += weight[row] * pixels;
      }
    }
#pragma GCC unroll 4
    for (int row = 0; row < kCount; ++row)
#pragma GCC unroll 16
      for (int k = 0; k < kWide; ++k) *reinterpret_cast<Lanes*>(out + row * pitch + j + k * kLanes) = sums[row][k];
  }
}

template <class Set>
DEBLURGAN_FORCED void convolve(const float* source, const RowTaps& taps, float* out, int64_t pitch) {
  static_assert(kRows == 4);
  for (int row = 0; row < kRows; ++row) std::fill_n(out + row * pitch, kColumns, 0.0f);
  for (int first = 0; first < kRows; ++first) {
    add_taps<Set, 1>(source, taps, first, out, pitch);
    add_taps<Set, 2>(source, taps, first, out, pitch);
    add_taps<Set, 3>(source, taps, first, out, pitch);
    add_taps<Set, 4>(source, taps, first, out, pitch);
  }
}

// The loop as it is built for one instruction set.
struct Form {
  const char* name;
  void (*convolve)(const float* source, const RowTaps& taps, float* out, int64_t pitch);
};

#if defined(__x86_64__)
struct Avx512 {
  typedef float Lanes __attribute__((vector_size(64), aligned(4), may_alias));
  static constexpr int kWide[] = {4, 4, 4, 4};
};
__attribute__((target("avx512f"))) void convolve_avx512(const float* source, const RowTaps& taps, float* out,
                                                        int64_t pitch) {
  convolve<Avx512>(source, taps, out, pitch);
}

struct Avx2 {
  typedef float Lanes __attribute__((vector_size(32), aligned(4), may_alias));
  static constexpr int kWide[] = {8, 4, 4, 2};
};
__attribute__((target("avx2,fma"))) void convolve_avx2(const float* source, const RowTaps& taps, float* out,
                                                       int64_t pitch) {
  convolve<Avx2>(source, taps, out, pitch);
}

struct Sse2 {
  typedef float Lanes __attribute__((vector_size(16), aligned(4), may_alias));
  static constexpr int kWide[] = {8, 4, 2, 2};
};

std::vector<Form> forms_here() {
  std::vector<Form> forms;
  if (__builtin_cpu_supports("avx512f")) forms.push_back({"avx512", convolve_avx512});
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) forms.push_back({"avx2", convolve_avx2});
  forms.push_back({"sse2", convolve<Sse2>});
  return forms;
}
#else
struct Neon {
  typedef float Lanes __attribute__((vector_size(16), aligned(4), may_alias));
  static constexpr int kWide[] = {16, 8, 4, 4};
};

std::vector<Form> forms_here() {
#if defined(__aarch64__)
  return {{"neon", convolve<Neon>}};
#else
  return {{"generic", convolve<Neon>}};
#endif
}
#endif

const std::vector<Form>& forms() {
  static const std::vector<Form> here = forms_here();
  return here;
}

const Form* form_named(const std::string& name, const char* argument) {
  std::string names;
  for (const Form& form : forms()) {
    if (name == form.name) return &form;
    names += (names.empty() ? "" : ", ") + std::string(form.name);
  }
  throw std::invalid_argument(std::string(argument) + " must be one that this CPU has (" + names + "), got '" + name +
                              "'");
}

std::atomic<const Form*>& form_in_use() {
  static std::atomic<const Form*> form = [] {
    const char* wanted = std::getenv("DEBLURGAN_CPU_ISA");
    return wanted && *wanted ? form_named(wanted, "DEBLURGAN_CPU_ISA") : &forms().front();
  }();
  return form;
}

}  // namespace

void convolve_block(const float* source, const RowTaps& taps, float* out, int64_t pitch) {
  form_in_use().load(std::memory_order_relaxed)->convolve(source, taps, out, pitch);
}

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const Form& form : forms()) names.push_back(form.name);
  return names;
}

std::string instruction_set() { return form_in_use().load()->name; }

void use_instruction_set(const std::string& name) { form_in_use() = form_named(name, "instruction set"); }

}  // namespace deblurgan
