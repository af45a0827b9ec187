"""Measuring which tilings of the convolutions' kernels are the fastest on this GPU: `tune`.

run goes from layer to layer; problems makes each on random data, compiling has its kernels compiled ahead, measure
checks and times them. kernels/rows.py keeps what is found, kernels/table.py looks it up.
"""

from deblurgan.kernels.rows import Row
from deblurgan.tuning.run import tune

__all__ = ["Row", "tune"]
