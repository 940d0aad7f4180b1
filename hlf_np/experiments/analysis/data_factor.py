"""The cost of adversarial training in training images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from hlf_np.experiments.analysis.claim import MIN_CELLS
from hlf_np.experiments.analysis.statistics import Interval, bootstrap_interval, slopes
from hlf_np.experiments.results import CellResult, by_training
from hlf_np.support.arrays import Floats, Integers
from hlf_np.trainings import ADVERSARIAL, NORMAL, Training

COMPARED = (NORMAL, ADVERSARIAL)
MIN_SEEDS = 4  # for an interval
BEYOND = 100.0  # stands for log N where a draw lies outside the curve of normal training


def data_factor(results: Sequence[CellResult], min_cells: int = MIN_CELLS) -> dict[str, Any] | None:
    """Estimate how many times as many images adversarial training needs as normal training for the same test error.

    The model is an error that falls as a power of N, the same power for both trainings. On logarithmic axes these are
    two parallel lines:

        log error = height - power log N

    A training whose line is higher by h needs exp(h / power) times as many images. Where the curves are not parallel,
    the factor is an average over the observed N; `factors_by_size` returns it for each N.

    Parameters
    ----------
    results : sequence of CellResult
        The cells of a run.
    min_cells : int
        Minimum number of models of each training.

    Returns
    -------
    dict or None
        "factor", its 95 % "interval", the smallest and largest N as "sizes", `factors_by_size` as "by_size" and
        `factor_intervals` as "intervals_by_size". None if there are too few models, or the interval of the power
        includes 0.
    """
    points = _points(results)
    if any(len(samples) < min_cells for samples in points):
        return None
    if not np.isfinite(_powers(*points)) or bootstrap_interval(_powers, *points)[0] <= 0:
        return None
    low, high = bootstrap_interval(_log_factors, *points)
    factor, low, high = (float(np.exp(log_factor)) for log_factor in (_log_factors(*points), low, high))
    sizes = np.rint(np.exp(np.concatenate(points)[:, 0])).astype(int).tolist()
    return {
        "factor": factor,
        "interval": (low, high),
        "sizes": (min(sizes), max(sizes)),
        "by_size": factors_by_size(results),
        "intervals_by_size": factor_intervals(results),
    }


def factors_by_size(results: Sequence[CellResult]) -> list[tuple[int, float]]:
    """Estimate the data factor at each N of adversarial training.

    It is N divided by the fewest images with which normal training reaches the same mean error, interpolated on
    logarithmic axes.

    Parameters
    ----------
    results : sequence of CellResult
        The cells of a run.

    Returns
    -------
    list of (int, float)
        N and its factor. An N whose error lies outside the curve of normal training is left out.
    """
    normal, adversarial = (_curve(results, training) for training in COMPARED)
    if len(normal) < 2:
        return []
    factors = np.exp(adversarial[:, 0] - _log_needed(normal[:, 0], normal[:, 1], adversarial[:, 1]))
    sizes = np.rint(np.exp(adversarial[:, 0]))
    return [(int(n), float(factor)) for n, factor in zip(sizes, factors, strict=True) if np.isfinite(factor)]


def factor_intervals(results: Sequence[CellResult]) -> dict[int, Interval]:
    """Estimate how far the factors of `factors_by_size` vary with the seed, by the bootstrap.

    A draw takes as many seeds of each training as there are, with replacement, and averages their curves.

    Parameters
    ----------
    results : sequence of CellResult
        The cells of a run.

    Returns
    -------
    dict of int to (float, float)
        The 95 % interval by N, from the seeds whose models of normal training at all N, or of adversarial training at
        this N, have a test error; at least four of each are needed. An N is left out if its interval extends beyond
        what the N of normal training can tell. Errors of 0, of which there is no logarithm, allow no interval.
    """
    (sizes, normal), (adversarial_sizes, adversarial) = (_curves_by_seed(results, training) for training in COMPARED)
    normal = normal[np.isfinite(normal).all(axis=1)]
    intervals: dict[int, Interval] = {}
    if len(sizes) < 2 or len(normal) < MIN_SEEDS or not normal.all():
        return intervals
    for n, _ in factors_by_size(results):
        errors = adversarial[:, adversarial_sizes == n]  # (seeds, 1)
        errors = errors[np.isfinite(errors[:, 0])]
        if len(errors) < MIN_SEEDS or not errors.all():
            continue
        low, high = bootstrap_interval(partial(_factors_of_draws, sizes, n), normal, errors)
        if n / sizes[-1] <= low and high <= n / sizes[0]:
            intervals[n] = low, high
    return intervals


def _factors_of_draws(sizes: Integers, n: int, normal: Floats, adversarial: Floats) -> Floats:
    """Return the factors at n (B,), for draws of seeds: errors (B, seeds, sizes) and (B, seeds, 1)."""
    log_errors, log_aims = np.log(normal.mean(axis=1)), np.log(adversarial.mean(axis=(1, 2)))
    return np.asarray(n / np.exp(_log_needed(np.log(sizes), log_errors, log_aims, BEYOND)))


def _log_needed(log_sizes: Floats, log_errors: Floats, log_aims: Floats, beyond: float = np.nan) -> Floats:
    """Return log N of the fewest images with which normal training reaches errors (B,); it has (sizes,) or (B, sizes).

    Outside its curve it is -beyond where the smallest N is more than enough, beyond where the largest does not suffice.
    """
    best = np.minimum.accumulate(log_errors, axis=-1)  # so far: a larger N may be worse by chance
    best = np.broadcast_to(best, (len(log_aims), len(log_sizes)))
    first = (best > log_aims[:, None]).sum(axis=1)  # the index of the smallest N that suffices
    after, row = first.clip(1, len(log_sizes) - 1), np.arange(len(log_aims))
    above, below = best[row, after - 1], best[row, after]
    share = (above - log_aims) / np.where(above > below, above - below, 1)
    needed = log_sizes[after - 1] + share * (log_sizes[after] - log_sizes[after - 1])
    too_easy = np.where(best[:, 0] == log_aims, log_sizes[0], -beyond)
    return np.select([first == 0, first == len(log_sizes)], [too_easy, np.full(len(row), beyond)], needed)


def _curves_by_seed(results: Sequence[CellResult], training: Training) -> tuple[Integers, Floats]:
    """Return ascending N, (sizes,), and the error of each model, (seeds, sizes); NaN for those that are missing."""
    errors = {
        (r.cell.seed, r.cell.n_train): r.value("test_error")
        for r in by_training(results).get(training, [])
        if r.cell.n_train and r.value("test_error") >= 0
    }
    seeds, sizes = (sorted({key[axis] for key in errors}) for axis in (0, 1))
    table = [[errors.get((seed, size), np.nan) for size in sizes] for seed in seeds]
    return np.array(sizes, np.int64), np.array(table, np.float64).reshape(len(seeds), len(sizes))


def _points(results: Sequence[CellResult]) -> list[Floats]:
    """Return log N and log error of models of each training, (n, 2), at the N that both trainings have.

    Every N has the same weight, as the factor depends on N: the points are those of the seeds that are complete or, if
    none is, means over seeds. An N at which some model has an error of 0 is left out: the others alone would make its
    error too large.
    """
    tables = [_curves_by_seed(results, training) for training in COMPARED]
    shared = np.intersect1d(tables[0][0], tables[1][0])
    columns = [errors[:, np.isin(sizes, shared)] for sizes, errors in tables]
    positive = np.all([(errors != 0).all(axis=0) for errors in columns], axis=0)
    if not positive.any():
        return [np.empty((0, 2)) for _ in COMPARED]
    points = []
    for errors in columns:
        logs = np.log(errors[:, positive])  # (seeds, sizes)
        complete = logs[np.isfinite(logs).all(axis=1)]
        rows = complete if len(complete) else np.nanmean(logs, axis=0, keepdims=True)
        points.append(np.stack(np.broadcast_arrays(np.log(shared[positive]), rows), axis=-1).reshape(-1, 2))
    return points


def _curve(results: Sequence[CellResult], training: Training) -> Floats:
    """Return ascending log N and the logarithm of the mean error, (sizes, 2), unless the mean is 0."""
    sizes, errors = _curves_by_seed(results, training)
    points = np.stack([sizes, np.nanmean(errors, axis=0)], axis=1)
    return np.asarray(np.log(points[points[:, 1] > 0]))


def _powers(*samples: Floats) -> Floats:
    """Return the common power (...,) by which errors fall, for samples of points (..., n, 2): log N and log error."""
    centred = np.concatenate([points - points.mean(axis=-2, keepdims=True) for points in samples], axis=-2)
    return -slopes(centred[..., 0], centred[..., 1])


def _log_factors(normal: Floats, adversarial: Floats) -> Floats:
    """Return the logarithms of the data factor, (...,); NaN unless the errors fall."""
    powers = _powers(normal, adversarial)
    shifts = adversarial.mean(axis=-2) - normal.mean(axis=-2)  # (..., 2): of log N and of log error
    return np.asarray(shifts[..., 0] + shifts[..., 1] / np.where(powers > 0, powers, np.nan))
