"""Options by their types: plain values, as Python, YAML and a command line give them, become those of the fields."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints


class Options:
    """What the options of all commands share: each value is converted to its field's type.

    NumPy's and torch's scalars are numbers, whole floats do for an int, and a leading ~ of a path is the home folder.
    Raises ValueError, which names the option, where a value has another type or is not finite, or a path is empty.
    """

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            object.__setattr__(self, name, _converted(name, getattr(self, name), hint))


def parsed_size(name: str, text: str) -> tuple[int, int, int]:
    """The number of pictures, height and width in HEIGHTxWIDTH or HEIGHTxWIDTHxNUMBER. Raises ValueError."""
    parts = text.split("x")
    if len(parts) not in (2, 3) or not all(part.isdecimal() and part.isascii() for part in parts):
        raise ValueError(f"{name} must be like 720x1280 or 256x256x16, got {text!r}")
    height, width, number = (*map(int, parts), 1)[:3]
    if min(height, width) < 8 or height % 4 or width % 4:
        raise ValueError(f"{name} must have sides that are multiples of 4 and at least 8, got {text!r}")
    if number < 1:
        raise ValueError(f"{name} must be for 1 picture or more, got {text!r}")
    return number, height, width


def parsed_bytes(name: str, text: str) -> int | Literal["auto"]:
    """The number of bytes in text such as 1.5GB or 800MiB, or "auto". Raises ValueError."""
    if text == "auto":
        return "auto"
    found = re.fullmatch(r"(\d+(?:\.\d*)?)\s*([KMGT]?)(i?)B?", text.strip(), re.IGNORECASE)
    number = 0 if found is None else int(float(found[1]) * _bytes_in(found[2].upper(), bool(found[3])))
    if number < 1:
        raise ValueError(f"{name} must be auto or bytes such as 1.5GB or 800MiB, got {text!r}")
    return number


def _bytes_in(prefix: str, is_binary: bool) -> int:
    power = " KMGT".index(prefix or " ")
    return 1024**power if is_binary else 1000**power


class Untyped(str):
    """Text whose type the option decides, as YAML's: 1e-4 is a number to lr and a folder's name to out."""


def from_mapping(kind: type[Any], values: Mapping[str, Any]) -> Any:
    """A config of `kind` from plain values, as YAML gives them. Raises ValueError for unknown names and wrong types."""
    return kind(**converted(kind, values))


def converted(kind: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of some options of `kind` in their types. Raises ValueError for unknown names and wrong types."""
    names = [f.name for f in fields(kind)]
    for name in sorted(set(values) - set(names)):
        near = get_close_matches(name.lower(), names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"{kind.__name__} has {', '.join(names) or 'none'}"
        raise ValueError(f"unknown option {name!r}: {hint}")
    hints = get_type_hints(kind)
    return {name: _converted(name, value, hints[name]) for name, value in values.items()}


def to_mapping(config: Any) -> dict[str, Any]:
    """Plain values that YAML can hold and `from_mapping` reads back."""
    return {name: _plain(value) for name, value in asdict(config).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _converted(name: str, value: Any, hint: Any) -> Any:
    """`value` as the type `hint`: Path, str, int, float, bool, Literals, a tuple of these, or a union of Literals, one
    other type and None. In a union with a tuple there is None alone.

    Raises ValueError, with the option's name, for a value that is not of that type.
    """
    kinds = (hint,) if get_origin(hint) in (None, Literal, tuple) else get_args(hint)
    if value is None and type(None) in kinds:
        return None
    if get_origin(kinds[0]) is tuple:
        return _as_tuple(name, value, get_args(kinds[0]))
    value = _without_array(value)
    words = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    if isinstance(value, str) and value in words:
        return str(value)
    for kind in kinds:
        if isinstance(kind, type) and kind is not type(None):
            return _as_scalar(name, value, kind)
    raise ValueError(f"{name} must be one of {', '.join(words)}, got {value!r}")


def _as_tuple(name: str, value: Any, kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    """`value`, a list, tuple or one-dimensional array, as tuple[kinds]."""
    if not isinstance(value, list | tuple) and len(getattr(value, "shape", ())) != 1:
        raise ValueError(f"{name} must be a list, got {value!r}")
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(value) != len(kinds):
        raise ValueError(f"{name} must hold {len(kinds)} values, got {value!r}")
    return tuple(_converted(name, item, kind) for item, kind in zip(value, kinds, strict=True))


def _without_array(value: Any) -> Any:
    """NumPy's and torch's scalars as Python's. A float is the shortest decimal that equals it in its own type: a
    float32 of 1e-4 is 0.0001, which its user wrote, rather than 9.999999747378752e-05."""
    if getattr(value, "shape", None) != ():
        return value
    item = value.item()
    if not isinstance(item, float):
        return item
    decimals = (float(f"{item:.{digits}g}") for digits in range(1, 18))
    return next((decimal for decimal in decimals if decimal == value), item)


def _as_scalar(name: str, value: Any, kind: type) -> Any:
    """`value` as a Path, str, bool, int or float."""
    if kind is Path:
        return as_path(name, value)
    if isinstance(value, Untyped) and kind is not str:
        value = FLAGS.get(value.lower(), value) if kind is bool else _number(value)
    if kind in (int, float):
        if isinstance(value, int | float) and not isinstance(value, bool):
            return _as_number(name, value, kind)
    elif isinstance(value, kind):
        return kind(value)
    how = f": write it like {EXAMPLES[kind]}" if isinstance(value, Untyped) else ""
    raise ValueError(f"{name} must be {kind.__name__}, got {value!r}{how}")


FLAGS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
EXAMPLES = {bool: "true or false", int: "8 or 1e4", float: "0.1 or 1e-4"}


def _number(text: str) -> int | float | str:
    """The number in `text`, or the text where readers differ: 010 is 8 or 10, and 1:30 is 90 to YAML 1.1."""
    try:
        return int(text, 0)
    except ValueError:
        pass
    try:
        return float(text) if set(text) & set(".eE") else text
    except ValueError:
        return text


def _as_number(name: str, number: int | float, kind: type) -> int | float:
    """`number` as an int or float."""
    if not abs(number) < 2**63:
        raise ValueError(f"{name} must be a finite number below 2^63, got {number}")
    if kind is int and number != int(number):
        raise ValueError(f"{name} must be int, got {number}")
    return kind(number)


def as_path(name: str, value: Any) -> Path:
    """A path with its leading ~ expanded as a shell does.

    Raises ValueError, with the option's name, for a blank one: Path takes an empty one for the working folder.
    """
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else value
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise ValueError(f"{name} must be a path, got {value!r}")
    path = Path(os.path.expanduser(text))
    # ./~ names a folder ~, and its Path is ~ again
    return path.absolute() if os.path.expanduser(path) != str(path) else path
