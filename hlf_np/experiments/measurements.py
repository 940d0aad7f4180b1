"""What is measured of a trained model, each number declared once: its column, its title, how it is computed.

`results.csv`, tables, figures and the report have what is declared here or by a plugin. A `Subject` is a trained model
under examination; what several measurements need of it, such as an attack, it does once.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from hlf_np.arrays import Booleans, Floats, Integers
from hlf_np.attacks import Attack, AttackResult, SuccessRate, Transfer, checked_result
from hlf_np.checks import check_labels
from hlf_np.data.dataset import Split
from hlf_np.errors import UserError, place_of
from hlf_np.experiments.results import Examples
from hlf_np.manifolds.distance import project, subspace_distances
from hlf_np.manifolds.oracle import labels_kept
from hlf_np.models import Model
from hlf_np.spaces import PAPER_EPSILONS, SPACES, ImageBall, LearnedManifold, Need, Norm, Space, TrueManifold
from hlf_np.training import EpochLog
from hlf_np.trainings import in_units_of

if TYPE_CHECKING:
    from hlf_np.experiments.config import RunConfig

NEIGHBOURS = 50  # that span the subspace
KEYS = ("dataset", "training", "n_train", "seed")  # the first columns of results.csv
CLEAN = "clean"


class Shown(Enum):
    """Where a measurement is shown besides `results.csv`."""

    CURVE = "a figure and a table, in the terminal, too"
    TABLE = "a table, in the terminal, too"
    ASIDE = "a table of success rates in any restart"
    NOWHERE = "nowhere"


@dataclass(frozen=True)
class Measurement:
    """A number of every model.

    column : in the results, in lower case with underscores; title : above its table.
    compute : takes a `Subject`; NaN where the number is not defined.
    needs : what a run must have for it; without that it is not computed.
    shown : where; share : whether it lies between 0 and 1, as a success rate does.
    """

    column: str
    title: str
    compute: Callable[[Subject], float]
    needs: Need | None = None
    shown: Shown = Shown.CURVE
    share: bool = True

    def __post_init__(self) -> None:
        texts = isinstance(self.column, str) and isinstance(self.title, str) and callable(self.compute)
        if not texts or not isinstance(self.shown, Shown) or not isinstance(self.needs, Need | None):
            raise UserError(
                f"measurement {self.column!r} must have a title, a function, a Need or None, and a Shown:"
                " Measurement(column, title, compute, needs, shown)"
            )


@dataclass(frozen=True)
class Yardstick:
    """What stands for the manifold where distances to it are measured.

    words : what that is; others : what regular examples are compared with.
    suffix : of the names of its distances; on_manifold : the space whose examples are compared.
    """

    words: str
    others: str
    suffix: str
    on_manifold: type[Space]

    @property
    def kinds(self) -> tuple[str, str, str]:
        """Of images that are measured: regular examples, on-manifold ones, clean images."""
        return (ImageBall.name, self.on_manifold.name, CLEAN)

    def key(self, kind: str) -> str:
        """The name of a kind's distances in `CellResult.distances`; with `_distance`, of their mean."""
        return kind + self.suffix


TRUE = Yardstick("the true manifold", "an image on it", "", TrueManifold)
SUBSPACE = Yardstick(
    "the subspace of nearest training images", "one on the learned manifold", "_subspace", LearnedManifold
)
YARDSTICKS = (TRUE, SUBSPACE)


