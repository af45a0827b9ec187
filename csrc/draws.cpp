#include "draws.h"

#include <algorithm>

#include "clones.h"
#include "parallel.h"

namespace deblurgan {
namespace {

constexpr double kDrawCost = 15.0;  // ns
constexpr int64_t kGroups = 4096;   // draws of four elements that a task makes
constexpr double kGroupCost = 5.0;  // ns, as vector code

// One flag an element, drawn into an array before it is stored, so that drawing becomes vector code.
struct KeptFlags {
  bool v[4 * kGroups];
};

DEBLURGAN_CLONES void draw_flags(const DropoutArgs& a, uint64_t seed, uint64_t index, int64_t first, int64_t count,
                                 KeptFlags& flags) {
  const DropoutArgs args = a;  // a copy: stores to `flags` cannot change it, so the loop becomes vector code
  for (int32_t i = 0; i < static_cast<int32_t>(count); ++i) {
    const Words words = keep_words(args, seed, index, first + i);
    for (int k = 0; k < 4; ++k) flags.v[4 * i + k] = words.v[k] != 0;
  }
}

}  // namespace

void uniforms_cpu(const UniformsArgs& a, int64_t threads) {
  parallel_for<NoScratch>(a.n, kDrawCost, threads, [&](NoScratch&, int64_t i) {
    const Words words = philox(a.draws.the_seed(), a.draws.index(i), 0, kUniforms);
    for (int k = 0; k < 4; ++k) a.out[4 * i + k] = uniform(words.v[k]);
  });
}

void random_windows_cpu(const WindowsArgs& a, int64_t threads) {
  parallel_for<NoScratch>(a.n, kDrawCost, threads, [&](NoScratch&, int64_t i) {
    a.out[i] = draw_window(a.draws.the_seed(), a.draws.index(i), a.h, a.w, a.out_h, a.out_w, a.flip);
  });
}

void dropout_mask_cpu(const DropoutArgs& a, int64_t threads) {
  const int64_t parts = (a.groups() + kGroups - 1) / kGroups;
  parallel_for<KeptFlags>(a.n * parts, kGroups * kGroupCost, threads, [&](KeptFlags& flags, int64_t task) {
    const int64_t picture = task / parts, first = task % parts * kGroups;
    const int64_t count = std::min(kGroups, a.groups() - first);
    draw_flags(a, a.draws.the_seed(), a.draws.index(picture), first, count, flags);
    const int64_t elements = std::min(4 * count, a.elements - 4 * first);
    std::copy_n(flags.v, elements, a.out + picture * a.elements + 4 * first);
  });
}

}  // namespace deblurgan
