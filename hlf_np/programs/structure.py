"""What a network computes, but for the entries of its arrays: the key under which compiled programs are kept."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from hlf_np.layers import Layer

_PLAIN = (bool, int, float, str, tuple, type(None))


def structure(network: Layer) -> Hashable:
    """Layers, their settings, the shapes of their arrays, and what is shared between them.

    Two networks of one structure are compiled to the same instructions. It is cheap, some microseconds for each layer,
    so that it can be looked at whenever a program is used: settings and layers may have been changed since.
    """
    seen: dict[int, int] = {}  # of layers, parameters and arrays, the order in which they were met

    def order(thing: Any) -> int:
        return seen.setdefault(id(thing), len(seen))

    def describe(layer: Layer) -> Hashable:
        settings = tuple((name, value) for name, value in vars(layer).items() if isinstance(value, _PLAIN))
        return (
            type(layer),
            order(layer),
            tuple((name, _hashable(value)) for name, value in settings),
            tuple((n, order(p), order(p.data), p.data.shape, p.data.dtype.char) for n, p in layer.parameters.items()),
            tuple((n, order(b), b.shape, b.dtype.char) for n, b in layer.buffers.items()),
            tuple((name, describe(child)) for name, child in layer.children().items()),
        )

    return describe(network)


def _hashable(value: Any) -> Hashable:
    """Tuples may hold layers, which are described as children."""
    if isinstance(value, tuple):
        return tuple(_hashable(part) for part in value if isinstance(part, _PLAIN))
    return value  # type: ignore[no-any-return]
