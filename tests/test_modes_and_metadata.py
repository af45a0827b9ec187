"""Every kind of picture goes through the files of its format and comes back as it was, with an identity in place of the
network."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
import pytest
from PIL import Image, ImageCms, PngImagePlugin
from test_images import EXIF, GPS, ORIENTATION, camera_exif, cmyk_profile, smooth, stored_as

from deblurgan import images
from deblurgan.images import Picture

H, W = 18, 26
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()[:-1] + b"\1"  # none that anyone would make
XMP = b'<x xmp:Rating="5"/>'
PROGRAMS = Path(__file__).parent / "programs"
SUFFIX = {"JPEG": ".jpg", "PNG": ".png", "TIFF": ".tif", "WEBP": ".webp", "BMP": ".bmp", "GIF": ".gif"}


class Fixture(NamedTuple):
    """A picture's file: `tolerance` is what its values may be off by, in the mean."""

    format: str
    image: Image.Image
    tolerance: float
    orientation: int = 1
    options: dict[str, Any] = {}  # noqa: RUF012 (never changed)

    def __str__(self) -> str:
        options = "-".join(self.options)
        return f"{self.format}-{self.image.mode}-{self.orientation}-{options}"


PILLOW_13 = int(PIL.__version__.split(".")[0]) >= 13  # the first to read an uncompressed TIFF of YCbCr
COLOUR = Image.fromarray(smooth(H, W))
GREY = COLOUR.convert("L")
ALPHA = Image.fromarray(np.random.default_rng(0).integers(0, 256, (H, W), dtype=np.uint8))


def with_alpha(image: Image.Image) -> Image.Image:
    image = image.copy()
    image.putalpha(ALPHA)
    return image


def fixtures() -> list[Fixture]:
    turned = [
        Fixture(format, Image.fromarray(np.ascontiguousarray(stored_as(smooth(H, W), n))), tolerance, n)
        for format, tolerance in (("JPEG", 9), ("PNG", 0), ("TIFF", 0), ("WEBP", 9))
        for n in range(1, 9)
    ]
    palette = COLOUR.quantize(32)
    others = [
        *(Fixture(format, GREY.convert("1"), 0) for format in ("PNG", "TIFF", "BMP")),
        *(Fixture(format, GREY, 0) for format in ("PNG", "TIFF", "BMP")),
        Fixture("JPEG", GREY, 9),
        *(Fixture(format, with_alpha(GREY), 0) for format in ("PNG", "TIFF")),
        *(Fixture(format, palette, 0) for format in ("PNG", "TIFF", "BMP", "GIF")),
        Fixture("PNG", palette, 0, options={"transparency": bytes(range(0, 256, 8))}),
        Fixture("TIFF", with_alpha(palette.convert("PA")), 0),
        *(Fixture(format, with_alpha(COLOUR), 0) for format in ("PNG", "TIFF")),
        Fixture("WEBP", with_alpha(COLOUR), 0, options={"lossless": True, "exact": True}),
        Fixture("WEBP", with_alpha(COLOUR), 9, options={"quality": 90}),
        Fixture("BMP", COLOUR, 0),
        *([Fixture("TIFF", COLOUR.convert("YCbCr"), 2)] if PILLOW_13 else []),
        Fixture("JPEG", COLOUR.convert("CMYK"), 255, options={"icc_profile": cmyk_profile()}),
        Fixture("TIFF", COLOUR.convert("CMYK"), 255, options={"icc_profile": cmyk_profile()}),
        Fixture("JPEG", COLOUR, 9, options={"progressive": True}),
        *(Fixture(format, Image.fromarray(np.asarray(GREY) * np.uint16(257)), 0) for format in ("PNG", "TIFF")),
    ]
    return turned + others


def tags_of(block: bytes | None) -> dict[int, Any]:
    tags = Image.Exif()
    tags.load(block or b"")
    return dict(tags) | {directory: dict(tags.get_ifd(directory)) for directory in (EXIF, GPS)}


def test_there_are_48_of_them_at_least() -> None:
    assert len({str(fixture) for fixture in fixtures()}) >= 48


