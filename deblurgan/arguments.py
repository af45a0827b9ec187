"""Checks of arguments that the whole API shares."""

from __future__ import annotations

from numbers import Integral, Real

from torch import SymInt, Tensor


def require_tensor(name: str, given: object, wanted: str = "[n, c, h, w] or [c, h, w]") -> None:
    """Raises TypeError unless it is a Tensor."""
    if not isinstance(given, Tensor):
        hint = ": torch.from_numpy(numpy.array(picture)).permute(2, 0, 1) makes one"
        raise TypeError(
            f"{name} must be a torch.Tensor {wanted}, got {kind_of(given)}"
            f"{hint if hasattr(given, '__array_interface__') else ''}"
        )


def require_kind(name: str, given: object, kind: type | tuple[type, ...]) -> None:
    """Raises TypeError unless it is of that kind, or of one of them."""
    if not isinstance(given, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        raise TypeError(f"{name} must be a {' or '.join(one.__name__ for one in kinds)}, got {kind_of(given)}")


def require_number(name: str, given: object) -> None:
    """Raises TypeError unless it is a real number, or one that torch traces; True and False are none."""
    if not isinstance(given, (Real, SymInt)) or isinstance(given, bool):
        raise TypeError(f"{name} must be a number, got {given!r}")


def require_whole(name: str, given: object) -> None:
    """Raises TypeError unless it is a whole number."""
    require_number(name, given)
    if not isinstance(given, (Integral, SymInt)):
        raise TypeError(f"{name} must be a whole number, got {given!r}")


def require_pair(a_name: str, a: Tensor, b_name: str, b: Tensor) -> None:
    """Raises TypeError unless both are Tensors, ValueError unless they have one shape and device."""
    require_tensor(a_name, a)
    require_tensor(b_name, b)
    if a.shape != b.shape:
        raise ValueError(f"{a_name} must have the shape of {b_name} {tuple(b.shape)}, got {tuple(a.shape)}")
    if a.device != b.device:
        raise ValueError(f"{a_name} must be on {b_name}'s device {b.device}, got {a.device}")


def kind_of(given: object) -> str:
    """What messages call a value: its type, with the module of one that is not built in."""
    kind = type(given)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
