"""Frozen dataclasses as plain values, which JSON can hold, and back, by their type hints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

# How values of some types come back from their names, where these stand for them.
Named = Mapping[type, Callable[[Any], Any]]


def to_plain(value: Any, named: tuple[type, ...] = ()) -> Any:
    """Numbers, texts, lists and dictionaries for a value of a dataclass; types in `named` as `str` says."""
    if isinstance(value, named):
        return str(value)
    if is_dataclass(value):
        return {field.name: to_plain(getattr(value, field.name), named) for field in fields(value)}
    if isinstance(value, tuple | list):
        return [to_plain(item, named) for item in value]
    return value.value if isinstance(value, Enum) else value


def from_plain(kind: Any, value: Any, named: Named | None = None) -> Any:
    """The value of type `kind` that `to_plain` described; what is not said is at its default.

    Raises
    ------
    TypeError, ValueError, LookupError : for anything else.

    Examples
    --------
    >>> from hlf_np.optim import AdamConfig
    >>> from_plain(AdamConfig, {"learning_rate": 1, "betas": [0.5, 0.9]}).betas
    (0.5, 0.9)
    """
    named = named or {}
    inner = get_args(kind)
    if get_origin(kind) in (Union, UnionType):  # something, or None
        (kind,) = (one for one in inner if one is not type(None))
        return None if value is None else from_plain(kind, value, named)
    if get_origin(kind) is tuple:
        kinds = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        return tuple(from_plain(one, item, named) for one, item in zip(kinds, value, strict=True))
    if kind in named:
        return named[kind](value)
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        given = {name: from_plain(hints[name], item, named) for name, item in value.items()}
        return kind(**given)  # type: ignore[operator]
    if issubclass(kind, Enum):
        return kind(value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise TypeError(f"{value!r} is not of type {kind.__name__}")
    return value
