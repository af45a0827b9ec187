"""What the fields of options are made of: names that commands share, and marks for the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

T = TypeVar("T")
if TYPE_CHECKING:
    Positional = Annotated[T, "positional"]

    def option(short: str) -> Any: ...
else:
    try:  # what marks options for the command line; the API and YAML need no tyro
        from tyro.conf import Positional, arg

        def option(short: str) -> Any:
            return arg(aliases=[short])
    except ImportError:
        Positional = Annotated[T, "positional"]

        def option(short: str) -> str:
            return short


Preset = Literal["paper", "article", "tiny"]
Layout = Literal["auto", "sharp", "paired", "gopro", "side-by-side", "tar"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
