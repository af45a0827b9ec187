"""Picture files in and out, nothing lost in silence.

`read` gives a `Picture`: upright RGB pixels of 8 or 16 bits, with alpha, EXIF, XMP, comments, colour profile and
resolution beside them. `write` puts all of it back. A picture that a format cannot hold (animation, alpha in a JPEG)
is refused with an `ImageError`; what else a file lacks, `write` returns in words.

picture holds the picture in memory, reading and writing its way from and to a file, opening what is looked at before
anything is decoded, colour, deep and metadata what these know of file formats: jpeg, tiff, xmp, png and isobmff (AVIF
and HEIC) each of one, jpeg_end whether a JPEG is all there. files finds and replaces pictures; batch works through
many; compare says what became of one.
"""

from deblurgan.images import compare
from deblurgan.images.batch import (
    FAILURES,
    FilesReport,
    Plan,
    failure_reason,
    names_file,
    plan_outputs,
    require_input,
    run_plan,
)
from deblurgan.images.files import SUFFIXES, find, kinds, remove_temporaries, replace_file, require_absent
from deblurgan.images.picture import ImageError, Picture, printable
from deblurgan.images.reading import from_pil, read, to_pil_like
from deblurgan.images.writing import encode, require_writable, write

__all__ = [
    "FAILURES",
    "SUFFIXES",
    "FilesReport",
    "ImageError",
    "Picture",
    "Plan",
    "compare",
    "encode",
    "failure_reason",
    "find",
    "from_pil",
    "kinds",
    "names_file",
    "plan_outputs",
    "printable",
    "read",
    "remove_temporaries",
    "replace_file",
    "require_absent",
    "require_input",
    "require_writable",
    "run_plan",
    "to_pil_like",
    "write",
]
