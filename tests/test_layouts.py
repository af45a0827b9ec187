"""Layouts: what the names of folders tell, and that no blurred or test picture is trained on in silence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deblurgan.data import GoPro, PairDataset, PairedFolder, SharpFolder, open_dataset

REALBLUR = "RealBlur-J_ECC_IMCORR_centroid_itensity_ref"


def expand(pattern: str) -> list[str]:
    """As a shell's braces: of "{a,b}/0.png" "a/0.png" and "b/0.png"."""
    found = re.search(r"\{([^{}]*)\}", pattern)
    if found is None:
        return [pattern]
    before, after = pattern[: found.start()], pattern[found.end() :]
    return [name for middle in found[1].split(",") for name in expand(before + middle + after)]


def tree(root: Path, pattern: str) -> Path:
    """Empty files: a layout is told without a look at the pictures."""
    for name in expand(pattern):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def opened(root: Path, *, split: str = "train", **options: bool | str) -> tuple[PairDataset, list[str]]:
    """The data set in a folder, and the lines that it was told with."""
    lines: list[str] = []
    return open_dataset(root, split=split, log=lines.append, **options), lines  # type: ignore[arg-type]


def names(data: PairDataset) -> list[str]:
    """Of each picture its path below the root, of each pair two."""
    entries = [entry if isinstance(entry, tuple) else (entry,) for entry in data.entries]
    return [" ".join(path.relative_to(data.root).as_posix() for path in entry) for entry in entries]


def expected(patterns: str) -> list[str]:
    """What `names` gives: of each picture or pair one pattern."""
    return [" ".join(expand(pattern)) for pattern in patterns.split()]


@pytest.mark.parametrize(
    ("pattern", "train", "test"),
    [
        ("{S1,S2}/{blur,blur_gamma,sharp}/0.png", "S1/{blur,sharp}/0.png S2/{blur,sharp}/0.png", ""),
        ("scene1/{blur/blur_1,gt/gt_1}.png", "scene1/{blur/blur_1,gt/gt_1}.png", ""),
        (f"{REALBLUR}/s/{{blur/blur_1,gt/gt_1}}.png", f"{REALBLUR}/s/{{blur/blur_1,gt/gt_1}}.png", ""),
        ("{blur/01_blurred,sharp/01_sharp}.png", "{blur/01_blurred,sharp/01_sharp}.png", ""),
        ("{A/1_A,B/1_B}.jpg", "{A/1_A,B/1_B}.jpg", ""),
        ("GoPro/{input,target}_crops/0.png", "GoPro/{input,target}_crops/0.png", ""),
        ("{blur,sharp}_crops/0.png", "{blur,sharp}_crops/0.png", ""),
        ("{train,test}/{input,target}/0.png", "train/{input,target}/0.png", "test/{input,target}/0.png"),
        ("{A,B}/{train,test}/0.png", "{A,B}/train/0.png", "{A,B}/test/0.png"),
        ("{blurred,sharp}/{train,val}/0.png", "{blurred,sharp}/train/0.png", "{blurred,sharp}/val/0.png"),
        ("{trainA,trainB,testA,testB}/0.png", "{trainA,trainB}/0.png", "{testA,testB}/0.png"),
        ("{train,val}_{blur,sharp}/000/0.png", "train_{blur,sharp}/000/0.png", "val_{blur,sharp}/000/0.png"),
        ("{train,valid}/1/{Blur,Sharp}/RGB/0.png", "train/1/{Blur,Sharp}/RGB/0.png", "valid/1/{Blur,Sharp}/RGB/0.png"),
        (
            "{train_{blur,sharp},train_{blur,sharp}_bicubic,val_{blur,sharp}}/0.png",
            "train_{blur,sharp}/0.png train_{blur,sharp}_bicubic/0.png",
            "val_{blur,sharp}/0.png",
        ),
        ("{LQ,GT}/0.png", "{LQ,GT}/0.png", ""),
        ("{blurry,clear}/0.png", "{blurry,clear}/0.png", ""),
        ("{degraded,clean}/0.png", "{degraded,clean}/0.png", ""),
        ("{blurimages,sharpimages}/0.png", "{blurimages,sharpimages}/0.png", ""),
        (
            "{trainblur,trainsharp,testblur,testsharp}/0.png",
            "{trainblur,trainsharp}/0.png",
            "{testblur,testsharp}/0.png",
        ),
        (
            "{train_blur/train/train_blur,train_sharp/train/train_sharp}/000/0.png",
            "{train_blur/train/train_blur,train_sharp/train/train_sharp}/000/0.png",
            "",
        ),
        ("{BlurredImages,SharpImages}/0.png", "{BlurredImages,SharpImages}/0.png", ""),
        ("{blurred,ground_truth}/0.png", "{blurred,ground_truth}/0.png", ""),
        ("{a,b}/{input,GT}/0.png", "a/{input,GT}/0.png b/{input,GT}/0.png", ""),
        ("{input,target}/{clear,sharp}/0.png", "{input,target}/clear/0.png {input,target}/sharp/0.png", ""),
    ],
)
def test_folders_side_by_side_are_pairs(pattern: str, train: str, test: str, tmp_path: Path) -> None:
    tree(tmp_path / "data", pattern)
    data, lines = opened(tmp_path / "data")
    assert isinstance(data, PairedFolder) and names(data) == expected(train)
    assert names(opened(tmp_path / "data", split="test")[0]) == expected(test or train)
    assert any("the others are not for train" in line for line in lines) == bool(test)


