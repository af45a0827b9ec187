"""Training pictures. Every crop is a function of (seed, epoch, index), so any step's batch can be made from its number.

layouts tells what the folders' names say, folders finds and pairs the files, shards those in tar files, sources tells
which belong together, sharpness what pixels tell of photos, and check looks at all of them. datasets reads pictures as
pairs, crops cuts and blurs, batches puts crops together, and prefetch makes batches ahead of the training, on its
device. cache holds decoded pictures, seeds derives the random numbers.
"""

from deblurgan.data.batches import Batch, Batches, BatchPlan
from deblurgan.data.crops import BelowCrop, Crops, Pair, Plan
from deblurgan.data.datasets import GoPro, Mixed, PairDataset, PairedFolder, SharpFolder, SideBySide, open_dataset
from deblurgan.data.seeds import RngStream, derived_seed

__all__ = [
    "Batch",
    "BatchPlan",
    "Batches",
    "BelowCrop",
    "Crops",
    "GoPro",
    "Mixed",
    "Pair",
    "PairDataset",
    "PairedFolder",
    "Plan",
    "RngStream",
    "SharpFolder",
    "SideBySide",
    "derived_seed",
    "open_dataset",
]
