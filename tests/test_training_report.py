"""report.html: true figures, safe with hostile names, and never in the way of a training."""

from __future__ import annotations

import errno
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import texture
from deblurgan import images, metrics
from deblurgan.pages.charts import HEIGHT, POINTS, Line, chart
from deblurgan.training.report import HtmlReport
from deblurgan.training.validation import validate
from small_training import history, trainer

HOSTILE = "<img src=x onerror=alert(1)>&quot;'.png"
SHORT: dict[str, Any] = {"crop": 32, "steps": 2, "val_every": 1, "log_every": 1}
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """The tags, attributes and words of a page, whose tags must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def has(self, text: str) -> bool:
        return any(text in word for word in self.words)


def page_of(run: Any) -> Page:
    return Page(run.folder.report.read_text())


def test_the_page_shows_a_run_and_needs_nothing_else(photos: Path, tmp_path: Path) -> None:
    run = trainer(photos, tmp_path / "run", val=photos, val_pictures=4, gan="wgan-gp", critic_steps=1, lr=2e-3, **SHORT)
    run.fit()
    page = page_of(run)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object"})
    sources = [attributes["src"] or "" for tag, attributes in page.tags if tag == "img"]
    assert sources and all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert not re.search(r"https?:|url\(|@import", run.folder.report.read_text())
    last = history(run.folder.path)[-1]
    for text in (f"{float(last['val_psnr']):.2f} dB", "finished at step 2 of 2", "step 1", "step 2", "0.002"):
        assert page.has(text), text
    for title in ("PSNR, dB", "loss: pixel", "loss: critic", "loss: penalty", "gradient norm, critic", "learning rate"):
        assert page.has(title), title
    assert not page.has("loss: tv"), "it is off"
    assert page.has("width") and page.has(torch.__version__)


def test_the_worst_pictures_are_those_that_gain_least(photos: Path, tmp_path: Path) -> None:
    run = trainer(photos, tmp_path / "run", val=photos, val_pictures=4, steps=3, identity_start=False)
    run.fit()
    found = validate(
        run.networks.validated.eval(), run.val_set, 4, precision="fp32", leave_out=lambda name, reason: None
    )
    gains = {}
    for i, one in enumerate(found.samples):
        before, after = (float(metrics.psnr(part, one.sharp, 255.0)) for part in (one.blurred, one.restored))
        assert found.scores[i] == (run.val_set.name(i), pytest.approx(before), pytest.approx(after))
        gains[run.val_set.name(i)] = after - before
    worst = sorted(gains, key=gains.__getitem__)[:3]
    words = page_of(run).words
    assert [word for word in words if word in gains] == worst
    assert [word for word in words if re.fullmatch(r"[+-]\d+\.\d\d dB", word)] == [
        f"{gains[name]:+.2f} dB" for name in worst
    ]


@pytest.mark.parametrize("where", ["left out", "worst", "options"])
def test_names_are_text(where: str, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    if where == "left out":
        (photos / HOSTILE).write_bytes(b"no picture")
    elif where == "worst":
        images.write(images.Picture(texture(40, 40)), photos / HOSTILE)
        for i in range(4):
            (photos / f"{i}.png").unlink()
    else:
        out = tmp_path / HOSTILE
    run = trainer(photos, out, max_bad_fraction=1.0, val=photos)
    run.fit()
    page = page_of(run)
    assert page.has(HOSTILE)
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        assert tag != "img" or str(attributes["src"]).startswith("data:")


def test_a_resumed_run_shows_the_samples_of_before(photos: Path, tmp_path: Path) -> None:
    trainer(photos, tmp_path).fit()
    pages = [(tmp_path / "report.html").read_text()]
    run = trainer(photos, tmp_path, steps=9)
    run.fit()
    pages.append(run.folder.report.read_text())
    heads = [[text for text in Page(page).words if re.fullmatch(r"step \d+", text)] for page in pages]
    assert heads == [["step 3", "step 6"], ["step 3", "step 6", "step 9"]]
    looks = [re.findall(r"<td>(<img[^>]+>)</td>", page)[:3] for page in pages]
    assert looks[0] == looks[1], "blurred, step 3 and step 6"


def test_pictures_of_several_sizes_are_shown_alike_before_and_after_a_resume(tmp_path: Path) -> None:
    for name, h, w in (("a", 40, 232), ("b", 232, 44)):
        (tmp_path / "photos").mkdir(exist_ok=True)
        pixels = np.zeros((h, w, 3), np.uint8)
        pixels[-40:, -44:] = texture(40, 44)  # beyond what the two have in common
        images.write(images.Picture(pixels), tmp_path / "photos" / f"{name}.png")
    photos, options = tmp_path / "photos", {**SHORT, "val": tmp_path / "photos", "val_pictures": 2}
    looks = []
    for steps in (2, 3):
        run = trainer(photos, tmp_path / "run", **{**options, "steps": steps})
        run.fit()
        looks.append(re.findall(r"<td>(<img[^>]+>)</td>", run.folder.report.read_text())[:3])
    assert looks[0] == looks[1], "blurred, step 1 and step 2"


def test_only_the_looks_that_are_shown_stay_in_memory(photos: Path, tmp_path: Path) -> None:
    run = trainer(photos, tmp_path, **{**SHORT, "steps": 9})
    run.fit()
    (report,) = (one for one in run.callbacks if isinstance(one, HtmlReport))
    assert list(report.looks) == [1, 4, 6, 9]
    heads = [text for text in page_of(run).words if re.fullmatch(r"step \d+", text)]
    assert heads == ["step 1", "step 4", "step 6", "step 9"]


def test_samples_of_other_pictures_are_not_shown(photos: Path, tmp_path: Path) -> None:
    run = trainer(photos, tmp_path)
    run.folder.samples.mkdir()
    images.write(images.Picture(np.zeros((8, 24, 3), np.uint8)), run.folder.samples / "0000001.png")
    (run.folder.samples / "0000002.png").write_bytes(b"no picture")
    run.fit()
    assert [text for text in page_of(run).words if re.fullmatch(r"step \d+", text)] == ["step 3", "step 6"]


def test_a_full_disk_ends_no_training(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trainer(photos, tmp_path)
    lines: list[str] = []
    run.log = lines.append
    replace = images.replace_file

    def full(path: Path, data: bytes) -> None:
        if path.name == "report.html":
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(path, data)

    monkeypatch.setattr(images, "replace_file", full)
    assert run.fit().steps == 6
    assert not run.folder.report.exists()
    assert any("report.html is not written: " in line and "No space left" in line for line in lines)


def test_a_new_run_takes_the_old_report_away(photos: Path, tmp_path: Path) -> None:
    trainer(photos, tmp_path).fit()
    run = trainer(photos, tmp_path, resume=False)
    run.callbacks = tuple(one for one in run.callbacks if not isinstance(one, HtmlReport))
    run.fit()
    assert not run.folder.report.exists()


def drawn(svg: str) -> list[float]:
    """The points of the first line, as values by the scale's labels."""
    labels = re.findall(r'y="([\d.]+)" text-anchor="end">([^<]+)</text>', svg)
    ticks = [(float(y) - 4, float(text.replace(",", ""))) for y, text in labels]
    ticks = [tick for tick in ticks if tick[0] < HEIGHT - 20]
    (y0, v0), (y1, v1) = ticks[0], ticks[-1]
    points = re.search(r'points="([^"]+)"', svg)
    assert points is not None
    ys = [float(point.split(",")[1]) for point in points[1].split()]
    if "logarithmic" in svg:
        return [v0 * (v1 / v0) ** ((y - y0) / (y1 - y0)) for y in ys]
    return [v0 + (y - y0) / (y1 - y0) * (v1 - v0) for y in ys]


