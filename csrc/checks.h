// Checks of the values in an array, for callers that refuse bad ones.
#pragma once
#include <cstdint>

namespace deblurgan {

// Whether all n values are in [low, high]; NaN is not.
bool all_within_cpu(const float* values, int64_t n, float low, float high);

}  // namespace deblurgan