@dataclass(frozen=True, eq=False)
class Subject:
    """A trained model under examination.

    model, test : all of the test images count for the test error; the first are attacked, where classified correctly.
    config : of the run. spaces : that it trains and attacks in.
    oracle : judges the labels of adversarial examples on the learned manifold; None if nobody does.
    neighbours : training images (M, H, W, C) to measure distances by where the true manifold is not known.
    surrogate : makes adversarial examples to be transferred; None if nobody asks for it.
    log : of the training.
    """

    model: Model
    test: Split
    config: RunConfig
    spaces: Sequence[Space]
    oracle: Model | None = None
    neighbours: Floats | None = None
    surrogate: Model | None = None
    log: Sequence[EpochLog] = ()
    _attacks: dict[type[Space], AttackResult] = field(default_factory=dict, init=False)

    @cached_property
    def labels(self) -> Integers:
        """Of the test images, (N,)."""
        return check_labels(self.test.labels, self.model.classes, len(self.test))

    @cached_property
    def correct(self) -> Booleans:
        """Which test images are classified correctly, (N,)."""
        return np.asarray(self.labels == self.model.predict(self.test.images))

    def space(self, kind: type[Space]) -> Space | None:
        """The run's space of this kind, if it has one."""
        return next((space for space in self.spaces if isinstance(space, kind)), None)

    def first(self, kind: type[Space]) -> Split:
        """The test images from which those are taken that are attacked in a space."""
        config = self.config
        return self.test.take(slice(config.n_attacked if kind is ImageBall else config.n_attacked_on_manifold))

    def attacked(self, kind: type[Space]) -> Split:
        """Those that are classified correctly."""
        first = self.first(kind)
        return first.take(np.flatnonzero(self.correct[: len(first)]))

    def attack(self, kind: type[Space]) -> AttackResult:
        """The run's attack on these images in a space that the run has."""
        if kind not in self._attacks:
            space, config = self.space(kind), self.config
            if space is None:
                raise UserError(
                    f"this run does not attack in {kind.__name__}: ask subject.space({kind.__name__}) first"
                )
            attack = in_units_of(space, config.attack)
            self._attacks[kind] = attack.find(self.model, self.attacked(kind), space, config.attack_seed)
        return self._attacks[kind]

    def rate(self, kind: type[Space]) -> SuccessRate:
        """How often that succeeds; NaN in a space that the run has not."""
        return SuccessRate.of(self.attack(kind)) if self.space(kind) else SuccessRate(math.nan, math.nan)

    @cached_property
    def smallest(self) -> AttackResult | None:
        """Carlini and Wagner's attack within the paper's L2 ball; None if it is not asked for."""
        settings, space = self.config.carlini_wagner, ImageBall(PAPER_EPSILONS[Norm.L2][0], Norm.L2)
        return settings.find(self.model, self.attacked(ImageBall), space) if settings else None

    @cached_property
    def yardstick(self) -> Yardstick | None:
        """What distances are measured by."""
        if self.space(TrueManifold):
            return TRUE
        return None if self.neighbours is None else SUBSPACE

    @cached_property
    def distances(self) -> dict[str, Floats]:
        """The distance (N,) of each kind of images to what stands for the manifold, by the yardstick's keys.

        The subspace of neighbours goes through the image that the attack started from. On the learned manifold that is
        the reconstruction of the original: how good it is, is another question.
        """
        yardstick, most = self.yardstick, self.config.n_projected
        found: dict[str, Floats] = {}
        if yardstick is None:
            return found
        clean = self.test.take(slice(0, most))
        for kind in (ImageBall, yardstick.on_manifold):
            if space := self.space(kind):
                result, attacked = self.attack(kind), self.attacked(kind)
                rows = np.flatnonzero(result.success)[:most]
                found[yardstick.key(kind.name)] = self._distance(result.images[rows], attacked.take(rows), space)
        found[yardstick.key(CLEAN)] = self._distance(clean.images, clean, ImageBall(self.config.epsilon))
        return found

    def _distance(self, images: Floats, originals: Split, space: Space) -> Floats:
        """Of images (N, H, W, C); originals : what they were; space : where they were sought."""
        manifold = self.space(TrueManifold)
        if manifold is not None:
            # from the codes of the originals: where an adversarial example came from is the best guess
            return project(images, manifold.chart(originals.images, originals.labels, originals.codes)).distances
        assert self.neighbours is not None
        around = space.chart(originals.images, originals.labels, originals.codes)
        starts, count = around.decoded(around.start), min(NEIGHBOURS, len(self.neighbours))
        return subspace_distances(images, starts, self.neighbours, count)

    def examples(self, kind: type[Space]) -> Examples:
        """The first successful adversarial example of every class, up to a number."""
        result, attacked = self.attack(kind), self.attacked(kind)
        shown = first_of_each_class(attacked.labels, result.success)[: self.config.n_examples]
        images = result.images[shown]
        return Examples(attacked.images[shown], images, attacked.labels[shown], self.model.predict(images))


def first_of_each_class(labels: Integers, allowed: Booleans) -> Integers:
    """Indices of the first allowed image of every class that has one."""
    candidates = np.flatnonzero(allowed)
    _, first = np.unique(labels[candidates], return_index=True)
    return candidates[first]


def measure(subject: Subject, measurements: Sequence[Measurement]) -> dict[str, float]:
    """All that can be measured, by column; NaN where something is lacking.

    Raises
    ------
    UserError : for a measurement that gives no number.
    """
    found = {}
    for measurement in measurements:
        lacking = measurement.needs is not None and not any(s.needs is measurement.needs for s in subject.spaces)
        value: Any = math.nan if lacking else measurement.compute(subject)
        try:
            found[measurement.column] = float(value)
        except (TypeError, ValueError):
            what = f"measurement {measurement.column}{place_of(measurement.compute)}"
            given = f"{value!r:.40}" if np.ndim(value) == 0 else f"an array of shape {np.shape(value)}"
            raise UserError(f"{what} gave {given}: its function must return a number") from None
    return found