@pytest.mark.parametrize(
    "values",
    [
        [1.0, 2.0, 1.5],
        [-3.0, 5.0, 0.25],
        [1e-6, 1e-2, 1.0],
        [27.131, 27.352, 27.298],
        [5.0, 5.0, 5.0],
        [0.0, 0.0, 0.0],
        [120.0, 180.0, 2400.0],
    ],
)
def test_a_chart_puts_values_where_its_scale_says(values: list[float]) -> None:
    svg = chart("x", [Line("x", list(enumerate(values)))])
    spread = max(values) - min(values) or 1
    for got, wanted in zip(drawn(svg), values, strict=True):
        assert got == pytest.approx(wanted, rel=0.02, abs=0.02 * spread if "logarithmic" not in svg else 0)
    ticks = re.findall(r'text-anchor="end">([^<]+)</text>', svg)[:-1]
    assert len(ticks) == len(set(ticks)) >= 2


def test_a_chart_leaves_out_what_is_not_finite_and_averages_many_points() -> None:
    assert chart("x", [Line("x", [(1, float("nan"))])]) == chart("x", []) == ""
    svg = chart("<x>", [Line("a", [(i, i % 2) for i in range(1000)]), Line("b", [(1, float("inf")), (2, 0.5)])])
    assert "&lt;x&gt;" in svg and "<x>" not in svg and Page(svg)
    first, second = re.findall(r'points="([^"]+)"', svg)
    assert len(first.split()) <= POINTS and len(second.split()) == 1