@pytest.mark.parametrize(
    ("pattern", "train", "test"),
    [
        ("{A,B,C}/0.jpg", "A/0.jpg B/0.jpg C/0.jpg", ""),
        ("{2019/A,2019/B,2020}/0.jpg", "2019/A/0.jpg 2019/B/0.jpg 2020/0.jpg", ""),
        ("sharp/{0,1}.jpg", "sharp/0.jpg sharp/1.jpg", ""),
        ("{2018_HR,clear-lake,target-shooting}/0.jpg", "2018_HR/0.jpg clear-lake/0.jpg target-shooting/0.jpg", ""),
        ("{2019,test}/0.jpg", "2019/0.jpg test/0.jpg", ""),
        ("train/0.jpg", "train/0.jpg", ""),
        ("{train,test,2019}/0.jpg", "2019/0.jpg train/0.jpg", "test/0.jpg"),
        ("{Training,Validation}/0.jpg", "Training/0.jpg", "Validation/0.jpg"),
        ("{trainset,testset}/0.jpg", "trainset/0.jpg", "testset/0.jpg"),
        ("{deblurgan,sharpening,unsharp}/0.jpg", "deblurgan/0.jpg sharpening/0.jpg unsharp/0.jpg", ""),
        ("{lake,lake-2,clear,the-clear-lake}.jpg", "clear.jpg lake-2.jpg lake.jpg the-clear-lake.jpg", ""),
        ("{1,Blur-on-stage}.jpg", "1.jpg Blur-on-stage.jpg", ""),
        ("DIV2K_{train,valid}_HR/0.png", "DIV2K_train_HR/0.png", "DIV2K_valid_HR/0.png"),
        ("{train,val}_sharp/000/0.png", "train_sharp/000/0.png", "val_sharp/000/0.png"),
    ],
)
def test_all_else_is_sharp_photos(pattern: str, train: str, test: str, tmp_path: Path) -> None:
    tree(tmp_path / "data", pattern)
    data, _ = opened(tmp_path / "data")
    assert isinstance(data, SharpFolder) and names(data) == expected(train)
    assert names(opened(tmp_path / "data", split="test")[0]) == expected(test or train)


@pytest.mark.parametrize(
    ("pattern", "root", "says"),
    [
        ("{input,2019}/0.png", "", r"no sharp photos by their folder's name \(.*input\)"),
        ("train/GoPro/input_crops/0.png", "", "no sharp photos"),
        ("BlurryImages/0.png", "", "no sharp photos"),
        ("{motionblur,2019}/0.png", "", "no sharp photos"),
        ("{train/S1/blur,train/S1/sharp,train/S2/blur}/0.png", "", "S2/sharp must hold the same names; 1 differ"),
        ("{sharp/0_S,motion_blurred/0_M}.jpg", "", "no sharp photos"),
        ("{0,deblurred/0}.jpg", "", "no sharp photos"),
        ("{A,B,AB}/train/0.png", "", r"no sharp photos .*AB"),
        ("train/{input,target}/0.png", "train/input", r"no sharp photos .*input"),
        ("{blurred,sharp}/train/0.png", "blurred/train", r"no sharp photos .*blurred"),
        ("{train,test/test-close-ups,GT}/0.png", "", r"holds sharp pictures .*GT\) and others, such as .*test"),
        ("DIV2K/{DIV2K_train_HR/1,DIV2K_train_LR_bicubic/X2/1x2}.png", "", "no sharp photos .*LR_bicubic"),
        ("{sharp/0_S,motion_blurred/0_M}.jpg", "motion_blurred", "no sharp photos .*motion_blurred"),
        ("{0_blur,0_orig,0_psf}.png", "", "by their own names, such as .*0_blur"),
        ("{0,0_deblurred,1}.png", "", "by their own names, such as .*0_deblurred"),
        ("2019/{0_blurry,1_blurry}.png", "", "by their own names, such as .*0_blurry"),
        ("{0_blur,0_sharp}.png", "", r"in one folder \(.*0_blur and 0_sharp\)"),
        ("{0_input,0_target}.png", "", r"in one folder .* give each kind a folder .* layout is sharp"),
        ("set/{blurry_1,clear_1}.jpg", "", r"in one folder \(.*blurry_1 and clear_1\)"),
        ("{1,1_gt,2}.png", "", r"beside what is their sharp one by its name, such as .*1_gt\.png"),
        ("{2019/0,set/blur/0,set/sharp/0}.jpg", "", r"holds pairs .* and other pictures \(.*2019"),
        ("{blur,input,sharp}/0.png", "", "one folder of blurred pictures, got blur and input"),
        ("{A/0,A/1,B/0,B/2}.png", "", "must hold the same names; 2 differ, such as 1"),
        ("{blurred/train,sharp/test}/0.png", "", "must hold the same names"),
        ("{blur/1,blur/blur_2,sharp/1,sharp/sharp_3}.png", "", "must hold the same names; 2 differ"),
    ],
)
def test_names_that_speak_against_sharp_photos_are_refused(pattern: str, root: str, says: str, tmp_path: Path) -> None:
    tree(tmp_path / "data", pattern)
    with pytest.raises(ValueError, match=says):
        opened(tmp_path / "data" / root)