def of_space(space: type[Space]) -> tuple[Measurement, Measurement]:
    """The success rates in a space: averaged over restarts, and in any restart."""
    column, title = f"{space.name}_success", f"Success rate of {space.called()}"
    return (
        Measurement(column, title, lambda s: s.rate(space).average, space.needs),
        Measurement(
            f"{column}_worst", f"{title}, any restart", lambda s: s.rate(space).worst, space.needs, Shown.ASIDE
        ),
    )


def of_attack(attack: Attack) -> Measurement:
    """The success rate of an attack in image space, on the images that the run's own attack has."""

    def compute(subject: Subject) -> float:
        space = subject.space(ImageBall)
        assert space is not None
        model, attacked = subject.model, subject.attacked(ImageBall)
        # a copy: one that keeps a state begins anew with each model, in whatever process
        found = copy.deepcopy(attack).find(model, subject.attacked(ImageBall), space, subject.config.attack_seed)
        return SuccessRate.of(checked_result(attack, found, model, attacked, space)).average

    return Measurement(f"{attack.name}_success", f"Success rate of attack {attack.name}", compute)


def _mean_distance(yardstick: Yardstick, kind: str) -> Measurement:
    """The mean L2 distance of successful adversarial examples of a kind, or of clean images."""
    key = yardstick.key(kind)

    def compute(subject: Subject) -> float:
        found = subject.distances.get(key, np.empty(0))
        return float(found.mean()) if len(found) else math.nan

    title = f"Distance of {kind} images to {yardstick.words}"
    return Measurement(f"{key}_distance", title, compute, None, Shown.NOWHERE, False)


def _labels_kept(subject: Subject) -> float:
    """The share of all images attacked there that the oracle still assigns to their class after the attack."""
    if subject.oracle is None:
        return math.nan
    return labels_kept(subject.oracle, subject.attack(LearnedManifold).images, subject.attacked(LearnedManifold).labels)


def _last_loss(subject: Subject) -> float:
    return subject.log[-1].loss if subject.log else math.nan


def _smallest_norm(subject: Subject) -> float:
    result = subject.smallest
    norms = Norm.L2.of(result.perturbations[result.success]) if result else np.empty(0)
    return float(norms.mean()) if len(norms) else math.nan


def _transferred(kind: type[Space]) -> Measurement:
    """Of adversarial examples of another model, on images that both classify correctly, averaged over restarts."""

    def compute(subject: Subject) -> float:
        space, source, first = subject.space(kind), subject.surrogate, subject.first(kind)
        if source is None or space is None:
            return math.nan
        both = subject.correct[: len(first)] & (source.predict(first.images) == first.labels)
        attacked = first.take(np.flatnonzero(both))
        found = Transfer(source, subject.config.attack).find(subject.model, attacked, space, subject.config.attack_seed)
        return SuccessRate.of(found).average

    title = f"Success rate of {kind.called()} transferred from another model"
    return Measurement(f"{kind.name}_transfer_success", title, compute, kind.needs, Shown.TABLE)


def _built_in() -> tuple[Measurement, ...]:
    rates = [of_space(space) for space in SPACES if space.measured]
    return (
        Measurement("test_error", "Test error", lambda s: float(1 - s.correct.mean())),
        *(average for average, _ in rates),
        *(worst for _, worst in rates),
        Measurement(
            "learned_labels_kept",
            "Share of images attacked on the learned manifold that keep their label, by the oracle",
            _labels_kept,
            Need.LEARNED_MANIFOLD,
            Shown.TABLE,
        ),
        *(_mean_distance(yardstick, kind) for yardstick in YARDSTICKS for kind in yardstick.kinds),
        Measurement("train_loss", "Mean loss of the last epoch", _last_loss, None, Shown.NOWHERE, False),
        # training and attacks together; the run fills it in
        Measurement("seconds", "Seconds for a model", lambda s: math.nan, None, Shown.NOWHERE, False),
        Measurement(
            "carlini_wagner_success",
            "Success rate of Carlini and Wagner's attack, L2",
            lambda s: SuccessRate.of(s.smallest).average if s.smallest else math.nan,
            None,
            Shown.TABLE,
        ),
        Measurement(
            "carlini_wagner_norm", "L2 norm of its successful perturbations", _smallest_norm, None, Shown.TABLE, False
        ),
        _transferred(ImageBall),
        _transferred(TrueManifold),
    )


MEASUREMENTS = _built_in()


def collect(subject: Subject) -> tuple[Mapping[str, Examples], Mapping[str, Floats]]:
    """What is kept of a subject besides numbers: examples of every space that it is attacked in, and distances."""
    spaces = [type(space) for space in subject.spaces if space.measured and space.name]
    return {space.name: subject.examples(space) for space in spaces}, subject.distances
