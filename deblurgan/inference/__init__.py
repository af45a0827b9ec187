"""Restoring pictures: Deblurrer, for any size and kind of picture, for files, folders and videos."""

from deblurgan.images import FilesReport
from deblurgan.inference.deblurrer import Deblurrer
from deblurgan.inference.plans import StreamPlan
from deblurgan.inference.video import VideoError, VideoReport

__all__ = ["Deblurrer", "FilesReport", "StreamPlan", "VideoError", "VideoReport"]
