"""The folder of a saved model, as Hugging Face repositories hold it: weights, config.json and a model card."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml

from deblurgan.arguments import require_kind
from deblurgan.checkpoint.generators import save_generator
from deblurgan.checkpoint.sources import SAVED_CONFIG, SAVED_MODEL
from deblurgan.config import TrainConfig
from deblurgan.images import replace_file
from deblurgan.nn import Generator

MODEL_CARD = "README.md"


def save_pretrained(
    generator: Generator, folder: Path | str, *, card: dict[str, Any] | None = None, name: str | None = None
) -> None:
    """`Generator.save_pretrained`; `name` is what the model card says to load, the folder's own name by default."""
    require_kind("generator", generator, Generator)
    folder = Path(folder)
    card = _without_paths(generator.card if card is None else card)
    save_generator(generator, folder / SAVED_MODEL, card=card)
    replace_file(folder / SAVED_CONFIG, _json(generator.config()))
    if not (folder / MODEL_CARD).exists():
        replace_file(folder / MODEL_CARD, _model_card(generator, card or {}, name or folder.name).encode())


def push_to_hub(
    generator: Generator,
    repository: str,
    *,
    card: dict[str, Any] | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str = "Upload a generator of deblurgan",
) -> str:
    """`Generator.push_to_hub`."""
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise ImportError("push_to_hub needs huggingface_hub: pip install 'deblurgan[hub]'") from error
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(generator, folder, card=card, name=repository)
        api.create_repo(repository, private=private, exist_ok=True)
        has_card = api.file_exists(repository, MODEL_CARD, revision=revision)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            ignore_patterns=[MODEL_CARD] if has_card else None,
            revision=revision,
            create_pr=create_pr,
            commit_message=commit_message,
        )
    return str(commit.commit_url)


def _json(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, sort_keys=True) + "\n").encode()


def _without_paths(card: dict[str, Any] | None) -> dict[str, Any] | None:
    """The card without those options of a training that are files and folders of somebody's machine."""
    if card is None or not isinstance(card.get("config"), dict):
        return card
    paths = {name for name, hint in get_type_hints(TrainConfig).items() if Path in (hint, *get_args(hint))}
    return {**card, "config": {name: value for name, value in card["config"].items() if name not in paths}}


def _model_card(generator: Generator, card: dict[str, Any], name: str) -> str:
    front = {
        "library_name": "deblurgan",
        "pipeline_tag": "image-to-image",
        "tags": ["deblurgan", "deblurring", "image-restoration", "motion-blur"],
    }
    if "licence" in card:
        front["license"] = str(card["licence"]).lower()
    parameters = sum(parameter.numel() for parameter in generator.parameters())
    known = f"```yaml\n{_yaml(card)}```" if card else "The weights come without a word on their training."
    return f"""---
{_yaml(front)}---

# {card.get("name", name)}

A generator that removes motion blur from photographs: DeblurGAN, [Kupyn et al. 2018](https://arxiv.org/abs/1711.07064),
for the Python package `deblurgan`.

```python
from deblurgan import Deblurrer

Deblurrer.from_pretrained({name!r})("photo.jpg").save("photo-deblurred.png")
```

## Network

{parameters:,} parameters; pictures [n, 3, h, w] in [-1, 1] in and out.

```yaml
{_yaml(generator.config())}```

## Training

{known}
"""


def _yaml(values: dict[str, Any]) -> str:
    return yaml.safe_dump(values, sort_keys=False)
