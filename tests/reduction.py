"""Test case reduction: find a smaller network that fails in the same way."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from comparisons import Difference
from differential import check
from networks import Case

from hlf_np.autodiff import Tensor
from hlf_np.layers import Flatten, Layer, Linear, Residual, Sequential

Shape = tuple[int, ...]


def reduced(case: Case, seed: int, kind: str) -> str:
    """Reduce a network until no smaller candidate fails in the same way; return its description."""
    progress = True
    while progress:
        progress = False
        for smaller in candidates(case):
            if _kind(smaller, seed) == kind:
                case, progress = smaller, True
                break
    return case.description


def _kind(case: Case, seed: int) -> str:
    try:
        check(case, seed)
    except Difference as difference:
        return difference.kind
    return ""


def candidates(case: Case) -> Iterator[Case]:
    """Yield networks with fewer layers that fit together, those with the fewest first."""
    layers, shapes = _flat(case.network), []
    x = Tensor(np.zeros((2, *case.image_shape), np.float32))
    for layer in layers:
        shapes.append(x.shape[1:])
        x = layer(x)
    shapes.append(x.shape[1:])
    for end in range(1, len(layers)):  # the first layers with a new head
        if len(layers) - end > 2 or not isinstance(layers[-1], Linear):
            head = _head(shapes[end], case.classes)
            if end + len(head) < len(layers):
                yield from _case(case, [*layers[:end], *head])
    for start in range(len(layers) - 1, 0, -1):  # the last layers, for images of the shape that they receive
        if len(shapes[start]) == 3:
            yield from _case(case, layers[start:], shapes[start])
    for i, layer in enumerate(layers):
        yield from _case(case, layers[:i] + layers[i + 1 :])
        if isinstance(layer, Residual):
            yield from _case(case, [*layers[:i], layer.body, *layers[i + 1 :]])
            body = _flat(layer.body)
            for j in range(len(body)):
                block = Residual(Sequential(*body[:j], *body[j + 1 :]), layer.shortcut)
                yield from _case(case, [*layers[:i], block, *layers[i + 1 :]])
            if layer.shortcut:
                yield from _case(case, [*layers[:i], Residual(layer.body), *layers[i + 1 :]])


def _head(shape: Shape, classes: int) -> list[Layer]:
    linear = Linear(math.prod(shape), classes, np.random.default_rng(0))
    return [Flatten(), linear] if len(shape) == 3 else [linear]


def _case(case: Case, layers: list[Layer], image_shape: Shape | None = None) -> Iterator[Case]:
    """Yield the case of these layers if they fit together."""
    shape = image_shape or case.image_shape
    network = copy.deepcopy(Sequential(*layers))
    try:
        fits = network(Tensor(np.zeros((2, *shape), np.float32))).shape == (2, case.classes)
    except (ValueError, IndexError):
        return
    if fits:
        yield replace(case, network=network, image_shape=shape, name=f"reduced {case.name.removeprefix('reduced ')}")


def _flat(layer: Layer) -> list[Layer]:
    if not isinstance(layer, Sequential):
        return [layer]
    return [inner for child in layer.layers for inner in _flat(child)]
