"""What is compared: the network, simple methods, and other programs' outputs; and how their pictures are named."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from deblurgan import images
from deblurgan.evaluation import scenes
from deblurgan.evaluation.baselines import BASELINES, require_baseline
from deblurgan.evaluation.baselines import CONVENTIONS as BASELINE_CONVENTIONS
from deblurgan.evaluation.scenes import Parts, Scene
from deblurgan.images.files import SUFFIXES
from deblurgan.inference import Deblurrer

BLURRED, RESTORED, SHARP = "blurred", "restored", "sharp"  # names of the input, the network's output and the truth
TELLING = ("exposure", "kernel")  # the parts that tell apart scenes of one picture
_SCENE = re.compile("(.+?)" + "".join(f"_{name}[^_/]*" for name in TELLING))  # a picture and such parts


class System(Protocol):
    """A way to restore a scene."""

    def __call__(self, picture: str, scene: Scene, /) -> Tensor:
        """uint8 [3, h, w], of the scene's size. `picture` names the scene's picture.

        Raises one of images.FAILURES where it has no answer.
        """


def network(deblurrer: Deblurrer) -> System:
    return lambda picture, scene: deblurrer(scene.blurred)


def open_systems(
    deblurrer: Deblurrer, protocol: scenes.Protocol, baselines: Iterable[str], compare: Mapping[str, Path]
) -> dict[str, System]:
    """What is measured beside the blurred pictures, by name.

    Raises ValueError for unknown baselines, for names that are taken, and for a folder without a picture of the
    protocol; FileNotFoundError for a missing folder, ImportError for a baseline whose package is missing.
    """
    systems: dict[str, System] = {RESTORED: network(deblurrer)}
    for name in baselines:
        require_baseline(name, knows_psf=protocol.knows_psf)
        systems[name] = BASELINES[name]
    for name, folder in compare.items():
        if name in (BLURRED, RESTORED, SHARP, *BASELINES) or not name.strip():
            raise ValueError(f"compare must give names other than blurred, sharp, restored and baselines, got {name!r}")
        systems[name] = folder_system(folder, protocol)
    return systems


def conventions(names: Iterable[str]) -> dict[str, str]:
    """What each system but the network is, in words."""
    folder = "another program's pictures, read from a folder; 16 bits are rounded to 8, and alpha is left out"
    return {name: BASELINE_CONVENTIONS.get(name, folder) for name in names if name != RESTORED}


def output_name(picture: str, parts: Parts) -> Path:
    """Where the picture of a scene lies in a folder of pictures, a relative path of a PNG file: that of the picture,
    with the parts that tell its scenes apart, and its own suffix before .png, so that no two are the same.

    Raises ValueError for a name that leads out of the folder.
    """
    path = Path(picture)
    if path.is_absolute() or path.drive or ".." in path.parts:
        raise ValueError(f"pictures must have names below a folder, got {images.printable(picture)}")
    told = "".join(f"_{name}{parts[name]}" for name in TELLING if name in parts)
    return Path(f"{picture.removesuffix('.png')}{told}.png")


def save_picture(folder: Path, picture: str, parts: Parts, pixels: Tensor) -> None:
    """Writes a picture of a scene, uint8 [3, h, w], below the folder; an older file is replaced."""
    path = folder / output_name(picture, parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    images.write(images.Picture(np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy())), path)


def folder_system(folder: Path, protocol: scenes.Protocol) -> System:
    """The pictures that another program made of a protocol's blurred ones.

    A scene's picture is looked for by its `output_name`; where a picture is one scene, also by the picture's own path
    and by its bare name at the top, if no other picture has it. Any suffix of a picture will do. Pictures of 16 bits
    are rounded to 8, and what alpha says is left out.

    Raises FileNotFoundError where there is no such folder, ValueError where it holds none of the protocol's pictures.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"compare must name folders, got {folder}")
    found: dict[str, list[Path]] = {}
    for path in images.find(folder):
        found.setdefault(_stem(path.relative_to(folder).as_posix()), []).append(path)
    shared = Counter(stem for name in protocol.pictures() for stem in _own_stems(name))

    def stems(picture: str, parts: Parts) -> list[str]:
        own = [] if _tells_scenes(parts) else _own_stems(picture)
        return [_stem(output_name(picture, parts).as_posix()), *(stem for stem in own if shared[stem] == 1)]

    def restored(picture: str, scene: Scene) -> Tensor:
        paths = next((found[stem] for stem in stems(picture, scene.parts) if stem in found), [])
        if not paths:
            raise ValueError(f"{folder} lacks {output_name(picture, scene.parts)}")
        if len(paths) > 1:
            raise ValueError(f"{folder} has several: {', '.join(path.name for path in paths)}")
        pixels = torch.from_numpy(images.read(paths[0]).in_8_bits().pixels).permute(2, 0, 1).contiguous()
        if pixels.shape != scene.sharp.shape:
            sizes = (f"{picture.shape[2]}x{picture.shape[1]}" for picture in (pixels, scene.sharp))
            raise images.ImageError(paths[0], "{}, but the scene is {}".format(*sizes))
        return pixels

    first = _first_parts(protocol)
    held = {match[1] for stem in found if (match := _SCENE.fullmatch(stem))} if _tells_scenes(first) else set(found)
    if not any(held.intersection(stems(name, {})) for name in protocol.pictures()):
        wanted = output_name(protocol.pictures()[0], first)
        raise ValueError(f"compare must name folders with the protocol's pictures, {folder} holds none: lacks {wanted}")
    return restored


def _first_parts(protocol: scenes.Protocol) -> Parts:
    """Those of the first scene; none where its picture is bad."""
    with contextlib.suppress(*images.FAILURES):
        return next(iter(protocol.scenes(0))).parts
    return {}


def _tells_scenes(parts: Parts) -> bool:
    return any(name in parts for name in TELLING)


def _own_stems(picture: str) -> list[str]:
    """The picture's path and its bare name; once where they are one."""
    return list(dict.fromkeys([_stem(picture), _stem(Path(picture).name)]))


def _stem(name: str) -> str:
    """The name without a picture's suffix."""
    path = Path(name)
    return name.removesuffix(path.suffix) if path.suffix.lower() in SUFFIXES else name
