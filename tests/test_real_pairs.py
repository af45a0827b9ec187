"""GoPro, RealBlur and pairs as people have them: what was chosen is said, and a bad pair fails alone."""

from __future__ import annotations

import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import texture
from deblurgan import images
from deblurgan.data import PairedFolder, open_dataset
from deblurgan.evaluation.judge import Judge
from deblurgan.evaluation.protocols import open_protocol
from deblurgan.evaluation.records import Failure
from deblurgan.evaluation.scenes import Protocol, Scene
from deblurgan.evaluation.systems import RESTORED
from deblurgan.metrics import METRICS

OPTIONS = {
    "frames": (5, 25),
    "layout": "auto",
    "gamma": False,
    "scale": 1.0,
    "kernels": 1,
    "exposure": (1.0,),
    "seed": 0,
    "log": lambda line: None,
}


def opened(name: str, data: object, *metrics: str, **options: object) -> Protocol:
    return open_protocol(name, data, metrics, **OPTIONS | options)


def write(path: Path, *, seed: int = 0, size: tuple[int, int] = (24, 32)) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = texture(*size, seed=seed)
    images.write(images.Picture(pixels), path)
    return pixels


def failures(protocol: Protocol) -> dict[str, str]:
    """By picture, of all that a system which changes nothing meets; the others have a row each."""
    systems = {RESTORED: lambda picture, scene: scene.blurred}
    records = [Judge(protocol, systems).record(index) for index in range(len(protocol.pictures()))]
    failed = [failure for record in records for failure in record.failed]
    assert len(failed) + sum(len(record.rows) for record in records) == len(records)
    assert all(failure == Failure(failure.picture, {}, "", failure.reason) for failure in failed)
    return {failure.picture: failure.reason for failure in failed}


@pytest.fixture
def gopro(tmp_path: Path) -> Path:
    for split, sequence in [("train", "GOPR1"), ("test", "GOPR2"), ("test", "GOPR3")]:
        for folder in ("blur", "blur_gamma", "sharp"):
            for number in (1, 2):
                write(tmp_path / split / sequence / folder / f"00000{number}.png", seed=number + 10 * len(folder))
    return tmp_path


def test_gopro_says_subset_and_scale_and_takes_a_sequence_for_a_sample(gopro: Path) -> None:
    for name, gamma, subset in (("auto", False, "linear (blur/)"), ("gopro", True, "gamma (blur_gamma/)")):
        protocol = opened(name, gopro, gamma=gamma, scale=0.5)
        assert (protocol.name, protocol.lines_by, protocol.samples_by) == ("gopro", "sequence", "sequence")
        assert protocol.conventions()["subset"] == f"{subset}, of 1111 pictures in 11 sequences as published"
        assert "reduced to 0.5 of their sides first, by Pillow's bicubic filter" in protocol.conventions()["scale"]
        assert "4 pairs of GoPro's tree" in protocol.conventions()["data"]
        taken = "blur_gamma" if gamma else "blur"
        assert protocol.pictures()[2] == f"test/GOPR3/{taken}/000001.png"
        (scene,) = protocol.scenes(2)
        assert scene.parts == {"sequence": "GOPR3"}
        for part, folder in ((scene.blurred, taken), (scene.sharp, "sharp")):
            picture = Image.open(gopro / "test/GOPR3" / folder / "000001.png")
            halved = np.asarray(picture.resize((16, 12), Image.Resampling.BICUBIC))
            assert torch.equal(part, torch.from_numpy(halved.copy()).permute(2, 0, 1))
    assert opened("pairs", gopro).conventions()["scale"] == "that of the files"


def test_bad_pairs_fail_alone(gopro: Path) -> None:
    below = gopro / "test"
    (below / "GOPR2/sharp/000001.png").unlink()
    (below / "GOPR2/blur/000002.png").unlink()
    write(below / "GOPR3/sharp/000001.png", size=(24, 31))
    (below / "GOPR3/sharp/000002.png").write_bytes(b"\x89PNG")
    write(below / "GOPR4/blur/1.png")
    for number in (1, 2):
        for folder in ("blur", "sharp"):
            write(below / f"GOPR5/{folder}/{number}.png")
    (below / "GOPR5/blur/2.png").write_bytes(b"")
    protocol = opened("auto", gopro)
    found = failures(protocol)
    assert len(protocol.pictures()) == len(set(protocol.pictures())) == 7
    assert found.pop("test/GOPR3/blur/000002.png").startswith("test/GOPR3/sharp/000002.png: ")
    assert found == {
        "test/GOPR2/blur/000001.png": "has no sharp picture",
        "test/GOPR2/sharp/000002.png": "has no blurred picture",
        "test/GOPR3/blur/000001.png": "32x24 blurred but 31x24 sharp",
        "test/GOPR4/blur/1.png": "has no sharp picture",
        "test/GOPR5/blur/2.png": "empty file",
    }
    with pytest.raises(ValueError, match="must hold the same names"):
        open_dataset(gopro, split="test")  # training goes on refusing them


