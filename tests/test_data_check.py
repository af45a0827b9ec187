"""`deblurgan data check`: every problem is named, none stops the others, and blurred pictures are softer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

import deblurgan
from conftest import texture
from deblurgan import cli, images
from deblurgan.blur import MotionBlur
from deblurgan.config import BlurConfig, train_config
from deblurgan.config.data import DataConfig
from deblurgan.data import check
from deblurgan.data.blurred_sets import write_blurred
from deblurgan.data.check import DataReport, check_data
from deblurgan.data.sharpness import SOFT, sharpness
from deblurgan.training.estimate import measure_step
from picture_folders import write, write_pairs
from small_training import SMALL

DEMO = images.read(Path(deblurgan.__file__).parent / "assets" / "demo.png").pixels


def edges(h: int, w: int) -> np.ndarray:
    """Squares with hard edges, at all angles."""
    y, x = np.mgrid[:h, :w]
    pattern = ((x + y) // 31 + (x - y) // 47 + x // 23 + y // 41) % 2
    return np.repeat((40 + 170 * pattern)[..., None], 3, 2).astype(np.uint8)


def noise(h: int, w: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (h, w, 3), dtype=np.uint8)


CONTENTS = {
    "photo": DEMO,
    "part": DEMO[100:300, 200:500],
    "dark": (DEMO * 0.3).astype(np.uint8),
    "edges": edges(256, 320),
    "noise": noise(256, 320),
    "texture": texture(256, 320, seed=4),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_blurred_pictures_are_softer_whatever_they_show(name: str) -> None:
    """The more so, the wider the blur."""
    pixels = np.ascontiguousarray(CONTENTS[name])
    picture, tensor = Image.fromarray(pixels), torch.from_numpy(pixels).permute(2, 0, 1)
    of = [sharpness(np.asarray(picture.filter(ImageFilter.GaussianBlur(radius)))) for radius in (0, 1, 2, 3)]
    assert of == sorted(of, reverse=True) and of[2] < 0.7 * of[0]
    for index in range(3):
        shaken = MotionBlur(length=20.0, exposure=(1.0,))(tensor, index=index).permute(1, 2, 0).numpy()
        assert sharpness(shaken) < 0.7 * sharpness(pixels)


def test_contrast_and_brightness_do_not_count() -> None:
    for changed in (DEMO // 2, DEMO // 2 + 120, 255 - DEMO):
        assert abs(sharpness(changed) / sharpness(DEMO) - 1) < 0.1
    assert sharpness(np.full((64, 64, 3), 9, np.uint8)) == sharpness(DEMO[:4, :4]) == 1.0


def test_a_photo_blurred_along_one_axis_is_soft() -> None:
    along = DEMO.astype(float)
    along = np.mean([np.roll(along, k, axis=1) for k in range(15)], 0).astype(np.uint8)
    assert sharpness(along) < SOFT < sharpness(DEMO) and sharpness(along.swapaxes(0, 1)) < SOFT


def checked(data: Path, **options: Any) -> tuple[DataReport, list[str]]:
    lines: list[str] = []
    config = DataConfig("check", data, **{"crop": 32, **options})
    return check_data(config, log=lines.append), lines


def test_every_problem_is_named_and_none_stops_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "AT_ONCE", 2)
    for i in range(3):
        write(tmp_path / f"{i}.png", seed=i)
    (tmp_path / "3bad.png").write_bytes(b"no picture")
    (tmp_path / "4empty.jpg").touch()
    write(tmp_path / "5small.png", seed=5, h=30, w=50)
    soft = Image.fromarray(DEMO).filter(ImageFilter.GaussianBlur(4))
    images.write(images.Picture(np.asarray(soft)), tmp_path / "6soft.png")
    shutil.copy(tmp_path / "1.png", tmp_path / "7copy.png")
    report, lines = checked(tmp_path)
    assert [one.name for one in report.pictures] == sorted(path.name for path in tmp_path.iterdir())
    assert [one.problem for one in report.pictures] == [None, None, None, "bad", "bad", "small", "soft", "twice"]
    assert [line.split(": ")[:2] for line in lines[1:]] == [
        ["bad", "3bad.png"],
        ["bad", "4empty.jpg"],
        ["small", "5small.png"],
        ["soft", "6soft.png"],
        ["twice", "7copy.png"],
    ]
    assert "30 is below the crop of 32" in lines[3] and "the same photo as 1.png" in lines[5]
    assert report.usable() == 5
    assert report.lines()[-1] == "8 pictures: 5 problems, 2 bad, 1 small, 1 soft, 1 twice"
    assert report.lines()[0] == "sizes: 50x30 to 600x400 px"


def test_pairs_are_looked_at_together(tmp_path: Path) -> None:
    for i in range(4):
        sharp = DEMO[:, 100 * i : 100 * i + 200]
        blurred = np.asarray(Image.fromarray(sharp).filter(ImageFilter.GaussianBlur(2)))
        for kind, pixels in (("blur", blurred), ("sharp", sharp)) if i != 2 else (("blur", sharp), ("sharp", blurred)):
            (tmp_path / kind).mkdir(exist_ok=True)
            images.write(images.Picture(pixels), tmp_path / kind / f"{i}.png")
    write(tmp_path / "blur" / "3.png", seed=3)
    (tmp_path / "sharp" / "0.png").write_bytes(b"")
    report, lines = checked(tmp_path)
    assert lines[0] == "data is read as 4 pairs, blur/ beside sharp/"
    assert [(one.name, one.problem) for one in report.pictures] == [
        ("sharp/0.png", "bad"),
        ("blur/1.png", None),
        ("blur/2.png", "softer"),
        ("blur/3.png", "bad"),
    ]
    assert report.pictures[3].reason == "96x72 blurred but 200x400 sharp"


def test_versions_of_one_photo_are_no_copies(photos: Path, tmp_path: Path) -> None:
    write_blurred(BlurConfig(inputs=(photos,), out=tmp_path / "set", pairs=True, n=2, length=12.0))
    assert not checked(tmp_path / "set")[0].problems()


def test_layouts_that_are_asked_about_are_asked_about_here(tmp_path: Path) -> None:
    write(tmp_path / "1_blur.png", seed=0)
    write(tmp_path / "1_sharp.png", seed=1)
    with pytest.raises(ValueError, match="in one folder"):
        checked(tmp_path)


def test_the_command(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data", "check", str(photos), "--crop", "32", "--json", str(tmp_path / "new" / "found.json")]
    assert cli.main(words) == 0
    assert capsys.readouterr().out.splitlines() == [
        "data is read as 4 sharp photos, blurred as they are drawn",
        "sizes: 96x72 to 96x72 px",
        f"sharpness: {sorted(sharpness(texture(72, 96, seed=i)) for i in range(4))[2]:.2f} in the middle; "
        f"below {SOFT} is soft",
        "4 pictures: no problems",
        "an epoch: 4 steps of 1; --time measures how long these take",
    ]
    found = json.loads((tmp_path / "new" / "found.json").read_bytes())
    assert found["usable"] == 4 and found["pictures"][0]["width"] == 96
    (photos / "2.png").write_bytes(b"no picture")
    assert cli.main(words) == 1
    assert json.loads((tmp_path / "new" / "found.json").read_bytes())["pictures"][2]["problem"] == "bad"
    assert cli.main(["data", "check", str(tmp_path / "nowhere")]) == 2
    assert cli.main(["data", "check", str(photos), "--crop", "30"]) == 2


def test_the_time_of_an_epoch_is_measured(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--crop", "32", "--time", "--preset", "tiny", "--device", "cpu"]
    assert cli.main(["data", "check", str(photos), *words]) == 0
    assert "an epoch: 2 steps of 2, about " in (line := capsys.readouterr().out.splitlines()[-1])
    assert " s a step on cpu, " in line and "; the 1000 of tiny about " in line
    before = sorted(photos.rglob("*"))
    step = measure_step(train_config(photos, out=tmp_path / "run", **SMALL))
    assert step.seconds > 0 and step.measured == 5 and step.where == "cpu, fp32"
    assert sorted(photos.rglob("*")) == before and not (tmp_path / "run").exists()


def test_progress_reaches_the_end(tmp_path: Path) -> None:
    write_pairs(tmp_path)
    shares: list[float] = []
    check_data(DataConfig("check", tmp_path, crop=32), log=lambda line: None, progress=shares.append)
    assert shares == [1 / 3, 2 / 3, 1.0]
