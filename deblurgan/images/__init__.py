"""Picture files in and out, nothing lost.

`read` gives a `Picture`: upright 8-bit RGB pixels, with alpha, EXIF, XMP, colour profile and resolution beside them.
`write` puts all of it back. What a format cannot hold (16-bit depth, animation, alpha in a JPEG) is refused with an
`ImageError`, never dropped in silence. BMP alone carries no EXIF, XMP or profile, and only PNG the texts of a PNG.

picture holds the picture in memory, reading and writing its way from and to a file; colour, metadata, png and jpeg_end
are what these two know of file formats. files finds pictures and replaces files; batch works through many pictures.
"""

from deblurgan.images.batch import FAILURES, FilesReport, failure_reason, plan_outputs, run_plan
from deblurgan.images.files import SUFFIXES, find, replace_file, require_absent
from deblurgan.images.picture import ImageError, Picture
from deblurgan.images.reading import from_pil, read, to_pil_like
from deblurgan.images.writing import write

__all__ = [
    "FAILURES",
    "SUFFIXES",
    "FilesReport",
    "ImageError",
    "Picture",
    "failure_reason",
    "find",
    "from_pil",
    "plan_outputs",
    "read",
    "replace_file",
    "require_absent",
    "run_plan",
    "to_pil_like",
    "write",
]
