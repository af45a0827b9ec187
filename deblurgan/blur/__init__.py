"""Camera-shake blur made to measure: trajectory -> point spread function (PSF) -> blurred picture.

The paths are DeblurGAN's (paper section 4, after Boracchi and Foi 2012), with the constants of its released code. Every
random draw belongs to one (seed, index), whatever batch, device or number of threads it is made with. `MotionBlur` does
all of it as a module, and what else a camera does; the functions are its steps. Lengths are in px; pictures are uint8,
or floats in [0, 1].
"""

from deblurgan.blur.apply import apply_psf, random_windows
from deblurgan.blur.draws import Draws
from deblurgan.blur.motion_blur import MotionBlur
from deblurgan.blur.psf import Mode, Taps, psf_taps, rasterize_psf, tap_capacity
from deblurgan.blur.trajectories import RELEASED_ANXIETIES, Anxiety, random_trajectories

__all__ = [
    "RELEASED_ANXIETIES",
    "Anxiety",
    "Draws",
    "Mode",
    "MotionBlur",
    "Taps",
    "apply_psf",
    "psf_taps",
    "random_trajectories",
    "random_windows",
    "rasterize_psf",
    "tap_capacity",
]
