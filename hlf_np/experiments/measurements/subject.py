"""A trained model under examination, with the attacks and distances that several measurements share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from hlf_np.attacks import PGD, UNSEEN_ATTACKS, AttackResult, CarliniWagner, SuccessRate
from hlf_np.data.dataset import Split
from hlf_np.experiments.measurements.distances import (
    CLEAN,
    SUBSPACE_NEIGHBOURS,
    SUBSPACE_REFERENCE,
    TRUE_MANIFOLD_REFERENCE,
    DistanceReference,
)
from hlf_np.experiments.results import Examples
from hlf_np.manifolds.distance import NeighbourSearch, project, subspace_distances
from hlf_np.manifolds.tangent import tangent_bases
from hlf_np.models import Model
from hlf_np.spaces import PAPER_EPSILONS, ImageBall, Norm, Space, TrueManifold
from hlf_np.spaces.space import checked_perturbable
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
    def n_unseen(self) -> int: ...

    @property
    def n_examples(self) -> int: ...

    @property
    def n_projected(self) -> int: ...

    @property
    def carlini_wagner(self) -> CarliniWagner | None: ...


@dataclass(frozen=True, eq=False)
class AttackStart:
    """The candidates for attacks in a space, N images, as they are before an attack.

    Attributes
    ----------
    candidates : Split
        The images.
    images : ndarray of float32, shape (N, H, W, C)
        What their codes decode to: the images themselves or, on a learned manifold, their reconstructions.
    correct : ndarray of bool, shape (N,)
        Whether `images` are classified correctly.
    perturbable : ndarray of bool, shape (N,)
        Which may be perturbed, see `Space.perturbable`.
    """

    candidates: Split
    images: Floats
    correct: Booleans
    perturbable: Booleans


@dataclass(frozen=True, eq=False)
class Subject:
    """A trained model under examination.

    Parameters
    ----------
    model : Model
        The trained model.
    test : Split
        The test images. All of them enter the test error; the first ones are candidates for attacks.
    config : ExaminationSettings
        The configuration of the run.
    spaces : sequence of Space
        The spaces in which the run trains and attacks.
    oracle : Model, optional
        Judges the labels of adversarial examples on the learned manifold.
    neighbours : NeighbourSearch, optional
        Training images that approximate the manifold.
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
    neighbours: NeighbourSearch | None = None
    surrogate: Model | None = None
    log: Sequence[EpochLog] = ()
    _starts: dict[type[Space], AttackStart] = field(default_factory=dict, init=False)
    _attacks: dict[type[Space], AttackResult] = field(default_factory=dict, init=False)
    _smallest: dict[type[Space], AttackResult] = field(default_factory=dict, init=False)

    @cached_property
    def correct(self) -> Booleans:
        """Whether each test image is classified correctly, shape (N,)."""
        labels = check_labels(self.test.labels, self.model.classes, len(self.test))
        return np.asarray(labels == self.model.predict(self.test.images))

    def space(self, kind: type[Space]) -> Space | None:
        """Return the run's space of this class, or None if it has none."""
        return next((space for space in self.spaces if isinstance(space, kind)), None)

    def start(self, kind: type[Space]) -> AttackStart:
        """Return the candidates for attacks in a space as they are before an attack; computed once.

        Raises
        ------
        UserError
            If the run has no such space.
        """
        if kind not in self._starts:
            space, config = self.space(kind), self.config
            count = config.n_attacked if kind is ImageBall else config.n_attacked_on_manifold
            candidates = self.test.take(slice(count))  # classified correctly or not
            if space is None:
                raise UserError(f"this run does not attack in {kind.__name__}: check subject.space({kind.__name__})")
            if space.starts_at_image:
                images, correct = candidates.images, self.correct[: len(candidates)]
            else:
                chart = space.chart(candidates.images, candidates.labels, candidates.codes)
                images = chart.decoded(chart.start)
                correct = self.model.predict(images) == candidates.labels
            self._starts[kind] = AttackStart(candidates, images, correct, checked_perturbable(space, candidates))
        return self._starts[kind]

    def attacked(self, kind: type[Space]) -> Split:
        """Return the images attacked in a space: the perturbable candidates that are classified correctly at first."""
        start = self.start(kind)
        return start.candidates.take(np.flatnonzero(start.correct & start.perturbable))

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
            attacked, space, config = self.attacked(kind), self.space(kind), self.config
            assert space is not None
            attack = with_step_size_of(space, config.attack)
            self._attacks[kind] = attack.find(self.model, attacked, space, config.attack_seed)
        return self._attacks[kind]

    def rate(self, kind: type[Space], result: AttackResult | None = None) -> SuccessRate:
        """Return the success rates of an attack on `attacked(kind)`.

        Parameters
        ----------
        kind : type of Space
            The class of a space.
        result : AttackResult, optional
            The result of the attack; by default that of the run's attack.

        Returns
        -------
        SuccessRate
            Fractions of the candidates that are classified correctly at first: those that are not perturbable count as
            withstanding. NaN if the run has no such space.
        """
        if self.space(kind) is None:
            return SuccessRate(math.nan, math.nan)
        return SuccessRate.of(result or self.attack(kind), int(self.start(kind).correct.sum()))

    def carlini_wagner(self, kind: type[Space]) -> AttackResult | None:
        """Return the result of Carlini and Wagner's attack on `attacked(kind)`; None if the run leaves it out.

        The random start lies in the paper's L2 ball; the attack may leave it.
        """
        attack, space = self.config.carlini_wagner, self.space(kind)
        if attack is None or space is None:
            return None
        if kind not in self._smallest:
            epsilon = PAPER_EPSILONS[Norm.L2][kind is not ImageBall]
            ball = replace(space, epsilon=epsilon, norm=Norm.L2)
            self._smallest[kind] = attack.find(self.model, self.attacked(kind), ball, self.config.attack_seed)
        return self._smallest[kind]

    @cached_property
    def unseen_rates(self) -> Mapping[str, float]:
        """The success rates of `UNSEEN_ATTACKS` on the first `n_unseen` test images, by name; NaN if there are none."""
        attacked = self.test.take(np.flatnonzero(self.correct[: self.config.n_unseen]))
        ball, seed = ImageBall(self.config.epsilon), self.config.attack_seed
        results = {attack.name: attack.find(self.model, attacked, ball, seed) for attack in UNSEEN_ATTACKS}
        return {name: SuccessRate.of(result).average for name, result in results.items()}

    @cached_property
    def first_tested(self) -> Split:
        """The first `n_projected` test images, for measurements of their distance and of tangent spaces."""
        return self.test.take(slice(self.config.n_projected))

    @cached_property
    def tangent_bases(self) -> Floats:
        """Bases (n, D, 6) of the tangent spaces of the true manifold at `first_tested`."""
        manifold = self.space(TrueManifold)
        assert isinstance(manifold, TrueManifold)
        return tangent_bases(manifold, self.first_tested)

    @cached_property
    def distances(self) -> dict[str, Floats]:
        """The L2 distances (n,) of each kind of images to each reference, by the reference's keys.

        Only the first `n_projected` successful adversarial examples and clean images are measured, for each reference
        the same ones.
        """
        limit, result, clean = self.config.n_projected, {}, self.first_tested
        known = {TRUE_MANIFOLD_REFERENCE: self.space(TrueManifold), SUBSPACE_REFERENCE: self.neighbours}
        for reference in (reference for reference, value in known.items() if value is not None):
            for kind in reference.spaces:
                if space := self.space(kind):
                    attack, attacked = self.attack(kind), self.attacked(kind)
                    rows = np.flatnonzero(attack.success)[:limit]
                    distances = self._distances(reference, attack.images[rows], attacked.take(rows), space)
                    result[reference.key(kind.name)] = distances
            ball = ImageBall(self.config.epsilon)
            result[reference.key(CLEAN)] = self._distances(reference, clean.images, clean, ball)
        return result

    def _distances(self, reference: DistanceReference, images: Floats, originals: Split, space: Space) -> Floats:
        """Return the distances of images that an attack in `space` made from the originals.

        The descent to the true manifold starts at the codes of the originals, the best available guess. The subspace of
        nearest neighbours passes through the image at which the attack started; for the learned manifold that is the
        reconstruction of the original, so the reconstruction error is not part of the distance.
        """
        manifold = self.space(TrueManifold) if reference is TRUE_MANIFOLD_REFERENCE else None
        chart = (manifold or space).chart(originals.images, originals.labels, originals.codes)
        if manifold:
            return project(images, chart).distances
        assert self.neighbours is not None
        # As many neighbours as an image has pixels would span everything: all distances would be 0.
        half_of_the_pixels = max(1, math.prod(images.shape[1:]) // 2)
        count = min(SUBSPACE_NEIGHBOURS, half_of_the_pixels, len(self.neighbours.images))
        return subspace_distances(images, chart.decoded(chart.start), self.neighbours, count)

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
