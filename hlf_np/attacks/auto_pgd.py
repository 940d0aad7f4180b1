"""AutoPGD (Croce and Hein, 2020): projected ascent that chooses its own step size, and a thorough attack made of it.

The paper's attack takes 40 Adam steps of 0.005, too few to cross a ball of radius 0.3. AutoPGD starts with steps as
long as the ball is wide, and halves them only when they no longer help. With the momentum of the last step:

    z_k = project(x_k + eta step(gradient at x_k))
    x_{k+1} = project(x_k + 3/4 (z_k - x_k) + 1/4 (x_k - x_{k-1}))

At a few *checkpoints*, ever closer together, eta is halved for each image whose objective rose in fewer than 3/4 of the
steps since the last checkpoint, or whose step size and best value have not changed since then; its ascent then goes on
from its best point.

Two objectives complement each other. The cross-entropy is flat where a model is very confident. The targeted ratio of
logits (targeted DLR) is not, whatever the scale of the logits, and is maximised for each of the most likely other
classes t in turn:

    - (z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2),   z_(1) >= z_(2) >= ...

`ThoroughAttack` runs both, then a random search that needs no gradients, each on the images for which none has
succeeded yet. This is the idea of AutoAttack, by the same authors, without its fourth attack, FAB, which hardly adds to
the others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from hlf_np.attacks.attack import Attack, AttackResult, checked_chart, input_gradient, result_at
from hlf_np.attacks.black_box import RandomSearch
from hlf_np.attacks.pgd import BestCodes
from hlf_np.autodiff import Tensor
from hlf_np.data.dataset import Split, check_split
from hlf_np.models import Model
from hlf_np.operations import cross_entropy
from hlf_np.random import generator
from hlf_np.spaces import Chart, Norm, Space
from hlf_np.spaces.space import can_compile, projected
from hlf_np.support.arrays import Floats, Integers, per_row
from hlf_np.support.checks import check_fields, store_counts
from hlf_np.support.errors import UserError

FIRST_CHECKPOINT, SHORTENING, SHORTEST = 0.22, 0.03, 0.06  # lengths between checkpoints, as fractions of all steps
MIN_RISING = 0.75  # fraction of steps that must raise the objective
MOMENTUM = 0.25
MIN_CLASSES_OF_RATIO = 4
TINY = 1e-12


@dataclass(frozen=True)
class AutoPGD:
    """AutoPGD on the cross-entropy or on the targeted ratio of logits, an `Attack`.

    Parameters
    ----------
    steps : int
        Number of steps of each ascent.
    targets : int
        0 to maximise the cross-entropy. Otherwise the number of most likely other classes that the targeted ratio is
        maximised for, one after the other; at most the number of classes minus one are used.
    restarts : int
        Number of ascents from different random starts, for the cross-entropy.

    Raises
    ------
    UserError
        If a setting is out of range.

    Examples
    --------
    >>> import hlf_np as hlf
    >>> model, test = hlf.models.cnn(), hlf.data.load_fonts(0, 20).test
    >>> result = AutoPGD(steps=5).find(model, test, hlf.spaces.ImageBall(0.1))
    >>> bool((result.success == (model.predict(result.images) != test.labels)).all())
    True
    """

    name: ClassVar[str] = "apgd"

    steps: int = 100
    targets: int = 0
    restarts: int = 1

    def __post_init__(self) -> None:
        check_fields(self)
        store_counts(self, steps=1, targets=0, restarts=1)

    def find(self, model: Model, split: Split, space: Space, seed: int = 0) -> AttackResult:
        """Run the attack, see `Attack.find`; each restart or target attacks only the images that withstood so far."""
        split = check_split(split, model.classes, model.image_shape)
        if self.targets and model.classes < MIN_CLASSES_OF_RATIO:
            raise UserError(f"the targeted ratio needs at least four classes, not {model.classes}: set targets=0")
        labels, chart = split.labels, checked_chart(space, split.images, split.labels, split.codes)
        best, forward = BestCodes(chart.start, prefer_success=True), _Forward(model, space, chart)
        logits, predictions = model.logits_and_predictions(chart.decoded(chart.start))
        best.success[:] = predictions != labels
        others = np.where(np.arange(model.classes) == labels[:, None], -np.inf, logits)
        order = others.argsort(axis=1)[:, ::-1]  # (N, classes), the most likely other class first
        for attempt in range(min(self.targets, model.classes - 1) or self.restarts):
            rows = np.flatnonzero(~best.success)
            if not len(rows):
                break
            goal = _Goal(labels[rows], order[rows, attempt] if self.targets else None)
            found = _ascend(forward, goal, rows, self.steps, generator(seed, "apgd", attempt))
            best.update(rows, found.codes, found.success, found.iterations, found.loss)
        return result_at(model, chart, labels, best.codes, best.iterations)


@dataclass(frozen=True)
class ThoroughAttack:
    """AutoPGD on both objectives, then random search, each on the images that withstood so far; an `Attack`.

    Parameters
    ----------
    steps : int
        Steps of each ascent.
    targets : int
        Number of target classes, see `AutoPGD`.
    queries : int
        Queries of the random search, see `RandomSearch`.
    """

    name: ClassVar[str] = "thorough"

    steps: int = 100
    targets: int = 9
    queries: int = 1000

    def __post_init__(self) -> None:
        check_fields(self)
        store_counts(self, steps=1, targets=0, queries=0)

    def find(self, model: Model, split: Split, space: Space, seed: int = 0) -> AttackResult:
        """Run the attacks, see `Attack.find`."""
        result = AutoPGD(self.steps).find(model, split, space, seed)
        attacks: list[Attack] = [RandomSearch(self.queries)]
        if self.targets and model.classes >= MIN_CLASSES_OF_RATIO:
            attacks.insert(0, AutoPGD(self.steps, self.targets))
        for attack in attacks:
            rows = np.flatnonzero(~result.success)
            if len(rows):
                other = attack.find(model, split.take(rows), space, seed)
                for name in ("images", "perturbations", "success", "iterations"):
                    getattr(result, name)[rows[other.success]] = getattr(other, name)[other.success]
        loss = cross_entropy(Tensor(model.logits(result.images)), split.labels).data
        return replace(result, loss=loss, restart_success=result.success[None])


@dataclass(frozen=True)
class _Goal:
    """The objective of each image: the cross-entropy or, with `targets` (n,), the targeted ratio of logits."""

    labels: Integers
    targets: Integers | None = None

    def of(self, logits: Floats) -> tuple[Floats, Floats]:
        """Return the values (n,) of logits (n, classes), and their gradients (n, classes)."""
        if self.targets is None:
            variable = Tensor(logits, requires_grad=True)
            losses = cross_entropy(variable, self.labels)
            return losses.data, input_gradient(losses, variable)
        rows, order = np.arange(len(logits)), logits.argsort(axis=1)
        first, third, fourth = order[:, -1], order[:, -3], order[:, -4]
        lead = logits[rows, self.labels] - logits[rows, self.targets]
        spread = logits[rows, first] - (logits[rows, third] + logits[rows, fourth]) / 2 + logits.dtype.type(TINY)
        ratios, gradients = -lead / spread, np.zeros_like(logits)
        for classes, weights in (
            (self.labels, -1 / spread), (self.targets, 1 / spread), (first, -ratios / spread),
            (third, ratios / spread / 2), (fourth, ratios / spread / 2),
        ):  # fmt: skip
            gradients[rows, classes] += weights
        return ratios, gradients

    def take(self, rows: Integers) -> _Goal:
        """Return the objective of some of the images."""
        return _Goal(self.labels[rows], None if self.targets is None else self.targets[rows])


class _Forward:
    """The decoder and the model, compiled if possible: predictions of codes, and gradients of objectives."""

    def __init__(self, model: Model, space: Space, chart: Chart) -> None:
        self.model, self.space, self.chart = model, space, chart
        self.compiled = chart.compiled(model) if len(chart.start) and can_compile(space, chart) else None

    def gradients(self, codes: Floats, rows: Integers, goal: _Goal) -> tuple[Integers, Floats, Floats]:
        """Return the predictions, the objective (n,) and its gradient with respect to the codes (n, ...)."""
        chart = self.chart.take(rows)
        if self.compiled:
            logits, predictions = self.model.logits_and_predictions(chart.decoded(codes))
            values, logit_gradients = goal.of(logits)
            groups, sources = self.compiled.groups[rows], self.compiled.sources[rows]
            gradients = self.compiled.program.input_gradient(codes, logit_gradients, groups, sources)
            return predictions, values, gradients.reshape(codes.shape)
        variable = Tensor(codes, requires_grad=True)
        images = chart.image_of(variable)
        outputs = self.model.forward(images)
        values, logit_gradients = goal.of(outputs.data)
        gradients = input_gradient(outputs, variable, logit_gradients)
        return self.model.predictions_of(images.data, outputs.data), values, gradients


def _checkpoints(steps: int) -> list[int]:
    """Return the numbers of the steps after which step sizes are reconsidered."""
    length, position, numbers = FIRST_CHECKPOINT, FIRST_CHECKPOINT, []
    while position <= 1:
        numbers.append(int(np.ceil(round(position * steps, 6))))  # 0.57 is 0.5700000000000001
        length = max(length - SHORTENING, SHORTEST)
        position += length
    return numbers


def _ascend(forward: _Forward, goal: _Goal, rows: Integers, steps: int, random: np.random.Generator) -> BestCodes:
    """Run one ascent for the images `rows`, n of them; the loss of a code is its objective."""
    space, chart, labels = forward.space, forward.chart.take(rows), goal.labels
    codes = projected(space, chart, chart.start + _random_boundary(space, random, chart.start.shape))
    best, best_gradient = BestCodes(codes, prefer_success=True), np.zeros_like(codes)
    previous, value = codes.copy(), np.full(len(rows), np.inf, np.float32)  # nothing rises at first
    step_size = np.full(len(rows), 2 * space.epsilon, np.float32)
    rising, reduced, checked_value = np.zeros(len(rows), np.int64), np.ones(len(rows), bool), best.loss.copy()
    checkpoints, last_checkpoint, active = _checkpoints(steps), 0, np.arange(len(rows))
    gradient = np.zeros_like(codes)
    for iteration in range(steps + 1):
        predictions, new_value, new_gradient = forward.gradients(codes[active], rows[active], goal.take(active))
        rising[active] += new_value > value[active]
        value[active], gradient[active] = new_value, new_gradient
        fooled = predictions != labels[active]
        improved = best.update(active, codes[active], fooled, np.full(len(active), iteration), new_value)
        best_gradient[improved] = gradient[improved]
        active = active[~fooled]
        if not len(active) or iteration == steps:
            break
        if iteration in checkpoints:
            length, last_checkpoint = iteration - last_checkpoint, iteration
            stuck = ~reduced & (checked_value >= best.loss)
            halve = active[(rising[active] < MIN_RISING * length) | stuck[active]]
            reduced[:] = False
            reduced[halve], checked_value[:], rising[:] = True, best.loss, 0
            step_size[halve] /= 2
            codes[halve], gradient[halve] = best.codes[halve], best_gradient[halve]
        part, current = chart.take(active), codes[active]
        direction = per_row(step_size[active], current) * space.norm.steepest(gradient[active])
        ahead = projected(space, part, current + direction)
        momentum = MOMENTUM if iteration else 0.0  # there is no last step at first
        moved = current + (1 - momentum) * (ahead - current) + momentum * (current - previous[active])
        previous[active] = current
        codes[active] = projected(space, part, moved.astype(current.dtype))
    return best


def _random_boundary(space: Space, random: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Draw perturbations of norm epsilon in random directions."""
    directions = random.uniform(-1, 1, shape) if space.norm is Norm.LINF else random.standard_normal(shape)
    return np.asarray(space.epsilon * directions / per_row(space.norm.of(directions), directions), np.float32)
