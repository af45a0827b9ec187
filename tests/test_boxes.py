"""AVIF and HEIC: upright once, alpha as it was, and what is beside the picture named."""

from __future__ import annotations

import io
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from conftest import texture
from deblurgan import images
from deblurgan.images import ImageError, Picture, isobmff

HAS_AVIF = "avif" in features.modules and features.check("avif")
needs_avif = pytest.mark.skipif(not HAS_AVIF, reason="this Pillow has no AVIF")
# Where a camera's first row and column lie, of which Pillow's transpose makes the stored picture
STORED = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
TOLERANCE = 12  # of 255, in the mean; noise of the codecs


def smooth(h: int, w: int) -> np.ndarray:
    y, x = np.mgrid[0:h, 0:w].astype(float)
    return np.stack([255 * x / w, 255 * y / h, 255 - 127 * (x / w + y / h)], axis=2).astype(np.uint8)


def stored(orientation: int) -> Image.Image:
    image = Image.fromarray(smooth(40, 64))
    return image.transpose(Image.Transpose(STORED[orientation])) if orientation in STORED else image


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112], tags[0x010F] = orientation, "Maker"
    return tags.tobytes()


def avif(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "AVIF", **{"quality": 95, "subsampling": "4:4:4", "speed": 10} | options)
    return buffer.getvalue()


def heic(image: Image.Image, **options: Any) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif", reason="the extra heic")
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer, **{"quality": 95, "chroma": 444} | options)
    return buffer.getvalue()


def read(data: bytes) -> Picture:
    return images.read(io.BytesIO(data))


def difference(picture: Picture) -> float:
    return float(np.abs(picture.pixels.astype(int) - smooth(40, 64)).mean())


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content


FORMATS = [pytest.param(avif, marks=needs_avif), heic]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("encode", FORMATS)
def test_a_turned_picture_is_turned_once(encode: Any, orientation: int) -> None:
    picture = read(encode(stored(orientation), exif=exif(orientation)))
    assert picture.pixels.shape == (40, 64, 3)
    assert difference(picture) < TOLERANCE
    assert picture.exif is not None
    assert b"Maker" in picture.exif
    assert images.from_pil(Picture(texture(2, 2), exif=picture.exif).to_pil()).pixels.shape == (2, 2, 3)


@needs_avif
@pytest.mark.parametrize("orientation", [3, 6])
def test_xmp_does_not_turn_an_avif(orientation: int) -> None:
    picture = read(avif(stored(1), xmp=b'<x tiff:Orientation="%d"/>' % orientation))
    assert difference(picture) < TOLERANCE
    assert picture.xmp == b"<x/>"


@needs_avif
@pytest.mark.parametrize("grey", [False, True])
def test_avif_keeps_what_it_can_hold(tmp_path: Path, grey: bool) -> None:
    alpha = np.random.default_rng(0).integers(0, 256, (40, 64), dtype=np.uint8)
    pixels = np.repeat(smooth(40, 64)[..., :1], 3, axis=2) if grey else smooth(40, 64)
    profile = bytes(16) + b"RGB " + bytes(16) + b"acsp" + bytes(88)
    block = images.from_pil(Image.open(io.BytesIO(avif(stored(1), exif=exif(6))))).exif
    picture = Picture(pixels, None if grey else alpha, grey, block, profile, (300, 300), xmp=b"<x/>")
    assert images.write(picture, tmp_path / "a.avif") == ("resolution",)
    again = images.read(tmp_path / "a.avif")
    assert (again.format, again.grey, again.exif, again.icc, again.xmp) == ("AVIF", grey, block, profile, b"<x/>")
    assert grey or np.array_equal(again.alpha, alpha)  # type: ignore[arg-type]
    assert np.abs(again.pixels.astype(int) - pixels).mean() < 2


@needs_avif
def test_avif_takes_a_quality(tmp_path: Path) -> None:
    sizes = [len(images.encode(Picture(texture(64, 64)), "a.avif", quality=quality)[0]) for quality in (20, 90, 100)]
    assert sizes == sorted(set(sizes))
    assert len(images.encode(Picture(texture(64, 64)), "a.avif")[0]) == sizes[1]


@needs_avif
@pytest.mark.parametrize("from_file", [False, True])
def test_an_opened_or_loaded_avif_is_taken(from_file: bool) -> None:
    image = Image.open(io.BytesIO(avif(stored(6), exif=exif(6))))
    if not from_file:
        image.load()
    assert difference(images.from_pil(image)) < TOLERANCE


