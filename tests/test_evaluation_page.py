"""An evaluation's report.html: true figures, the worst first, nothing loaded, nothing run that a name brought."""

from __future__ import annotations

import base64
import io
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_training_report import HOSTILE, Page
from torch import Tensor

from conftest import texture
from deblurgan import images
from deblurgan.detection.boxes import Detections
from deblurgan.evaluation.detected import Rules, summarise
from deblurgan.evaluation.looks import BOXED, LEAST, SCRIPT, looks
from deblurgan.evaluation.page import MOST, ROOM, TYPICAL, write_page
from deblurgan.evaluation.records import Failure, Row
from deblurgan.evaluation.report import Report
from deblurgan.pages.charts import Dot, scatter
from deblurgan.pages.parts import STYLE

NOT_UTF_8 = "caf\udce9.png"
SIZE = 36, 48


def pictures_of(row: Row) -> dict[str, Tensor]:
    """Sharp, and as blurred and restored ones differ in the lower right corner alone."""
    sharp = texture(*SIZE, seed=3)
    blurred = sharp.copy()
    blurred[-8:, -8:] = 255 - blurred[-8:, -8:]
    return {name: torch.from_numpy(one).permute(2, 0, 1) for name, one in (("blurred", blurred), ("sharp", sharp))} | {
        name: torch.from_numpy(blurred // 2 + sharp // 2).permute(2, 0, 1) for name in row.figures if name != "blurred"
    }


def row(name: str, gain: float, **parts: float) -> Row:
    blurred = {"psnr": 24.0 + 7 * parts.get("exposure", 0), "ssim": 0.75}
    return Row(
        name, parts, {"blurred": blurred, "restored": {"psnr": blurred["psnr"] + gain, "ssim": 0.8125 - gain / 100}}
    )


def report(gains: list[float]) -> Report:
    rows = [row(f"{i}.png", gain, exposure=0.5 + i % 2 / 2) for i, gain in enumerate(gains)]
    return Report("synthetic", ("psnr", "ssim"), {"data": "photos", "blur": "shaken"}, "exposure", rows=rows)


def written(of: Report, path: Path, pictures=pictures_of) -> Page:
    write_page(path / "report.html", of, pictures)
    return Page((path / "report.html").read_text())


def shown(page: Page) -> list[str]:
    """The names above the pictures, in order."""
    return [word for word in page.words if re.fullmatch(r"\d+\.png", word)]


def files(page: Page) -> list[tuple[dict[str, str | None], np.ndarray]]:
    found = []
    for tag, attributes in page.tags:
        if tag == "img":
            kind, data = str(attributes["src"]).split(",")
            assert kind == "data:image/webp;base64"
            found.append((attributes, np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))))
    return found


def test_every_figure_of_the_table_is_the_reports(tmp_path: Path) -> None:
    of = report([1.25, -0.5, 2.0, 0.75])
    page = written(of, tmp_path)
    for system in ("blurred", "restored"):
        for metric, digits in (("psnr", 2), ("ssim", 4)):
            found = of.summary(metric, system)
            assert f"{found.mean:.{digits}f}" in page.words
            assert found.interval is not None
            assert " … ".join(f"{end:.{digits}f}" for end in found.interval) in page.words
        for exposure in (0.5, 1.0):
            assert f"{of.mean('psnr', system, exposure=exposure):.2f}" in page.words
            assert f"{of.gain(exposure=exposure).mean:+.2f}" in page.words
    gain = of.gain()
    assert f"{gain.mean:+.2f}" in page.words and "-0.50" in page.words and "+2.00" in page.words
    assert {"data", "photos", "blur", "shaken"} <= set(page.words)
    best = re.findall(r"<td><b>([^<]+)</b>", (tmp_path / "report.html").read_text())
    assert best == [f"{of.mean('psnr'):.2f}", f"{of.mean('ssim'):.4f}"]


def test_lower_is_better_of_some_metrics(tmp_path: Path) -> None:
    rows = [
        Row(f"{i}.png", {}, {"blurred": {"lpips": 0.3}, "restored": {"lpips": after}})
        for i, after in enumerate((0.2, 0.4))
    ]
    text = write_and_read(Report("pairs", ("lpips",), rows=rows), tmp_path)
    assert '<b class="loss">+0.1000</b>' in text and '<b class="gain">-0.1000</b>' in text
    assert shown(Page(text)) == ["1.png", "0.png"]


def write_and_read(of: Report, path: Path) -> str:
    write_page(path / "report.html", of, pictures_of)
    return (path / "report.html").read_text()


