// Camera-shake blur, all of it: trajectory -> point spread function (PSF) -> taps -> blurred picture.
//
// Include this, or just the part you need. Arrays are contiguous, except pictures, which bring their strides. Nothing
// here allocates what it returns or checks its arguments: the caller does both.
#pragma once
#include "apply.h"
#include "checks.h"
#include "draws.h"
#include "picture.h"
#include "psf.h"
#include "trajectory.h"

namespace deblurgan {

#ifdef DEBLURGAN_WITH_CUDA
int cuda_device_count();  // 0 without a usable driver
#endif

}  // namespace deblurgan