@needs_avif
def test_many_frames_are_refused() -> None:
    with pytest.raises(ImageError, match="animated"):
        read(avif(stored(1), save_all=True, append_images=[stored(3)]))


@needs_avif
def test_what_is_beside_the_picture_is_named() -> None:
    data = avif(stored(1))
    assert read(data).lost == ()
    assert read(data + box(b"mpvd", b"a video")).lost == ("mpvd box",)
    depth = data.replace(b"pixi", b"auxC", 1)  # a property that belongs to no alpha
    assert isobmff.read(depth).lost == ("a map of depth, gain or the like",)
    assert isobmff.read(avif(stored(1).convert("RGBA"))).lost == ()


@needs_avif
def test_colours_that_are_not_srgb_stay_with_the_picture(tmp_path: Path) -> None:
    data = avif(stored(1))
    at = data.index(b"nclx") + 4
    pq = data[:at] + struct.pack(">HH", 9, 16) + data[at + 4 :]
    picture = read(pq)
    assert picture.png_chunks == ((b"cICP", bytes([9, 16, 0, 1])),)
    with pytest.raises(ImageError, match="write PNG"):
        images.write(picture, tmp_path / "a.jpg")
    assert read(data).png_chunks == ()


@needs_avif
def test_ten_bits_are_said_to_become_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    data = avif(stored(1))
    assert isobmff.read(data).bits == 8
    at = data.index(b"pixi") + 9
    monkeypatch.setattr(
        isobmff, "read", lambda _, read=isobmff.read: read(data[:at] + b"\x0a\x0a\x0a" + data[at + 3 :])
    )
    assert read(data).lost == ("2 of 10 bits a channel",)


def test_of_a_heic_with_several_pictures_the_primary_is_kept() -> None:
    pillow_heif = pytest.importorskip("pillow_heif", reason="the extra heic")
    several = pillow_heif.HeifFile()
    for image in (stored(3), stored(1)):
        several.add_from_pillow(image)
    buffer = io.BytesIO()
    several.save(buffer, quality=95, primary_index=1)
    picture = read(buffer.getvalue())
    assert difference(picture) < TOLERANCE
    assert picture.lost == ("further pictures",)


@pytest.mark.parametrize("suffix", [".heic", ".heif", ".hif"])
def test_heic_is_read_from_a_file_and_becomes_another_format(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a{suffix}").write_bytes(heic(stored(6), exif=exif(6)))
    picture = images.read(tmp_path / f"a{suffix}")
    assert picture.format == "HEIF"
    images.write(picture, tmp_path / "a.jpg")
    assert difference(images.read(tmp_path / "a.jpg")) < TOLERANCE


def test_without_the_extra_heic_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"HEIC needs pillow_heif: pip install 'deblurgan\[heic\]'"):
        read(box(b"ftyp", b"heic\0\0\0\0mif1heic") + bytes(100))


def test_without_avif_in_pillow_it_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("PIL.AvifImagePlugin", raising=False)
    monkeypatch.setitem(sys.modules, "PIL.AvifImagePlugin", None)
    with pytest.raises(ImageError, match=r"AVIF needs Pillow 11\.3"):
        read(box(b"ftyp", b"avif\0\0\0\0mif1avif") + bytes(100))


def test_a_video_is_no_picture() -> None:
    with pytest.raises(ImageError, match="not a JPEG, PNG"):
        read(box(b"ftyp", b"isom\0\0\0\0isomiso2mp41") + bytes(100))


def test_a_heic_of_ten_bits_says_so_and_keeps_profile_and_alpha() -> None:
    pillow_heif = pytest.importorskip("pillow_heif", reason="the extra heic")
    deep, profile = smooth(40, 64).astype(np.uint16) * 257, bytes(16) + b"RGB " + bytes(16) + b"acsp" + bytes(88)
    buffer = io.BytesIO()
    pillow_heif.from_bytes(mode="RGB;16", size=(64, 40), data=deep.tobytes()).save(buffer, quality=90)
    assert read(buffer.getvalue()).lost == ("2 of 10 bits a channel",)
    see_through = stored(1)
    see_through.putalpha(200)
    picture = read(heic(see_through, icc_profile=profile))
    assert (picture.icc, picture.lost) == (profile, ())
    assert picture.alpha is not None
    assert np.abs(picture.alpha.astype(int) - 200).max() < 5
