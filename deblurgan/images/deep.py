"""Pixels of 16 bits. Pillow has no colours so deep, but reads either byte of each value as a picture of 8 bits."""

from __future__ import annotations

import sys

import numpy as np
from PIL import Image, ImageFile

from deblurgan.images import png
from deblurgan.images.opening import open_image
from deblurgan.images.picture import Pixels, StrPath

_MOST = 65535
_INTERPRETATION, _WHITE_IS_ZERO = 262, 0  # a tag of TIFF, and a value of it
# How Pillow's raw modes end that read the higher byte, and those that read the lower; N is the machine's order
_LOWER = {"16B": "16L", "16L": "16B", "16N": "16B" if sys.byteorder == "little" else "16L"}


def values(image: Image.Image, path: StrPath, data: bytes) -> Pixels:
    """uint16 [h, w, c]: grey or RGB, and alpha where there is any, of a loaded image and its file; in the place of a
    PNG file stand the chunks that its pixels depend on. They lie as the image does."""
    if image.mode.startswith("I;16"):
        return _grey(image)
    raw_mode = _raw_mode(open_image(data, path))
    if raw_mode == "LA;16B":  # of a PNG file, in which two values of 16 bits lie as four of 8 bits would
        both = np.asarray(open_image(png.with_layout(data, depth=8, colour=6), path)).astype(np.uint16)
        return both[..., ::2] << 8 | both[..., 1::2]
    premultiplied = raw_mode.startswith("RGBa")  # by alpha; Pillow has divided its higher bytes alone
    found = np.asarray(_of_one_byte(data, path, lower=False) if premultiplied else image).astype(np.uint16)
    found <<= 8
    found |= np.asarray(_of_one_byte(data, path, lower=True))
    if "transparency" in image.info:
        return np.dstack([found, _opaque_but(found, image.info["transparency"])])
    return _divided(found) if premultiplied else found


def _grey(image: Image.Image) -> Pixels:
    grey = np.asarray(image).astype(np.uint16)[..., None]
    if getattr(image, "tag_v2", {}).get(_INTERPRETATION) == _WHITE_IS_ZERO:
        grey = _MOST - grey
    key = image.info.get("transparency")
    return grey if key is None else np.dstack([grey, _opaque_but(grey, key)])


def _opaque_but(found: Pixels, key: int | tuple[int, ...]) -> Pixels:
    """Alpha [h, w] of a picture in which one colour is transparent."""
    return np.where((found == np.asarray(key)).all(2), 0, _MOST).astype(np.uint16)


def _of_one_byte(data: bytes, path: StrPath, *, lower: bool) -> ImageFile.ImageFile:
    """The image of the higher or the lower bytes, not divided by alpha."""
    image = open_image(data, path)
    bands, _, order = _raw_mode(image).partition(";")
    raw_mode = f"{bands.replace('RGBa', 'RGBA')};{_LOWER[order] if lower else order}"
    for i, tile in enumerate(image.tile):
        image.tile[i] = tile._replace(args=(raw_mode, *tile.args[1:]) if isinstance(tile.args, tuple) else raw_mode)
    return image


def _raw_mode(image: ImageFile.ImageFile) -> str:
    args = image.tile[0].args
    return str(args[0] if isinstance(args, tuple) else args)


def _divided(found: Pixels) -> Pixels:
    """RGBA from colours that alpha has multiplied."""
    alpha = found[..., 3:].astype(np.uint64)
    colours = (found[..., :3] * np.uint64(_MOST) + alpha // 2) // np.maximum(alpha, 1)
    return np.dstack([colours.clip(0, _MOST).astype(np.uint16), found[..., 3]])
