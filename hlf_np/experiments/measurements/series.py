"""Numbers in the course of a training and of an attack, which figures show as curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hlf_np.attacks import Start, ThoroughAttack
from hlf_np.data.dataset import Split
from hlf_np.experiments.measurements.subject import ExaminationSettings, Subject
from hlf_np.manifolds.tangent import tangent_share
from hlf_np.models import Model
from hlf_np.spaces import ImageBall, LearnedManifold, Space, TrueManifold
from hlf_np.support.arrays import Booleans, Floats

# Series of one number per epoch.
ERROR_BY_EPOCH = "test_error_by_epoch"
SELECTION_BY_EPOCH = "robust_error_by_epoch_selection"
HELD_OUT_BY_EPOCH = "robust_error_by_epoch_held_out"
# Series of one number per entry of `ATTACK_PROGRESS`.
TANGENT_SHARE_BY_STEP = "tangent_share_by_step"
ATTACK_PROGRESS = (1 / 8, 1 / 4, 1 / 2, 1.0)  # of the steps of an attack
# Series of one number per entry of `EPSILONS`.
SUCCESS_BY_EPSILON = "thorough_success_by_epsilon"
THOROUGH_ATTACK = ThoroughAttack(steps=50, targets=3, queries=200)
EPSILONS = (0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4)


def success_by_epoch(space: type[Space]) -> str:
    """Return the name of the series of success rates of attacks in a space."""
    return f"{space.name}_success_by_epoch"


def thorough_success(model: Model, split: Split, seed: int = 0) -> Floats:
    """Compute the success rates of a thorough attack in L_inf balls of growing radius.

    An image that an attack succeeds on within some radius counts so for all larger ones, and one that withstands within
    some radius as withstanding within all smaller ones: the smallest radius of each image is found by bisection.

    Parameters
    ----------
    model : Model
        The classifier.
    split : Split
        Images that it classifies correctly.
    seed : int
        Seed of the attack.

    Returns
    -------
    ndarray of float64, shape (E,)
        The success rate for each entry of `EPSILONS`; NaN if there are no images.
    """
    if not len(split):
        return np.full(len(EPSILONS), np.nan)
    # all radii below `first` are withstood; the one with index `last` is not, or there is none
    first, last = np.zeros(len(split), np.int64), np.full(len(split), len(EPSILONS))
    while (first < last).any():
        middle = (first + last) // 2
        for index in np.unique(middle[first < last]):
            rows = np.flatnonzero((middle == index) & (first < last))
            fooled = THOROUGH_ATTACK.find(model, split.take(rows), ImageBall(EPSILONS[index]), seed).success
            last[rows[fooled]], first[rows[~fooled]] = index, index + 1
    return np.asarray((first <= np.arange(len(EPSILONS))[:, None]).mean(axis=1))


class EpochTracker:
    """Measures a model after every epoch, on a few test images.

    The error under attack (of images that are misclassified, or that a regular attack turns) is measured on each half
    of the images separately: an epoch chosen as the best by one half is assessed by the other, whose noise had no part
    in the choice.

    Parameters
    ----------
    test : Split
        The test images; the first `n_attacked` of the configuration are used.
    config : ExaminationSettings
        The configuration of the run, with the number of images and the attack to use here.
    spaces : sequence of Space
        The spaces in which the run attacks.
    """

    def __init__(self, test: Split, config: ExaminationSettings, spaces: Sequence[Space]) -> None:
        self.images, self.config, self.spaces = test.take(slice(config.n_attacked)), config, spaces
        self.values: dict[str, list[float]] = {}

    def measure(self, model: Model) -> None:
        """Append the numbers of a model to all series."""
        subject = Subject(model, self.images, self.config, self.spaces)
        manifolds: tuple[type[Space], ...] = (TrueManifold, LearnedManifold)
        manifold = next((kind for kind in manifolds if subject.space(kind)), None)
        wrong: Booleans = ~subject.correct
        if len(subject.attacked(ImageBall)):
            wrong[np.flatnonzero(subject.correct)] = subject.attack(ImageBall).success
        half = len(wrong) // 2
        self._append(ERROR_BY_EPOCH, 1 - subject.correct.mean())
        self._append(SELECTION_BY_EPOCH, wrong[:half].mean())
        self._append(HELD_OUT_BY_EPOCH, wrong[half:].mean())
        self._append(success_by_epoch(ImageBall), subject.rate(ImageBall).average)
        if manifold:
            self._append(success_by_epoch(manifold), subject.rate(manifold).average)

    def _append(self, name: str, value: float) -> None:
        self.values.setdefault(name, []).append(float(value))

    def series(self) -> dict[str, Floats]:
        """Return the series."""
        return {name: np.array(values) for name, values in self.values.items()}


def attack_series(subject: Subject) -> dict[str, Floats]:
    """Return the mean tangent share of regular perturbations in the course of an attack from the image itself.

    Parameters
    ----------
    subject : Subject
        The model under examination.

    Returns
    -------
    dict of str to ndarray
        The series, one number per entry of `ATTACK_PROGRESS`; empty without a true manifold.
    """
    space, images = subject.space(ImageBall), subject.first_tested
    if space is None or subject.space(TrueManifold) is None or not len(images):
        return {}
    attack = replace(subject.config.attack, start=Start.IMAGE, restarts=1, stop_early=False)
    shares = []
    for progress in ATTACK_PROGRESS:
        partial = replace(attack, steps=max(1, round(progress * attack.steps)))
        perturbations = partial.find(subject.model, images, space).perturbations
        shares.append(float(np.nanmean(tangent_share(perturbations, subject.tangent_bases))))
    return {TANGENT_SHARE_BY_STEP: np.array(shares)}
