"""Conversion between frozen dataclasses and the built-in types that JSON supports, guided by type hints."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np

from hlf_np.support.errors import UserError

# Functions that look up values of some types by the names that stand for them in the built-in form.
Lookups = Mapping[type, Callable[[Any], Any]]


def to_builtins(value: Any, named_types: tuple[type, ...] = ()) -> Any:
    """Convert a value, typically a dataclass, to numbers, strings, lists and dictionaries.

    Parameters
    ----------
    value : object
        A dataclass, tuple, list, enumeration member, number, string or None; containers may be nested.
    named_types : tuple of type
        Types whose values are represented by their name, `str(value)`.

    Returns
    -------
    object
        The same content in types that JSON supports.
    """
    if isinstance(value, named_types):
        return str(value)
    if is_dataclass(value):
        return {field.name: to_builtins(getattr(value, field.name), named_types) for field in fields(value)}
    if isinstance(value, tuple | list):
        return [to_builtins(item, named_types) for item in value]
    return value.value if isinstance(value, Enum) else value


def identity(value: Any) -> Any:
    """Describe a value by built-in types so that values of other content or class have other descriptions.

    Parameters
    ----------
    value : object
        A dataclass, container, array, enumeration member, number, string or None.

    Returns
    -------
    object
        Types that JSON supports.

    Raises
    ------
    UserError
        If nothing tells the value from others of its type, as for a function.
    """
    if is_dataclass(value) and not isinstance(value, type):
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        return [kind, {field.name: identity(getattr(value, field.name)) for field in fields(value)}]
    if isinstance(value, dict):
        return [[identity(key), identity(item)] for key, item in value.items()]
    if isinstance(value, tuple | list):
        return [identity(item) for item in value]
    if isinstance(value, np.ndarray):
        return [str(value.dtype), value.shape, hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()]
    if isinstance(value, Enum | np.generic):
        return value.value if isinstance(value, Enum) else value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UserError(f"a stored network cannot be told from others by {value!r}: use a dataclass, or do not store it")


def from_builtins(kind: Any, value: Any, lookups: Lookups | None = None) -> Any:
    """Convert the result of `to_builtins` back to a value of a type; missing fields get their defaults.

    Parameters
    ----------
    kind : type
        Type of the result.
    value : object
        What `to_builtins` returned, perhaps by way of a JSON file.
    lookups : mapping of type to callable, optional
        For each type that is represented by a name, a function that returns the value of a name.

    Returns
    -------
    object
        A value of type `kind`.

    Raises
    ------
    TypeError, ValueError, LookupError
        If the value does not describe one of this type.

    Examples
    --------
    >>> from hlf_np.optim import AdamConfig
    >>> from_builtins(AdamConfig, {"learning_rate": 1, "betas": [0.5, 0.9]}).betas
    (0.5, 0.9)
    """
    lookups = lookups or {}
    arguments = get_args(kind)
    if get_origin(kind) in (Union, UnionType):  # a type, or None
        (kind,) = (argument for argument in arguments if argument is not type(None))
        return None if value is None else from_builtins(kind, value, lookups)
    if get_origin(kind) is tuple:
        kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        return tuple(from_builtins(item_kind, item, lookups) for item_kind, item in zip(kinds, value, strict=True))
    if kind in lookups:
        return lookups[kind](value)
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        values = {name: from_builtins(hints[name], item, lookups) for name, item in value.items()}
        return kind(**values)  # type: ignore[operator]
    if issubclass(kind, Enum):
        return kind(value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise TypeError(f"{value!r} is not of type {kind.__name__}")
    return value