@pytest.mark.parametrize("fixture", fixtures(), ids=str)
def test_a_picture_comes_back_as_it_was(tmp_path: Path, fixture: Fixture) -> None:
    buffer, path = io.BytesIO(), tmp_path / f"a{SUFFIX[fixture.format]}"
    bare = fixture.format in ("BMP", "GIF")
    exif = camera_exif(fixture.orientation)
    if fixture.format == "TIFF":
        exif[700] = XMP
    fine = {"quality": 95, "subsampling": 0} if fixture.format == "JPEG" else {"quality": 95}
    about = {} if bare else fine | {"icc_profile": PROFILE, "exif": exif.tobytes(), "xmp": XMP}
    if fixture.format == "PNG":
        about["pnginfo"] = PngImagePlugin.PngInfo()
        about["pnginfo"].add_itxt("XML:com.adobe.xmp", XMP.decode())
    fixture.image.save(buffer, fixture.format, dpi=(300, 150), **about | fixture.options)
    picture = images.read(io.BytesIO(buffer.getvalue()))
    out = path.with_suffix(".png") if fixture.format == "GIF" else path
    images.write(picture.with_pixels(picture.pixels.copy()), out)
    again = images.read(out)

    assert again.pixels.shape == (H, W, 3)
    assert again.pixels.dtype == picture.pixels.dtype
    assert np.abs(again.pixels.astype(int) - picture.pixels).mean() <= fixture.tolerance / 3
    assert (again.alpha is None) == (picture.alpha is None)
    assert picture.alpha is None or np.array_equal(again.alpha, picture.alpha)  # type: ignore[arg-type]
    if fixture.image.mode in ("RGBA", "LA") or "PA" in fixture.image.mode:
        assert np.array_equal(again.alpha, np.asarray(ALPHA))  # type: ignore[arg-type]
    if fixture.image.mode == "RGB":
        assert np.abs(again.pixels.astype(int) - smooth(H, W)).mean() <= fixture.tolerance
    assert (again.xmp, again.icc, again.grey) == (picture.xmp, picture.icc, picture.grey)
    if not bare:
        expected = tags_of(camera_exif().tobytes())
        assert {tag: tags_of(again.exif)[tag] for tag in expected} == expected
        assert ORIENTATION not in tags_of(again.exif)
        assert fixture.image.mode == "CMYK" or again.icc == PROFILE
        assert again.xmp == XMP
    if fixture.format not in ("GIF", "WEBP"):
        turned = fixture.orientation > 4 and fixture.format != "TIFF"  # which Pillow turns, but for its resolution
        assert again.dpi == pytest.approx(picture.dpi)
        assert fixture.format == "TIFF" or again.dpi == pytest.approx((150, 300) if turned else (300, 150), abs=0.02)


# Without metadata


def test_without_metadata_only_what_is_seen_stays(tmp_path: Path) -> None:
    chunks = ((b"gAMA", bytes(4)), (b"tEXt", b"Author\0Anne"), (b"caLa", b"serial number"))
    told = {"exif": b"Exif\0\0II*\0\x08\0\0\0", "xmp": b"<x/>", "dpi": (300.0, 300.0), "segments": (("COM", b"Anne"),)}
    alpha = np.asarray(ALPHA)
    picture = Picture(smooth(H, W), alpha, icc=PROFILE, png_chunks=chunks, lossless=True, **told)  # type: ignore[arg-type]
    bare = picture.without_metadata()
    assert (bare.exif, bare.xmp, bare.dpi, bare.segments, bare.png_chunks) == (None, None, None, (), chunks[:1])
    assert (bare.pixels is picture.pixels, bare.alpha is alpha, bare.icc, bare.lossless) == (True, True, PROFILE, True)
    data = images.encode(bare, "a.png")[0]
    assert b"Anne" not in data
    assert b"serial" not in data


# Streams


def test_an_open_file_is_read_and_names_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    images.write(Picture(smooth(H, W)), path)
    with path.open("rb") as file:
        assert np.array_equal(images.read(file).pixels, smooth(H, W))
    with pytest.raises(images.ImageError) as caught, path.open("rb") as file:
        file.read()
        images.read(file)
    assert str(caught.value) == f"{path}: empty file"
    with pytest.raises(images.ImageError, match=r"^picture: damaged"):
        images.read(io.BytesIO(b"no picture"))


# Damage and bombs


def run(program: str, *arguments: object) -> str:
    command = [sys.executable, "-W", "ignore", str(PROGRAMS / program), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(PROGRAMS.parents[1])}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    return subprocess.run(command, env=environment, check=True, **pipes).stdout


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory")
def test_damaged_files_are_decoded_or_refused() -> None:
    counts = dict(part.rsplit(" ", 1) for part in run("mutate_pictures.py", 500).strip().split(", "))
    assert sum(map(int, counts.values())) == 500
    assert int(counts["decoded"]) > 50
    assert int(counts["refused"]) > 50
    assert "other" not in counts


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory in KiB")
def test_bombs_are_refused_before_they_go_off() -> None:
    *lines, grown = run("picture_bombs.py").splitlines()
    claims = [line for line in lines if line.endswith("pixels (max_pixels sets the limit)")]
    assert len(lines) >= 24
    assert len(claims) >= 17
    assert lines[-2].endswith("a JPEG of more than 100 scans")
    assert lines[-1].endswith("many-paged: save one page as a picture first")
    assert int(grown) < 100
