"""Restoring pictures: Deblurrer, for any size and kind of picture, for files and for folders."""

from deblurgan.images import FilesReport
from deblurgan.inference.deblurrer import Deblurrer

__all__ = ["Deblurrer", "FilesReport"]
