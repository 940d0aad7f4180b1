"""The declaration of a measurement, and measuring a subject."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from hlf_np.experiments.measurements.subject import Subject
from hlf_np.models import Model
from hlf_np.spaces import Need
from hlf_np.support.arrays import Floats
from hlf_np.support.errors import UserError, source_location

KEY_COLUMNS = ("dataset", "training", "n_train", "seed")  # the first columns of results.csv


class Display(Enum):
    """Where a measurement is displayed besides `results.csv`."""

    CURVE = "in a figure, and in a table of the report and the terminal"
    TABLE = "in a table of the report and the terminal"
    RESTARTS = "in the report's tables of success rates in any restart"
    NOWHERE = "nowhere else"


@dataclass(frozen=True)
class Measurement:
    """A number measured for every trained model.

    Parameters
    ----------
    column : str
        Column of the results, in lower case with underscores.
    title : str
        Title of its table.
    compute : callable
        Computes the number from a `Subject`; returns NaN where it is not defined.
    needs : Need, optional
        What a run must have for it; other runs do not compute it.
    display : Display
        Where it is displayed.
    share : bool
        Whether the number lies between 0 and 1, as a success rate does.

    Raises
    ------
    UserError
        If an argument has the wrong type.
    """

    column: str
    title: str
    compute: Callable[[Subject], float]
    needs: Need | None = None
    display: Display = Display.CURVE
    share: bool = True

    def __post_init__(self) -> None:
        has_texts = isinstance(self.column, str) and isinstance(self.title, str)
        has_kinds = isinstance(self.needs, Need | None) and isinstance(self.display, Display)
        if not (has_texts and callable(self.compute) and has_kinds):
            raise UserError(
                f"measurement {self.column!r} must have a title, a function, a Need or None, and a Display:"
                " Measurement(column, title, compute, needs, display)"
            )


def measure(subject: Subject, measurements: Sequence[Measurement]) -> dict[str, float]:
    """Compute measurements of a subject.

    Parameters
    ----------
    subject : Subject
        The trained model under examination.
    measurements : sequence of Measurement
        What to measure.

    Returns
    -------
    dict of str to float
        The numbers by column; NaN where the run lacks what a measurement needs.

    Raises
    ------
    UserError
        If a measurement does not return a number.
    """
    numbers, model = {}, subject.model
    weights, are_trained = model.state_dict(), [p.requires_grad for _, p in model.network.named_parameters()]
    for measurement in measurements:
        needs, what = measurement.needs, f"measurement {measurement.column}{source_location(measurement.compute)}"
        is_lacking = needs is not None and not any(space.needs is needs for space in subject.spaces)
        value: Any = math.nan if is_lacking else measurement.compute(subject)
        _restore(model, weights, are_trained)
        try:
            numbers[measurement.column] = number = float(value)
        except (TypeError, ValueError):
            result = f"{value!r:.40}" if np.ndim(value) == 0 else f"an array of shape {np.shape(value)}"
            raise UserError(f"{what} returned {result}: its function must return a number") from None
        if measurement.share and not -1e-6 <= number <= 1 + 1e-6 and not math.isnan(number):
            raise UserError(f"{what} returned {number:g}, which is no share: declare it with share=False")
    return numbers


def _restore(model: Model, weights: dict[str, Floats], are_trained: Sequence[bool]) -> None:
    """Undo what a measurement may have changed: the weights of the model, and which of them are trained."""
    if not all(np.array_equal(array, weights[name], equal_nan=True) for name, array in model.network.named_arrays()):
        model.load_state_dict(weights)
    for (_, parameter), is_trained in zip(model.network.named_parameters(), are_trained, strict=True):
        parameter.requires_grad = is_trained
