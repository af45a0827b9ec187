"""Where weights come from: a file, a run folder, a saved model's folder, a Hugging Face repository, the package."""

from __future__ import annotations

import os
import re
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import safetensors

from deblurgan.arguments import require_kind
from deblurgan.checkpoint.files import first_line

DEFAULT_WEIGHTS = Path(__file__).parents[1] / "assets" / "tiny.safetensors"
SHIPPED = {"tiny": DEFAULT_WEIGHTS}  # by name
SAVED_MODEL = "model.safetensors"
SAVED_CONFIG = "config.json"

_HUB_ID = re.compile(r"(?P<repository>(?P<owner>\w[\w.-]*)/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
_WEIGHTS_SUFFIXES = {".safetensors", ".pth", ".pt", ".ckpt", ".bin"}


class Source(NamedTuple):
    """A weights file, and what it was found as, in words."""

    path: Path
    found: str


def local_weights(path: Path | str) -> Source:
    """The weights file of a path: the file itself; of a run folder its best.safetensors; of a saved model's folder its
    model.safetensors.

    A run that was stopped before its first validation has last.safetensors alone, which is then taken, with a warning.
    Raises IsADirectoryError for a folder without any of them.
    """
    require_kind("path", path, (str, os.PathLike))
    path = Path(path).expanduser()
    if not path.is_dir():
        return Source(path, f"file {path}")
    best, last, saved = path / "best.safetensors", path / "last.safetensors", path / SAVED_MODEL
    if best.exists():
        return Source(best, f"run folder {path}: {best.name}")
    if last.exists():
        warnings.warn(f"{path} holds no best.safetensors: last.safetensors is taken", stacklevel=3)
        return Source(last, f"run folder {path}: {last.name}")
    if saved.exists():
        return Source(saved, f"saved model {path}: {saved.name}")
    raise IsADirectoryError(
        f"{path} is a folder without best.safetensors or last.safetensors, so none of a training, and without "
        f"{SAVED_MODEL}, so none of save_pretrained"
    )


def find_weights(path_or_id: Path | str | None, *, revision: str | None = None, **download: Any) -> Source:
    """The weights file that a path, a Hugging Face id, "tiny" or None (those that ship with the package) stands for.

    "hub:OWNER/NAME" and "hub:OWNER/NAME@REVISION" are ids, and so are both without "hub:", unless they are a path that
    exists, have a weights file's suffix, or OWNER is a folder here. An id is fetched into the cache of huggingface_hub,
    or found there without a network. `download` is what its hf_hub_download takes: token, cache_dir, ...

    Raises FileNotFoundError for what is neither, and for an unknown repository or revision or one without
    model.safetensors; ConnectionError where the hub is out of reach and the cache has no copy; PermissionError for a
    gated repository; ImportError without huggingface_hub.
    """
    if path_or_id is None:
        return Source(DEFAULT_WEIGHTS, "the weights that ship with deblurgan")
    require_kind("path_or_id", path_or_id, (str, os.PathLike))
    name = os.fspath(path_or_id)
    is_marked = name.startswith("hub:")
    if not is_marked and Path(name).expanduser().exists():
        return local_weights(name)
    if name in SHIPPED:
        return Source(SHIPPED[name], f"the weights {name} that ship with deblurgan")
    parts = _HUB_ID.fullmatch(name.removeprefix("hub:"))
    if is_marked and parts is None:
        raise ValueError(f"path_or_id must be hub:OWNER/NAME or hub:OWNER/NAME@REVISION, got {name!r}")
    is_path = Path(name).suffix in _WEIGHTS_SUFFIXES or (parts is not None and Path(parts["owner"]).is_dir())
    if parts is None or (is_path and not is_marked):
        raise FileNotFoundError(
            f"{name}: no such file or folder; a Hugging Face repository is given as OWNER/NAME or hub:OWNER/NAME, "
            f"weights that ship with the package as {', '.join(SHIPPED)}"
        )
    if revision is not None and parts["revision"] is not None:
        raise ValueError(f"revision must be given once, got {revision!r} and {name!r}")
    label = name if is_marked else f"{name}, no file or folder here,"
    return _fetched(label, parts["repository"], revision or parts["revision"], download)


def _fetched(label: str, repository: str, revision: str | None, download: dict[str, Any]) -> Source:
    """The repository's model.safetensors, with config.json beside it where the weights do not describe themselves."""
    try:
        from huggingface_hub import errors, hf_hub_download
    except ImportError as error:
        raise ImportError(f"{label} needs huggingface_hub: pip install 'deblurgan[hub]'") from error
    try:
        path = Path(hf_hub_download(repository, SAVED_MODEL, revision=revision, **download))
        if not _describes_itself(path):
            with suppress(errors.EntryNotFoundError):
                hf_hub_download(repository, SAVED_CONFIG, revision=revision, **download)
    except errors.GatedRepoError:
        raise PermissionError(f"{label} is gated: ask for access on its page, then `hf auth login`") from None
    except errors.RepositoryNotFoundError:
        raise FileNotFoundError(
            f"{label} is no repository on the Hugging Face hub, or a private one, which needs a token: `hf auth login`"
        ) from None
    except errors.RevisionNotFoundError:
        raise FileNotFoundError(f"{label} has no revision {revision!r}") from None
    except errors.LocalEntryNotFoundError as error:
        why = "was not asked" if error.__cause__ is None else f"gives no answer ({first_line(error.__cause__)})"
        raise ConnectionError(f"{label} is not in the cache of huggingface_hub, and the hub {why}") from None
    except errors.EntryNotFoundError:
        raise FileNotFoundError(f"{label} holds no {SAVED_MODEL}: other weights are not fetched") from None
    except Exception as error:  # of the HTTP client and the file system, in whatever version
        raise ConnectionError(f"{label} cannot be fetched: {first_line(error)}") from error
    return Source(path, f"hub:{repository} at commit {path.parent.name[:12]}: {path.name}")


def _describes_itself(path: Path) -> bool:
    """Whether the header holds the generator's spec. A damaged file is left to its reader."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            return "generator" in (file.metadata() or {})
    except safetensors.SafetensorError:
        return True
