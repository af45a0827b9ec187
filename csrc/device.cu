#include <cuda_runtime.h>

#include "blur.h"

namespace deblurgan {

int cuda_device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

}  // namespace deblurgan
