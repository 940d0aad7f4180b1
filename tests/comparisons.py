"""What comparisons of networks have in common: how they fail, and the double precision that they are made with."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from networks import Case

from hlf_np.layers import Layer
from hlf_np.models import Model

BLUNT = 10  # times the autodiff's own error is no evidence


class Difference(AssertionError):  # noqa: N818, what is found is no error of the search
    """Two ways that disagree; `kind` is the same for all disagreements of one kind."""

    def __init__(self, kind: str, case: Case, what: str) -> None:
        super().__init__(f"{kind}: {what}\n    in {case.description}")
        self.kind = kind


def place(error: BaseException) -> str:
    """Where an exception was raised."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}" if trace else "an unknown place"


def doubled(network: Layer) -> Any:
    """The same in double precision; shared layers and tensors stay shared."""
    network = copy.deepcopy(network)
    for layer in network.every_layer():
        for tensor in layer.parameters.values():
            tensor.data = np.asarray(tensor.data, np.float64)
        layer.buffers |= {name: np.asarray(buffer, np.float64) for name, buffer in layer.buffers.items()}
    return network


def model_of(case: Case) -> Model:
    """A model of a copy of the network that nothing has used yet."""
    return Model.of(copy.deepcopy(case.network), case.classes, case.image_shape)


def drawn_images(case: Case, random: np.random.Generator, count: int) -> np.ndarray:
    return random.random((count, *case.image_shape), np.float32)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference, in units of the largest number of b; infinite for numbers that are none."""
    if a.shape != b.shape or not np.isfinite(a).all():
        return np.inf
    return float(np.abs(a - b).max(initial=0) / max(np.abs(b).max(initial=0), 1e-30))
