"""What adversarial training costs in data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hlf_np.arrays import Floats
from hlf_np.experiments.claims.claim import FEWEST_CELLS
from hlf_np.experiments.results import CellResult, by_training
from hlf_np.experiments.statistics import interval, slopes
from hlf_np.trainings import ADVERSARIAL, NORMAL, Training

COMPARED = (NORMAL, ADVERSARIAL)


def data_factor(results: Sequence[CellResult], fewest: int = FEWEST_CELLS) -> dict[str, Any] | None:
    """How many times the images of normal training adversarial training needs for the same test error.

    Errors are taken to fall as a power of N, the same power for both trainings: on logarithmic axes two parallel
    lines, log error = height - power log N. A training whose line is higher by h needs exp(h / power) times the
    images. Where the curves are not parallel it is an average over all N that were observed; `factors_by_size`
    has it for each. None if either training has fewer models than `fewest`, or it is not certain that the errors
    fall.
    """
    points = [_points(results, training) for training in COMPARED]
    if any(len(found) < fewest for found in points):
        return None
    if not np.isfinite(_powers(*points)) or interval(_powers, *points)[0] <= 0:
        return None
    low, high = interval(_log_factors, *points)
    factor, low, high = (float(np.exp(logarithm)) for logarithm in (_log_factors(*points), low, high))
    sizes = [r.cell.n_train for r in results if r.cell.training in COMPARED]
    return {
        "factor": factor,
        "interval": (low, high),
        "sizes": (min(sizes), max(sizes)),
        "by_size": factors_by_size(results),
    }


def factors_by_size(results: Sequence[CellResult]) -> list[tuple[int, float]]:
    """The factor at each N of adversarial training: N over the fewest images with which normal training is as good.

    These are interpolated in the curve of mean errors on logarithmic axes. An N whose error lies outside of
    that curve is left out.
    """
    normal, adversarial = (_curve(_points(results, training)) for training in COMPARED)
    if len(normal) < 2:
        return []
    best = np.minimum.accumulate(normal[:, 1])  # so far; a larger N may do worse by chance
    inside = (adversarial[:, 1] >= best[-1]) & (adversarial[:, 1] <= best[0])
    log_n, log_error = adversarial[inside].T
    needed = np.interp(-log_error, -best, normal[:, 0])
    return [(round(float(np.exp(n))), float(np.exp(n - least))) for n, least in zip(log_n, needed, strict=True)]


def _points(results: Sequence[CellResult], training: Training) -> Floats:
    """(n, 2): log N and log error of its models."""
    cells = by_training(results).get(training, [])
    found = [(r.cell.n_train, r.value("test_error")) for r in cells if r.value("test_error") > 0]
    return np.log(np.array(found, np.float64).reshape(-1, 2))


def _curve(points: Floats) -> Floats:
    """(sizes, 2): log N, ascending, and the logarithm of the mean error."""
    sizes = np.unique(points[:, 0])
    means = [np.log(np.exp(points[points[:, 0] == size, 1]).mean()) for size in sizes]
    return np.stack([sizes, np.array(means)], axis=1)


def _powers(*samples: Floats) -> Floats:
    """By which the errors fall, the same in all samples of points (..., n, 2), log N and log error."""
    inside = np.concatenate([points - points.mean(axis=-2, keepdims=True) for points in samples], axis=-2)
    return -slopes(inside[..., 0], inside[..., 1])


def _log_factors(normal: Floats, adversarial: Floats) -> Floats:
    """NaN unless the errors fall."""
    powers = _powers(normal, adversarial)
    distances = adversarial.mean(axis=-2) - normal.mean(axis=-2)  # (..., 2)
    return np.asarray(distances[..., 0] + distances[..., 1] / np.where(powers > 0, powers, np.nan))
