#include "checks.h"

namespace deblurgan {

bool all_within_cpu(const float* values, int64_t n, float low, float high) {
  int64_t outside = 0;
  for (int64_t i = 0; i < n; ++i) outside += !(values[i] >= low && values[i] <= high);
  return outside == 0;
}

}  // namespace deblurgan
