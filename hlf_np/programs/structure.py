"""What a network computes, but for the entries of its arrays: the key under which compiled programs are kept."""

from collections.abc import Hashable
from typing import Any

from hlf_np.layers import Layer

_PLAIN = {bool, int, float, str, type(None)}


def structure(network: Layer) -> Hashable:
    """Layers, their settings, the shapes of their arrays, and what is shared between them.

    Two networks of one structure are compiled to the same instructions. It is cheap, some microseconds for each layer,
    so that it can be looked at whenever a program is used: settings and layers may have been changed since.
    """
    seen: dict[int, int] = {}  # of layers, parameters and arrays, the order in which they were met

    def order(thing: Any) -> int:
        return seen.setdefault(id(thing), len(seen))

    def describe(layer: Layer) -> Hashable:
        return (
            type(layer),
            order(layer),
            *[(name, value) for name, value in vars(layer).items() if type(value) in _PLAIN],
            *[(name, order(p), order(p.data), p.data.shape, p.data.dtype.char) for name, p in layer.parameters.items()],
            *[(name, order(b), b.shape, b.dtype.char) for name, b in layer.buffers.items()],
            *[(name, describe(child)) for name, child in layer.children().items()],
        )

    return describe(network)
