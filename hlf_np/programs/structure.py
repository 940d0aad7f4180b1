"""The structure of a network: everything but the values of its arrays. Compiled programs are cached by it."""

from collections.abc import Hashable
from typing import Any

import numpy as np

from hlf_np.layers import Layer

_SCALARS = (bool, int, float, str, type(None), np.generic)


def structure(network: Layer) -> Hashable:
    """Return a key of a network's layers, their settings, the shapes of their arrays, and what is shared between them.

    Networks of the same structure are compiled to the same instructions. This takes a few microseconds per
    layer, so it is repeated whenever a program is used: settings and layers may have changed since the last time.
    """
    order: dict[int, int] = {}  # of layers, parameters and arrays, by identity

    def first_seen(thing: Any) -> int:
        return order.setdefault(id(thing), len(order))

    def describe(layer: Layer) -> Hashable:
        return (
            type(layer),
            first_seen(layer),
            *[(name, type(value), _value(value)) for name, value in vars(layer).items() if _is_setting(value)],
            *[
                (name, first_seen(p), first_seen(p.data), p.data.shape, p.data.dtype.char)
                for name, p in layer.parameters.items()
            ],
            *[(name, first_seen(b), b.shape, b.dtype.char) for name, b in layer.buffers.items()],
            *[(name, describe(child)) for name, child in layer.children().items()],
        )

    return describe(network)


def _is_setting(value: Any) -> bool:
    is_number = isinstance(value, np.ndarray) and value.ndim == 0
    return is_number or isinstance(value, _SCALARS) or (isinstance(value, tuple) and all(map(_is_setting, value)))


def _value(setting: Any) -> Hashable:
    """Return the value of a setting; an array of one number, which may change in place, is not hashable itself."""
    if isinstance(setting, tuple):
        return tuple(map(_value, setting))
    return setting.item() if isinstance(setting, np.ndarray) else setting  # type: ignore[no-any-return]
