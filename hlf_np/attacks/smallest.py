"""The attack of Carlini and Wagner (2017): the smallest perturbation, rather than the worst within a ball.

It minimises, with Adam,

    ||zeta||_2^2 + lambda max(f_y - max_{k != y} f_k, -kappa)

over the perturbation zeta of the code: be small, but let another class lead by kappa. The box of the space
needs no projection, because the code is written as lower + (upper - lower) (tanh(w) + 1) / 2 and w is
free. The original searches for the best lambda of each image; the paper reproduced here takes lambda = 1.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hlf_np.arrays import Booleans, Floats, Integers, batches
from hlf_np.attacks.ascent import IMAGES_PER_BATCH
from hlf_np.attacks.attack import AttackResult, checked_chart
from hlf_np.attacks.objectives import Objective, margin
from hlf_np.autodiff import Tensor
from hlf_np.checks import check_count, check_positive
from hlf_np.data.dataset import Codes, Split
from hlf_np.errors import UserError
from hlf_np.models import Model
from hlf_np.operations import relu, tanh
from hlf_np.optim import Adam, AdamConfig
from hlf_np.spaces import Chart, Norm, Space

# tanh(w) of a code at the border of the box: nearer to 1 and w could hardly move, as tanh is flat there.
_BORDER = 0.999


@dataclass(frozen=True)
class CarliniWagner:
    """The attack with its settings, an `Attack`; the first three defaults are the paper's. Nothing is random.

    iterations : steps of Adam.
    confidence : kappa, by how much the other class is to lead.
    weight : lambda, of the margin against the size.
    learning_rate : of Adam, in the units of w; smaller ones do not get far in 120 steps from the border.
    """

    name: ClassVar[str] = "cw"
    random: ClassVar[bool] = False

    iterations: int = 120
    confidence: float = 1.5
    weight: float = 1.0
    learning_rate: float = 0.05

    def __post_init__(self) -> None:
        check_count("iterations", self.iterations, least=0)
        for name in ("weight", "learning_rate"):
            check_positive(name, getattr(self, name))
        if not 0 <= self.confidence < math.inf:
            raise UserError(f"confidence must be a number of at least 0, not {self.confidence!r}")

    def find(self, model: Model, split: Split, space: Space, seed: int = 0) -> AttackResult:
        """See `Attack.find` and `carlini_wagner`."""
        split = split.checked(model.classes, model.image_shape)
        labels, chart = split.labels, checked_chart(space, split.images, split.labels, split.codes)
        best, iterations = chart.start.copy(), np.zeros(len(labels), np.int64)
        for rows in batches(len(labels), IMAGES_PER_BATCH):
            found = _minimise(model, chart.take(rows), labels[rows], space, self)
            best[rows], iterations[rows] = found.codes, found.iterations
        best = space.project(chart, best)  # moves failures only
        final = np.clip(chart.decoded(best), 0, 1)
        logits = model.logits(final)
        success = logits.argmax(axis=1) != labels
        losses = Objective.CROSS_ENTROPY.of(Tensor(logits), labels).data
        return AttackResult(final, best - chart.start, success, iterations, losses, success[None])


class _Smallest:
    """The best code so far of each image: the smallest that succeeds, until then the one of largest margin."""

    def __init__(self, codes: Floats) -> None:
        self.codes = codes.copy()
        self.success: Booleans = np.zeros(len(codes), bool)
        self.size = np.full(len(codes), np.inf)
        self.margin = np.full(len(codes), -np.inf)
        self.iterations = np.zeros(len(codes), np.int64)

    def offer(self, codes: Floats, size: Floats, margins: Floats, success: Booleans, iteration: int) -> None:
        further = ~self.success & ~success & (margins > self.margin)
        better = further | (success & (~self.success | (size < self.size)))
        self.codes[better], self.size[better], self.margin[better] = codes[better], size[better], margins[better]
        self.iterations[better] = iteration
        self.success |= success


def carlini_wagner(
    model: Model,
    images: Floats,
    labels: Integers,
    space: Space,
    codes: Codes | None = None,
    settings: CarliniWagner | None = None,
) -> AttackResult:
    """Small adversarial perturbations of the code, by the attack of Carlini and Wagner.

    The space gives the codes and their box. Its ball is the budget: a label that changes only beyond
    epsilon is no success, and what is returned lies within. Take `ImageBall(1.5, "l2")` for the paper's
    regular attack, or a manifold with `epsilon=0.3, norm="l2"`.

    Parameters
    ----------
    model, images, labels, space, codes : as for `pgd`, and the same errors.
    settings : the paper's, if not given.

    Returns
    -------
    As for `pgd`, with one restart; `loss` is the cross-entropy.

    Examples
    --------
    >>> import hlf_np as hlf
    >>> model, test = hlf.models.cnn(), hlf.data.load_fonts(0, 5).test
    >>> space = hlf.spaces.ImageBall(1.5, "l2")
    >>> result = carlini_wagner(model, test.images, test.labels, space, settings=CarliniWagner(iterations=3))
    >>> bool((space.norm.of(result.perturbations) <= 1.5).all())
    True
    """
    return (settings or CarliniWagner()).find(model, Split(images, labels, codes), space)


def _minimise(model: Model, chart: Chart, labels: Integers, space: Space, settings: CarliniWagner) -> _Smallest:
    """The attack on one batch."""
    smallest = _Smallest(chart.start)

    def margins_of(codes: Tensor, iteration: int) -> Tensor:
        margins = margin(model.forward(chart.decode(codes)), labels)
        zeta = codes.data - chart.start
        success = (margins.data > 0) & (space.norm.of(zeta) <= space.radius)
        smallest.offer(codes.data, Norm.L2.of(zeta), margins.data, success, iteration)
        return margins

    margins_of(Tensor(chart.start), 0)  # the image itself: at the border of the box no w is its own
    half, middle = (chart.upper - chart.lower) / 2, (chart.upper + chart.lower) / 2
    position = (chart.start - middle) / np.maximum(half, np.finfo(np.float32).tiny)  # a box may be flat in places
    free = Tensor(np.arctanh(np.clip(position, -_BORDER, _BORDER)), requires_grad=True)
    optimiser = Adam([free], AdamConfig(settings.learning_rate, betas=(0.9, 0.999), weight_decay=0.0))
    for iteration in range(settings.iterations + 1):
        codes = half * tanh(free) + middle
        margins = margins_of(codes, iteration)
        if iteration < settings.iterations:
            ((codes - chart.start) ** 2).backward()
            hinge = relu(settings.confidence - margins)  # max(-margin, -kappa) and a constant
            hinge.backward(np.full(len(labels), settings.weight, np.float32))
            optimiser.step(settings.learning_rate)
    return smallest
