"""A trained model under examination, with the attacks and distances that several measurements share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np

from hlf_np.attacks import PGD, AttackResult, CarliniWagner, SuccessRate
from hlf_np.data.dataset import Split
from hlf_np.experiments.measurements.distances import (
    CLEAN,
    SUBSPACE_REFERENCE,
    TRUE_MANIFOLD_REFERENCE,
    DistanceReference,
    manifold_distances,
    neighbour_distances,
)
from hlf_np.experiments.results import Examples
from hlf_np.models import Model
from hlf_np.spaces import PAPER_EPSILONS, ImageBall, Norm, Space, TrueManifold
from hlf_np.support.arrays import Booleans, Floats, Integers
from hlf_np.support.checks import check_labels
from hlf_np.support.errors import UserError
from hlf_np.training import EpochLog
from hlf_np.trainings import with_step_size_of


class ExaminationSettings(Protocol):
    """The fields of a run's configuration that an examination reads; `RunConfig` documents them."""

    @property
    def attack(self) -> PGD: ...

    @property
    def attack_seed(self) -> int: ...

    @property
    def epsilon(self) -> float: ...

    @property
    def n_attacked(self) -> int: ...

    @property
    def n_attacked_on_manifold(self) -> int: ...

    @property
    def n_examples(self) -> int: ...

    @property
    def n_projected(self) -> int: ...

    @property
    def carlini_wagner(self) -> CarliniWagner | None: ...


@dataclass(frozen=True, eq=False)
class Subject:
    """A trained model under examination.

    Parameters
    ----------
    model : Model
        The trained model.
    test : Split
        The test images. All of them enter the test error; the first ones are attacked if classified correctly.
    config : ExaminationSettings
        The configuration of the run.
    spaces : sequence of Space
        The spaces in which the run trains and attacks.
    oracle : Model, optional
        Judges the labels of adversarial examples on the learned manifold.
    neighbours : ndarray of float32, shape (M, H, W, C), optional
        Training images that approximate the manifold where the true one is not known.
    surrogate : Model, optional
        The source model of transfer attacks.
    log : sequence of EpochLog
        The log of the training.
    """

    model: Model
    test: Split
    config: ExaminationSettings
    spaces: Sequence[Space]
    oracle: Model | None = None
    neighbours: Floats | None = None
    surrogate: Model | None = None
    log: Sequence[EpochLog] = ()
    _attacks: dict[type[Space], AttackResult] = field(default_factory=dict, init=False)

    @cached_property
    def labels(self) -> Integers:
        """The labels of the test images, shape (N,)."""
        return check_labels(self.test.labels, self.model.classes, len(self.test))

    @cached_property
    def correct(self) -> Booleans:
        """Whether each test image is classified correctly, shape (N,)."""
        return np.asarray(self.labels == self.model.predict(self.test.images))

    def space(self, kind: type[Space]) -> Space | None:
        """Return the run's space of this class, or None if it has none."""
        return next((space for space in self.spaces if isinstance(space, kind)), None)

    def candidates(self, kind: type[Space]) -> Split:
        """Return the candidates for attacks in a space: the first test images, classified correctly or not."""
        config = self.config
        return self.test.take(slice(config.n_attacked if kind is ImageBall else config.n_attacked_on_manifold))

    def attacked(self, kind: type[Space]) -> Split:
        """Return the images attacked in a space: the correctly classified candidates."""
        candidates = self.candidates(kind)
        return candidates.take(np.flatnonzero(self.correct[: len(candidates)]))

    def attack(self, kind: type[Space]) -> AttackResult:
        """Return the result of the run's attack on `attacked(kind)`.

        Parameters
        ----------
        kind : type of Space
            The class of a space of this run.

        Returns
        -------
        AttackResult
            Computed at the first call, then cached.

        Raises
        ------
        UserError
            If the run has no such space.
        """
        if kind not in self._attacks:
            space, config = self.space(kind), self.config
            if space is None:
                raise UserError(f"this run does not attack in {kind.__name__}: check subject.space({kind.__name__})")
            attack = with_step_size_of(space, config.attack)
            self._attacks[kind] = attack.find(self.model, self.attacked(kind), space, config.attack_seed)
        return self._attacks[kind]

    def rate(self, kind: type[Space]) -> SuccessRate:
        """Return the success rates of the run's attack in a space; NaN if the run has no such space."""
        return SuccessRate.of(self.attack(kind)) if self.space(kind) else SuccessRate(math.nan, math.nan)

    @cached_property
    def carlini_wagner_result(self) -> AttackResult | None:
        """The result of Carlini and Wagner's attack in the paper's L2 ball; None if the run leaves it out."""
        attack, space = self.config.carlini_wagner, ImageBall(PAPER_EPSILONS[Norm.L2][0], Norm.L2)
        return attack.find(self.model, self.attacked(ImageBall), space) if attack else None

    @cached_property
    def distance_reference(self) -> DistanceReference | None:
        """What distances are measured to; None if there is neither a true manifold nor neighbours."""
        if self.space(TrueManifold):
            return TRUE_MANIFOLD_REFERENCE
        return None if self.neighbours is None else SUBSPACE_REFERENCE

    @cached_property
    def distances(self) -> dict[str, Floats]:
        """The L2 distances (n,) of each kind of images to the reference, by the reference's keys.

        Only the first `n_projected` successful adversarial examples and clean images are measured.
        """
        reference, limit = self.distance_reference, self.config.n_projected
        result: dict[str, Floats] = {}
        if reference is None:
            return result
        clean = self.test.take(slice(0, limit))
        for kind in (ImageBall, reference.on_manifold):
            if space := self.space(kind):
                attack, attacked = self.attack(kind), self.attacked(kind)
                rows = np.flatnonzero(attack.success)[:limit]
                result[reference.key(kind.name)] = self._distances(attack.images[rows], attacked.take(rows), space)
        result[reference.key(CLEAN)] = self._distances(clean.images, clean, ImageBall(self.config.epsilon))
        return result

    def _distances(self, images: Floats, originals: Split, space: Space) -> Floats:
        """Return the distances of images that an attack in `space` made from the originals."""
        manifold = self.space(TrueManifold)
        if manifold is not None:
            return manifold_distances(images, originals, manifold)
        assert self.neighbours is not None
        return neighbour_distances(images, originals, space, self.neighbours)

    def examples(self, kind: type[Space]) -> Examples:
        """Return the first successful adversarial example of each class, `n_examples` at most."""
        result, attacked = self.attack(kind), self.attacked(kind)
        chosen = first_of_each_class(attacked.labels, result.success)[: self.config.n_examples]
        images = result.images[chosen]
        return Examples(attacked.images[chosen], images, attacked.labels[chosen], self.model.predict(images))


def first_of_each_class(labels: Integers, allowed: Booleans) -> Integers:
    """Return the index of the first allowed image of each class that has one."""
    candidates = np.flatnonzero(allowed)
    _, first = np.unique(labels[candidates], return_index=True)
    return candidates[first]


def collect(subject: Subject) -> tuple[Mapping[str, Examples], Mapping[str, Floats]]:
    """Return what is stored besides the measurements: the examples of each attacked space, and the distances."""
    spaces = [type(space) for space in subject.spaces if space.measured and space.name]
    return {space.name: subject.examples(space) for space in spaces}, subject.distances
