"""Helpers for comparing ways of computing a network: the failure, copies in double precision, distances."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from networks import Case

from hlf_np.layers import Layer
from hlf_np.models import Model

ERROR_FACTOR = 10  # a program may be wrong by so many times the autodiff's own error in single precision


class Difference(AssertionError):  # noqa: N818, a finding, not an error of the test
    """Two ways of computing disagree; `kind` is the same for all disagreements of one kind."""

    def __init__(self, kind: str, case: Case, what: str) -> None:
        super().__init__(f"{kind}: {what}\n    in {case.description}")
        self.kind = kind


def location(error: BaseException) -> str:
    """Return where an exception was raised."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}" if trace else "an unknown line"


def doubled(network: Layer) -> Any:
    """Return a copy in double precision; shared layers and tensors stay shared."""
    network = copy.deepcopy(network)
    for layer in network.every_layer():
        for tensor in layer.parameters.values():
            tensor.data = np.asarray(tensor.data, np.float64)
        layer.buffers |= {name: np.asarray(buffer, np.float64) for name, buffer in layer.buffers.items()}
    return network


def model_of(case: Case) -> Model:
    """Return a model of an unused copy of the network."""
    return Model(copy.deepcopy(case.network), case.classes, case.image_shape)


def drawn_images(case: Case, random: np.random.Generator, count: int) -> np.ndarray:
    return random.random((count, *case.image_shape), np.float32)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the largest difference, relative to the largest entry of b; infinite if a is not finite."""
    if a.shape != b.shape or not np.isfinite(a).all():
        return np.inf
    return float(np.abs(a - b).max(initial=0) / max(np.abs(b).max(initial=0), 1e-30))
