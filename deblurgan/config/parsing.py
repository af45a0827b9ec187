"""Options out of the words of a command line and a YAML file. tyro and yaml are imported when they are needed."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager
from dataclasses import MISSING, fields
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args

from deblurgan.config.train import TrainConfig, named_defaults
from deblurgan.config.values import Untyped, as_path, converted

METAVARS = {int: "INT", float: "FLOAT", Path: "PATH"}


def parse_words(program: str, kind: type[Any], words: list[str]) -> Any:
    """The config of `kind` in a command's words. Its own defaults, those that preset and regime set, --config FILE and
    the words themselves: the later wins.

    Raises ValueError for options out of range, SystemExit, after a message, for words that are none.
    """
    import tyro

    first = argparse.ArgumentParser(prog=program, add_help=False, allow_abbrev=False)
    first.add_argument("--config", action="append", default=[])
    if kind is TrainConfig:
        first.add_argument("--preset")
        first.add_argument("--regime")
    early, rest = first.parse_known_args(words)
    if len(early.config) > 1:
        raise ValueError(f"config must be one file, got {', '.join(early.config)}")
    values: dict[str, Any] = {}
    for file in early.config:
        values = _read_yaml(as_path("config", file), kind)
    if kind is TrainConfig:
        values |= {name: word for name in ("preset", "regime") if (word := getattr(early, name)) is not None}
        values = named_defaults(values) | values
    default = object.__new__(kind)  # not checked: the command line may change what goes with what
    for f in fields(kind):
        object.__setattr__(default, f.name, values.get(f.name, tyro.MISSING if f.default is MISSING else f.default))
    typed = type(kind.__name__, (kind,), {"__post_init__": lambda self: None})
    with _words_as_typed():
        chosen = tyro.cli(
            typed,
            prog=program,
            description=f"{kind.__doc__}\n--config FILE reads these options from YAML.",
            args=rest,
            default=default,
        )
    return kind(**{f.name: getattr(chosen, f.name) for f in fields(kind)})


def _words_as_typed() -> AbstractContextManager[Any]:
    """Has tyro leave numbers and paths as they were typed, for the config to convert, which names the option where one
    is wrong; Path would take an empty one for "."."""
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

    registry = ConstructorRegistry()

    @registry.primitive_rule
    def word_rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        kinds = get_args(info.type) if info.type_origin in (Union, UnionType) else (info.type,)
        (kind, *others) = sorted(set(kinds), key=lambda kind: kind is type(None))
        if kind not in METAVARS or others not in ([], [type(None)]):
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar=METAVARS[kind],
            instance_from_str=lambda words: None if others and words[0] == "None" else Untyped(words[0]),
            is_instance=lambda value: True,
            str_from_instance=lambda value: [str(value)],
        )

    return registry


def _read_yaml(path: Path, options: type[Any]) -> dict[str, Any]:
    """The options in a file, in their types."""
    import yaml

    try:
        return converted(options, _yaml_values(path.read_bytes()))
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path}: not YAML ({error})") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _yaml_values(text: bytes) -> dict[str, Any]:
    """Names, with _ or - between their words, and values: text, whose type is the option's, null, or a list of these.

    YAML 1.1 would type the text itself: 010 is 8 to it, 12:30:45 is 45045, 2024-05-01 is a date and 1e-4 is no number.
    """
    import yaml

    top = yaml.compose(text, Loader=yaml.BaseLoader)
    if not isinstance(top, yaml.MappingNode):
        raise ValueError("must hold options, name: value")
    values: dict[str, Any] = {}
    for key, node in top.value:
        name = (_yaml_scalar("a name", key) or "null").replace("-", "_")
        if name in values:
            raise ValueError(f"{name} is given twice")
        is_list = isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq"
        values[name] = [_yaml_scalar(name, item) for item in node.value] if is_list else _yaml_scalar(name, node)
    return values


def _yaml_scalar(name: str, node: Any) -> Untyped | None:
    import yaml

    if not isinstance(node, yaml.ScalarNode) or node.tag != yaml.resolver.BaseResolver.DEFAULT_SCALAR_TAG:
        tag = node.tag.removeprefix("tag:yaml.org,2002:")
        raise ValueError(
            f"{name} must be a plain value or a list of such, got {tag} in line {node.start_mark.line + 1}"
        )
    is_null = node.style is None and node.value in ("", "~", "null", "Null", "NULL")
    return None if is_null else Untyped(node.value)