def test_the_worst_stand_first_then_the_best_then_the_middle_and_none_twice(tmp_path: Path) -> None:
    gains = [float(x) for x in np.random.default_rng(0).permutation(30) - 10]
    order = [f"{i}.png" for i in np.argsort(gains)]
    asked: list[str] = []

    def counting(row: Row) -> dict[str, Tensor]:
        asked.append(row.picture)
        return pictures_of(row)

    page = written(report(gains), tmp_path, counting)
    assert shown(page) == asked == order[:MOST] + order[::-1][:MOST] + order[14 : 14 + TYPICAL] and TYPICAL == 2
    for count in (1, 2, 3, 5):
        few = shown(written(report(gains[:count]), tmp_path))
        assert sorted(few) == sorted(f"{i}.png" for i in range(count))


def test_scenes_of_one_picture_stand_for_it_once_while_others_are_left(tmp_path: Path) -> None:
    of = report([float(i) for i in range(24)])
    of.rows = [replace(row, picture=f"{i // 8}.png") for i, row in enumerate(of.rows)]
    page = written(of, tmp_path)
    assert shown(page) == ["0.png", "0.png", "1.png", "2.png", "2.png", "2.png", "1.png", "0.png", "1.png", "1.png"]


def test_a_system_that_knows_the_kernel_is_not_the_best(tmp_path: Path) -> None:
    of = report([1.0, 2.0])
    for row in of.rows:
        row.figures["richardson-lucy"] = {"psnr": 50.0, "ssim": 0.99}
    text = write_and_read(of, tmp_path)
    assert "knows the true kernel" in text and "<td>50.00" in text and "<b>50.00" not in text


def test_crops_are_the_pictures_own_pixels_where_they_differ(tmp_path: Path) -> None:
    small, *crops = files(written(report([1.0]), tmp_path))
    assert small[1].shape == (*SIZE, 3)
    wanted = pictures_of(row("", 1.0))
    for name, (attributes, pixels) in zip(("blurred", "restored", "sharp"), crops, strict=True):
        assert f", {name}, " in str(attributes["alt"]) and attributes["alt"]
        np.testing.assert_array_equal(pixels, wanted[name].permute(1, 2, 0).numpy())


def test_the_page_stays_small_whatever_the_pictures(tmp_path: Path) -> None:
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 400, 500), np.uint8))
    text = Path(tmp_path / "report.html")
    write_page(text, report([1.0]), lambda row: dict.fromkeys(("blurred", "restored", "sharp", "other"), noise))
    whole = len(files(Page(text.read_text()))[1][1])
    assert whole == 320 and text.stat().st_size < ROOM
    _, crops = looks(row("", 1.0), dict.fromkeys(("blurred", "sharp"), noise), {}, None, room=120_000)
    sides = {len(pixels) for _, pixels in files(Page(crops))}
    assert len(crops) < 125_000 and len(sides) == 1 and LEAST < sides.pop() < 320
    assert (
        len(files(Page(looks(row("", 1.0), dict.fromkeys(("blurred", "sharp"), noise), {}, None, room=0)[1]))[0][1])
        == LEAST
    )


@pytest.mark.parametrize("name", [HOSTILE, "</script><script>alert(1)</script>", NOT_UTF_8, "a\nb\x1b[2J.png"])
def test_names_are_text_and_nothing_is_loaded(name: str, tmp_path: Path) -> None:
    of = report([1.0])
    of.rows.append(row(name, -1.0, **{name: 1.0, "exposure": 0.5}))
    of.rows[-1].figures[name] = of.rows[-1].figures["restored"]
    of.conventions[name] = name
    of.settings[name] = {name: name}
    of.failed = [Failure(name, {name: name}, name, name)]
    page = written(of, tmp_path)
    assert page.has(images.printable(name))
    text = (tmp_path / "report.html").read_text()
    assert not re.search(r"https?:|url\(|@import", text)
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert {tag for tag, _ in page.tags}.isdisjoint({"link", "iframe", "object", "base", "form"})
    for tag, attributes in page.tags:
        assert not any(attribute.startswith("on") for attribute in attributes)
        assert tag != "img" or (str(attributes["src"]).startswith("data:") and attributes["alt"])
    assert all(attributes.get("scope") for tag, attributes in page.tags if tag == "th")


def test_every_failure_is_named_with_its_reason(tmp_path: Path) -> None:
    of = report([1.0, 2.0])
    of.failed = [Failure(f"bad-{i}.png", {"kernel": i}, "mine" if i else "", f"reason {i}") for i in range(300)]
    words = set(written(of, tmp_path).words)
    assert {f"bad-{i}.png" for i in range(300)} | {f"reason {i}" for i in range(300)} <= words

    def lost(row: Row) -> dict[str, Tensor]:
        raise FileNotFoundError("it has gone")

    assert written(of, tmp_path, lost).has("cannot be shown")


