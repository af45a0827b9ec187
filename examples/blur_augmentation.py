"""MotionBlur as an augmentation, in a DataLoader and a chain: python examples/blur_augmentation.py PHOTOS."""

import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from deblurgan import MotionBlur, images


class Photos(Dataset[Tensor]):
    """Pictures of a folder as floats [3, 32, 32], through a transform."""

    def __init__(self, folder: str, transform: Callable[[Tensor], Tensor]) -> None:
        self.paths, self.transform = images.find(folder), transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        pixels = torch.from_numpy(images.read(self.paths[index]).pixels).permute(2, 0, 1)
        return self.transform(pixels.float()[:, :32, :32] / 255)


# A chain, here torch's own; a torchvision Compose takes a MotionBlur just so. Half of the pictures are blurred.
chain = nn.Sequential(MotionBlur(length=20, p=0.5, seed=1), nn.Hardtanh(0, 1))
for batch in DataLoader(Photos(sys.argv[1], chain), batch_size=2):
    print("blurred one by one:", tuple(batch.shape))

# Cheaper, and on a GPU if the pictures are there: a whole batch at once, each picture with a shake of its own.
blur = MotionBlur(length=20, exposure=(0.5, 1.0))
for number, sharp in enumerate(DataLoader(Photos(sys.argv[1], nn.Identity()), batch_size=2)):
    blurred, psf = blur(sharp, seed=0, index=2 * number, return_psf=True)  # the same shakes in every run
    print("blurred as a batch:", tuple(blurred.shape), "kernels", tuple(psf.shape))
