"""How good restored pictures are: PSNR and SSIM against the sharp originals, before and after.

Restored pictures are rounded to 8 bits first. Each figure is the mean of the single pictures' values, over RGB and the
whole picture. Blurred pictures of a data set are taken as they are; sharp photos are blurred by fixed kernels.
"""

from deblurgan.evaluation.measure import evaluate
from deblurgan.evaluation.report import Report, Row

__all__ = ["Report", "Row", "evaluate"]
