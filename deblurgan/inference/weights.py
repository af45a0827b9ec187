"""Where the weights of a Deblurrer come from."""

from __future__ import annotations

from pathlib import Path

from deblurgan.checkpoint import DEFAULT_WEIGHTS, weights_file


def weights_path(path_or_id: str | Path | None) -> Path:
    """The weights file of a path or run folder, "hub:OWNER/NAME" (downloaded) or None (those that ship)."""
    if path_or_id is None:
        return DEFAULT_WEIGHTS
    if str(path_or_id).startswith("hub:"):
        return _from_hub(str(path_or_id))
    return weights_file(path_or_id)


def _from_hub(name: str) -> Path:
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise ImportError(f"{name} needs huggingface_hub: pip install 'deblurgan[hub]'") from error
    return Path(hf_hub_download(name.removeprefix("hub:"), "model.safetensors"))
