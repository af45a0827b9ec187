"""psf.npz, the record of a set of blurred pictures: the PSF of each, and the options they were made with."""

from __future__ import annotations

import io
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deblurgan import images
from deblurgan.blur.camera import OFF, Camera, camera_options
from deblurgan.config import BlurConfig, to_mapping

Psfs = dict[str, NDArray[np.float32]]
"""[k, k] of each blurred picture, by name."""
# What the blurred pictures depend on, but for a camera's options
OPTIONS = ("n", "seed", "length", "exposure", "anxiety", "padding", "noise")


def write(path: Path, psfs: Psfs, options: BlurConfig) -> None:
    """Writes names [n], psf [n, k, k] and options, which is JSON; an older file is replaced."""
    buffer = io.BytesIO()
    text = np.array(json.dumps(_described(options)))
    np.savez_compressed(buffer, names=np.array(list(psfs)), psf=np.stack(list(psfs.values())), options=text)
    path.parent.mkdir(parents=True, exist_ok=True)
    images.replace_file(path, buffer.getvalue())


def require_same(path: Path, psfs: Psfs, options: BlurConfig, present: Collection[str]) -> None:
    """Raises FileExistsError unless the file is of a set with these options that `psfs` completes.

    That is, all its pictures and the `present` ones have the PSFs that it holds.
    """
    recorded, older = _read(path)
    recorded = _listed(OFF) | recorded  # sets may be older than a camera's options
    for name, value in _described(options).items():
        if recorded.get(name) != value:
            raise FileExistsError(
                f"{path} is of a set with {name} {recorded.get(name)}, not {value}: overwrite=True replaces it"
            )
    for name in {*older, *present}:
        if name not in older or name not in psfs or not np.array_equal(older[name], psfs[name]):
            raise FileExistsError(f"{path} is of other pictures, such as {name}: overwrite=True replaces it")


def _described(options: BlurConfig) -> dict[str, Any]:
    named = {name: value for name, value in to_mapping(options).items() if name in OPTIONS}
    return named | _listed(camera_options(options.realism, gamma=options.gamma))


def _listed(camera: Camera) -> dict[str, Any]:
    """The options as JSON gives them back."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in camera._asdict().items()}


def _read(path: Path) -> tuple[dict[str, Any], Psfs]:
    try:
        with np.load(path, allow_pickle=False) as file:
            psfs = dict(zip(file["names"].tolist(), file["psf"], strict=True))
            return json.loads(str(file["options"])), psfs
    except Exception as error:
        raise FileExistsError(f"{path} does not say how it was made: overwrite=True replaces it") from error