def test_of_pairs_only_the_test_split_is_measured(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("1", "2", "3"):
            write(tmp_path / split / "input" / f"{name}.png")
            write(tmp_path / split / "target" / f"{name}.png")
        (tmp_path / split / "target" / "2.png").unlink()
    protocol = opened("auto", tmp_path)
    assert protocol.name == "pairs"
    assert list(protocol.pictures()) == [f"test/input/{n}.png" for n in (1, 3, 2)]
    assert failures(protocol) == {"test/input/2.png": "has no sharp picture"}


def test_a_tar_file_without_a_partner_fails_alone(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        for name in ("1.blur", "1.sharp", "2.blur", "3.sharp"):
            write(tmp_path / "picture.png")
            file.add(tmp_path / "picture.png", f"{name}.png")
    protocol = opened("pairs", tmp_path / "a.tar")
    assert list(protocol.pictures()) == ["1.blur.png", "2.blur.png", "3.sharp.png"]
    assert list(failures(protocol).values()) == ["has no sharp picture", "has no blurred picture"]


def test_data_that_do_not_fit_are_refused(gopro: Path, photos: Path) -> None:
    for folder in ("blur", "sharp"):
        write(photos.parent / "pairs" / folder / "1.png")
    pairs = photos.parent / "pairs"
    for name, data, options, words in [
        ("gopro", pairs, {}, "must be a GoPro root with test/SEQUENCE/sharp folders"),
        ("gopro", pairs, {"layout": "paired"}, "must be GoPro's tree, .*, got 1 pairs"),
        ("pairs", photos, {}, "must hold pairs of blurred and sharp pictures for pairs, got 4 sharp photos"),
        ("synthetic", pairs, {}, "must hold sharp photos for synthetic, got 1 pairs"),
        ("synthetic", photos, {"scale": 0.5}, "scale must be 1.0 for synthetic, got 0.5"),
        ("pairs", pairs, {"scale": 0.0}, r"scale must be in \(0, 1\], got 0"),
        ("pairs", pairs, {"scale": 2}, r"scale must be in \(0, 1\], got 2"),
        ("wild", pairs, {}, "protocol must be one of auto, pairs, .*, got 'wild'"),
        ("kohler", PairedFolder(pairs), {}, "data must be a folder for kohler, got PairedFolder"),
    ]:
        with pytest.raises(ValueError, match=words):
            opened(name, data, **options)
    (pairs / "sharp/1.png").rename(pairs / "sharp/2.png")
    with pytest.raises(ValueError, match="must hold the same names; 2 differ"):
        opened("pairs", pairs)


def test_realblur_without_opencv_says_what_to_install(gopro: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r"pip install 'deblurgan\[realblur\]'"):
        opened("realblur", gopro)


TREES = {"J": "RealBlur-J_ECC_IMCORR_centroid_itensity_ref", "R": "RealBlur-R_BM3D_ECC_IMCORR_centroid_itensity_ref"}


@pytest.fixture
def realblur(tmp_path: Path) -> Path:
    """Both trees with their lists; of the pictures listed for the test of J, one lies in no folder."""
    for kind, tree in TREES.items():
        for split, scene in (("train", "scene001"), ("test", "scene230"), ("test", "scene231")):
            lines = [f"{tree}/{scene}/gt/gt_{i}.png {tree}/{scene}/blur/blur_{i}.png" for i in (1, 2)]
            with (tmp_path / f"RealBlur_{kind}_{split}_list.txt").open("a") as file:
                file.write("\n".join(lines) + "\n")
            for name in " ".join(lines).split():
                write(tmp_path / name, seed=len(name), size=(48, 64))
    (tmp_path / TREES["J"] / "scene230/gt/gt_2.png").unlink()
    (tmp_path / TREES["J"] / "scene231/blur/blur_1.png").unlink()
    return tmp_path


def test_realblur_reads_the_test_lists(realblur: Path) -> None:
    pytest.importorskip("cv2", reason="the extra realblur")
    for data in (realblur / TREES["J"], realblur / "RealBlur_J_test_list.txt"):
        protocol = opened("realblur", data)
        assert protocol.samples_by == "scene"
        assert [name[-23:] for name in protocol.pictures()] == [
            f"scene{scene}/blur/blur_{i}.png"[-23:] for scene, i in ((230, 1), (231, 2), (230, 2), (231, 1))
        ]
        assert protocol.scenes(1)[0].parts == {"scene": "scene231"}
        reasons = list(failures(protocol).values())
        assert reasons == ["has no sharp picture", "is missing"]
    with pytest.raises(ValueError, match=r"got RealBlur_J_test_list\.txt and RealBlur_R_test_list\.txt"):
        opened("realblur", realblur)
    with pytest.raises(ValueError, match="metrics must be of psnr, ssim, got ms-ssim"):
        opened("realblur", realblur, "ms-ssim")
    (realblur / "RealBlur_J_test_list.txt").write_text("blur/1.png gt/1.png\n")
    with pytest.raises(ValueError, match=r"must hold lines of gt/gt_1\.png blur/blur_1\.png"):
        opened("realblur", realblur / "RealBlur_J_test_list.txt")


def smooth(h: int, w: int) -> np.ndarray:
    """A picture [h, w, 3] with slopes everywhere, of which shifted parts can be cut."""
    y, x = np.mgrid[:h, :w]
    waves = [np.sin(x / (7 + k) + y / 19) + np.cos(y / (9 + k) - x / 23) for k in range(3)]
    return 128 + 50 * np.stack(waves, -1)


def test_realblur_recovers_a_known_shift_and_gain(tmp_path: Path) -> None:
    pytest.importorskip("cv2", reason="the extra realblur")
    for folder in ("blur", "gt"):
        write(tmp_path / folder / "1.png")
    protocol = opened("realblur", tmp_path)
    assert protocol.samples_by == "picture"
    whole = smooth(110, 130)
    sharp, away = (
        torch.from_numpy(part.round().astype(np.uint8)).permute(2, 0, 1)
        for part in (whole[5:101, 4:124], whole[2:98, 8:128] * 0.8)
    )
    found = protocol.measure(away, Scene(away, sharp))
    assert found["psnr"] > 45 and found["ssim"] > 0.995
    assert float(METRICS["psnr"](away, sharp)) < 20
    with pytest.raises(ValueError, match="ECC finds no homography onto the sharp picture"):
        protocol.measure(away.flip(2), Scene(away, sharp))
    with pytest.raises(ValueError, match=r"picture must be \(3, 96, 120\) .*, got \(3, 96, 119\)"):
        protocol.measure(away[..., 1:], Scene(away, sharp))


def test_realblur_measures_what_its_authors_measure(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2", reason="the extra realblur")
    skimage = pytest.importorskip("skimage.metrics", reason="the extra baselines")
    for folder in ("blur", "gt"):
        write(tmp_path / folder / "1.png")
    whole = smooth(110, 130)
    x = whole[5:101, 4:124].round().astype(np.uint8)
    z = (whole[3:99, 7:127] * 0.9 + np.random.default_rng(0).normal(0, 4, x.shape)).round().astype(np.uint8)
    pair = [torch.from_numpy(part.transpose(2, 0, 1).copy()) for part in (z, x)]
    x, z = x.astype("float32") / 255, z.astype("float32") / 255
    zs = (np.sum(x * z) / np.sum(z * z)) * z
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 100, 0)
    grey = [cv2.cvtColor(part, cv2.COLOR_RGB2GRAY) for part in (x, zs)]
    _, warp = cv2.findTransformECC(
        *grey, np.eye(3, dtype=np.float32), cv2.MOTION_HOMOGRAPHY, criteria, inputMask=None, gaussFiltSize=5
    )
    size = (x.shape[1], x.shape[0])
    zr = cv2.warpPerspective(
        zs, warp, size, flags=cv2.INTER_CUBIC + cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT
    )
    cr = cv2.warpPerspective(
        np.ones_like(zs), warp, size, flags=cv2.INTER_NEAREST + cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_CONSTANT
    )
    zr, xr = zr * cr, x * cr
    error = np.sum((xr - zr) ** 2, dtype=np.float64) / np.sum(cr)
    how = {"gaussian_weights": True, "use_sample_covariance": False, "data_range": 1.0, "channel_axis": 2}
    similarity = (skimage.structural_similarity(xr, zr, full=True, **how)[1] * cr)[5:-5, 5:-5]
    wanted = {"psnr": 10 * np.log10(1 / error), "ssim": np.mean(similarity.sum((0, 1)) / cr[5:-5, 5:-5].sum((0, 1)))}
    assert 0 < 1 - cr.mean() < 0.2
    assert opened("realblur", tmp_path).measure(pair[0], Scene(*pair)) == pytest.approx(wanted, rel=1e-4)
