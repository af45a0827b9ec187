"""Picture files in and out, nothing lost.

`read` gives a `Picture`: upright 8-bit RGB pixels, with alpha, EXIF, XMP, colour profile and resolution beside them.
`write` puts all of it back. What a format cannot hold (16-bit depth, animation, alpha in a JPEG) is refused with an
`ImageError`, never dropped in silence. BMP alone carries no EXIF, XMP or colour profile.

picture holds the picture in memory, reading and writing its way from and to a file, colour and metadata what these two
know of file formats. files finds pictures and replaces files; batch works through many pictures.
"""

from deblurgan.images.batch import FAILURES, FilesReport, Plan, failure_reason, names_file, plan_outputs, run_plan
from deblurgan.images.files import SUFFIXES, find, replace_file, require_absent, require_path
from deblurgan.images.picture import ImageError, Picture, printable
from deblurgan.images.reading import from_pil, read
from deblurgan.images.writing import write

__all__ = [
    "FAILURES",
    "SUFFIXES",
    "FilesReport",
    "ImageError",
    "Picture",
    "Plan",
    "failure_reason",
    "find",
    "from_pil",
    "names_file",
    "plan_outputs",
    "printable",
    "read",
    "replace_file",
    "require_absent",
    "require_path",
    "run_plan",
    "write",
]