def test_a_named_layout_is_taken(tmp_path: Path) -> None:
    tree(tmp_path, "{A,B,AB}/0.png")
    data, lines = opened(tmp_path, layout="paired")
    assert names(data) == ["A/0.png B/0.png"]
    assert [line for line in lines if "left out 1 pictures that belong to no pair" in line and "AB" in line]
    assert [line for line in lines if "A for blurred" in line and "B for sharp, by their names alone" in line]
    assert len(opened(tmp_path, layout="sharp")[0]) == 3


def test_pictures_beside_pairs_are_told_of(tmp_path: Path) -> None:
    tree(tmp_path, "{0,1,blur/0,sharp/0}.png")
    data, lines = opened(tmp_path)
    assert names(data) == ["blur/0.png sharp/0.png"]
    assert len(lines) == 1 and lines[0].startswith("left out 2 pictures that belong to no pair")


def test_gopro_s_sequences_by_themselves(tmp_path: Path) -> None:
    tree(tmp_path, "{train,test}/S1/{blur,blur_gamma,sharp}/0.png")
    assert isinstance(opened(tmp_path)[0], GoPro)
    assert names(opened(tmp_path, gamma=True)[0]) == ["train/S1/blur_gamma/0.png train/S1/sharp/0.png"]
    assert names(opened(tmp_path / "train", gamma=True)[0]) == ["S1/blur_gamma/0.png S1/sharp/0.png"]
    tree(tmp_path, "val/S2/{blur,sharp}/0.png")
    assert names(opened(tmp_path, split="val")[0]) == ["val/S2/blur/0.png val/S2/sharp/0.png"]


@pytest.mark.parametrize("above", [True, False])
def test_lists_tell_the_splits(above: bool, tmp_path: Path) -> None:
    tree(tmp_path, f"{REALBLUR}/{{s1,s2}}/{{blur/blur_1,gt/gt_1}}.png")
    for split, scene in (("train", "s1"), ("test", "s2")):
        line = f"{REALBLUR}/{scene}/gt/gt_1.png {REALBLUR}/{scene}/blur/blur_1.png \n"
        (tmp_path / f"RealBlur_J_{split}_list.txt").write_text(line)
    root = tmp_path / REALBLUR if above else tmp_path
    for split, scene in (("train", "s1"), ("test", "s2")):
        data, _ = opened(root, split=split)
        assert len(data) == 1 and f"{scene}/blur/blur_1.png" in names(data)[0]


def test_what_this_package_made_to_be_looked_at_is_left_out(tmp_path: Path) -> None:
    made = "{runs/one/samples/0000003,psf,deblurgan-demo}.png"
    tree(tmp_path, "{0,1,other/samples/2}.png")
    tree(tmp_path, made)
    tree(tmp_path, "runs/one/{config.yaml,history.csv}")
    for layout in ("auto", "sharp", "side-by-side"):
        data, lines = opened(tmp_path, layout=layout)
        assert [data.name(i) for i in range(len(data))] == ["0.png", "1.png", "other/samples/2.png"]
        assert len(lines) == 1 and lines[0].startswith("left out 3 pictures that deblurgan made")


def test_a_contact_sheet_is_no_lost_partner(tmp_path: Path) -> None:
    tree(tmp_path, "{blur/0,blur/psf,sharp/0}.png")
    assert names(opened(tmp_path)[0]) == ["blur/0.png sharp/0.png"]