def test_a_system_that_lacks_scenes_is_not_the_best(tmp_path: Path) -> None:
    of = report([1.0, 2.0])
    of.rows[0].figures["other"] = {"psnr": 50.0, "ssim": 0.99}
    text = write_and_read(of, tmp_path)
    assert "<td>1 of 2</td>" in text and "<td>50.00" in text and "<b>50.00" not in text


def test_what_is_no_number_is_a_dash_and_the_worst(tmp_path: Path) -> None:
    of = report([1.0, math.nan, 2.0])
    page = written(of, tmp_path)
    assert shown(page)[0] == "1.png"
    assert not any(re.search(r"\b(nan|inf)\b", word, re.IGNORECASE) for word in page.words if word != SCRIPT)
    empty = written(Report("pairs", ("psnr",), failed=[Failure("a.png", {}, "", "empty file")]), tmp_path)
    assert empty.has("No picture was measured") and empty.has("empty file")


def test_the_same_report_gives_the_same_bytes(tmp_path: Path) -> None:
    assert write_and_read(report([1.0, 2.0]), tmp_path) == write_and_read(report([1.0, 2.0]), tmp_path)


def boxed() -> Report:
    """Two objects in the sharp picture; blurred one is missed, restored both are found, and one that is not there."""
    of = report([1.0])
    of.rules = Rules("any", ("cat", "<b>dog"), 0.25, 0.5)
    cat, dog, other = (10.0, 10.0, 40.0, 50.0), (50.0, 20.0, 80.0, 60.0), (0.0, 0.0, 5.0, 5.0)
    of.rows[0].detections.update(
        sharp=Detections([cat, dog, other], [0, 1, 0], [0.9, 0.8, 0.1]),
        blurred=Detections([dog], [1], [0.5]),
        restored=Detections([cat, dog, other], [0, 1, 1], [0.7, 0.6, 0.3]),
    )
    return of


def test_boxes_are_drawn_and_counted(tmp_path: Path) -> None:
    text = write_and_read(boxed(), tmp_path)
    page = Page(text)
    assert [re.findall(r'<g class="(\w+)"', svg) for svg in text.split('class="wholes"')[1].split("<figure>")[1:]] == [
        ["missed", "found"],
        ["found", "found", "false"],
        ["found", "found"],
    ]
    for words in ("1 found, 1 missed, 0 false", "2 found, 0 missed, 1 false", "2 objects", "cat 0.90", "<b>dog 0.60"):
        assert words in page.words, words
    assert '<rect x="10.0" y="10.0" width="30.0" height="40.0"/>' in text
    found = summarise(boxed().rows, boxed().rules, "picture").to_mapping()["systems"]
    for system in ("blurred", "restored"):
        for key in ("precision", "recall", "f1", "ap"):
            assert any(word.startswith(f"{found[system][key]:.3f}") for word in page.words)
    assert all(max(pixels.shape) <= BOXED for _, pixels in files(page))


def test_a_scatter_chart_puts_dots_where_its_scales_say() -> None:
    dots = [Dot(20.0, 21.5, "main", "<a>"), Dot(30.0, 29.0, "loss", "b")]
    svg = scatter("<t>", "n", dots, [(20, 20), (30, 30)], steps=False)
    assert Page(svg).has("<a>") and "<t>" not in svg
    circles = [tuple(map(float, found)) for found in re.findall(r'class="\w+" cx="([\d.]+)" cy="([\d.]+)"', svg)]
    line = re.findall(r"([\d.]+),([\d.]+)", re.search(r'points="([^"]+)"', svg)[1])
    (x0, y0), (x1, y1) = (tuple(map(float, point)) for point in line)
    for dot, (x, y) in zip(dots, circles, strict=True):
        assert x == pytest.approx(x0 + (dot.x - 20) / 10 * (x1 - x0), abs=0.2)
        assert y == pytest.approx(y0 + (dot.y - 20) / 10 * (y1 - y0), abs=0.2)
    assert scatter("t", "n", [], [], steps=True) == ""


def luminance(colour: str) -> float:
    digits = colour * 2 if len(colour) == 3 else colour
    parts = (int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4))
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_text_has_contrast_in_light_and_dark() -> None:
    for block in re.findall(r":root \{([^}]+)\}", STYLE):
        colours = {name: luminance(value) for name, value in re.findall(r"--(\w+): #(\w+)", block)}
        for ink in ("ink", "soft", "main", "loss"):
            if ink in colours:
                for ground in ("ground", "card"):
                    light, dark = sorted((colours[ink], colours[ground]), reverse=True)
                    assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, ground)
