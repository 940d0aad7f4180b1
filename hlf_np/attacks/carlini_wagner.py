"""The attack of Carlini and Wagner (2017): the smallest perturbation, rather than the worst within a ball.

It minimises, with Adam,

    ||zeta||_2^2 + lambda max(f_y - max_{k != y} f_k, -kappa)

over the perturbation zeta of the code: be small, but let another class lead by kappa. The box of the space needs no
projection, because the code is parameterised as lower + (upper - lower) (tanh(w) + 1) / 2 with unconstrained w. The
original attack searches for the best lambda of each image; the paper reproduced here takes lambda = 1.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hlf_np.attacks.attack import AttackResult, checked_chart
from hlf_np.attacks.objectives import Objective, margin
from hlf_np.autodiff import Tensor
from hlf_np.data.dataset import Codes, Split
from hlf_np.models import Model
from hlf_np.operations import relu, tanh
from hlf_np.optim import Adam, AdamConfig
from hlf_np.spaces import Chart, Norm, Space
from hlf_np.support.arrays import IMAGES_PER_BATCH, Booleans, Floats, Integers, batches
from hlf_np.support.checks import check_count, check_positive
from hlf_np.support.errors import UserError

# |tanh(w)| of codes on the boundary of the box; closer to 1, tanh is so flat that w could hardly move.
MAX_INITIAL_TANH = 0.999


@dataclass(frozen=True)
class CarliniWagner:
    """The attack of Carlini and Wagner, an `Attack` without randomness.

    The first three defaults are the paper's.

    Parameters
    ----------
    iterations : int
        Number of Adam steps.
    confidence : float
        kappa, the margin by which another class should lead, in logits.
    weight : float
        lambda, the weight of the margin relative to the squared size.
    learning_rate : float
        Learning rate of Adam, in units of w. With much smaller ones, 120 steps do not lead far from the boundary.

    Raises
    ------
    UserError
        If a setting is out of range.
    """

    name: ClassVar[str] = "cw"
    random: ClassVar[bool] = False

    iterations: int = 120
    confidence: float = 1.5
    weight: float = 1.0
    learning_rate: float = 0.05

    def __post_init__(self) -> None:
        check_count("iterations", self.iterations, minimum=0)
        for name in ("weight", "learning_rate"):
            check_positive(name, getattr(self, name))
        if not 0 <= self.confidence < math.inf:
            raise UserError(f"confidence must be a number of at least 0, not {self.confidence!r}")

    def find(self, model: Model, split: Split, space: Space, seed: int = 0) -> AttackResult:
        """Run the attack, see `Attack.find` and `carlini_wagner`."""
        split = split.checked(model.classes, model.image_shape)
        labels, chart = split.labels, checked_chart(space, split.images, split.labels, split.codes)
        best, iterations = chart.start.copy(), np.zeros(len(labels), np.int64)
        for rows in batches(len(labels), IMAGES_PER_BATCH):
            smallest = _minimise(model, chart.take(rows), labels[rows], space, self)
            best[rows], iterations[rows] = smallest.codes, smallest.iterations
        best = space.project(chart, best)  # changes unsuccessful codes only
        final = np.clip(chart.decoded(best), 0, 1)
        logits = model.logits(final)
        success = logits.argmax(axis=1) != labels
        losses = Objective.CROSS_ENTROPY.of(Tensor(logits), labels).data
        return AttackResult(final, best - chart.start, success, iterations, losses, success[None])


class _SmallestCodes:
    """The best code found so far for each image: the successful one of least L2 norm, else that of largest margin."""

    def __init__(self, codes: Floats) -> None:
        self.codes = codes.copy()
        self.success: Booleans = np.zeros(len(codes), bool)
        self.size = np.full(len(codes), np.inf)
        self.margin = np.full(len(codes), -np.inf)
        self.iterations = np.zeros(len(codes), np.int64)

    def update(self, codes: Floats, size: Floats, margins: Floats, success: Booleans, iteration: int) -> None:
        """Keep those of the given codes (N, ...) that are better."""
        larger_margin = ~self.success & ~success & (margins > self.margin)
        better = larger_margin | (success & (~self.success | (size < self.size)))
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
    """Search for small adversarial perturbations by the attack of Carlini and Wagner.

    Only label changes within epsilon count as success, and the final codes lie within epsilon. The paper's regular
    attack takes place in `ImageBall(1.5, "l2")`, its attacks on manifolds with `epsilon=0.3, norm="l2"`.

    Parameters
    ----------
    model : Model
        The classifier, attacked in evaluation mode.
    images : ndarray of floats, shape (N, H, W, C)
        Images in [0, 1].
    labels : ndarray of integers, shape (N,)
        Their classes.
    space : Space
        The allowed perturbations.
    codes : Codes, optional
        Codes of the images on the true manifold, for spaces that need them.
    settings : CarliniWagner, optional
        The settings of the attack; the paper's by default.

    Returns
    -------
    AttackResult
        With one restart; `loss` is the cross-entropy.

    Raises
    ------
    UserError
        If images or labels are invalid.

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


def _minimise(model: Model, chart: Chart, labels: Integers, space: Space, settings: CarliniWagner) -> _SmallestCodes:
    """Attack one batch."""
    smallest = _SmallestCodes(chart.start)

    def margins_of(codes: Tensor, iteration: int) -> Tensor:
        """Return the margins (N,) of codes, and keep the codes that are better."""
        margins = margin(model.forward(chart.decode(codes)), labels)
        zeta = codes.data - chart.start
        success = (margins.data > 0) & (space.norm.of(zeta) <= space.radius)
        smallest.update(codes.data, Norm.L2.of(zeta), margins.data, success, iteration)
        return margins

    margins_of(Tensor(chart.start), 0)  # the start itself: on the boundary of the box it has no finite w
    half, middle = (chart.upper - chart.lower) / 2, (chart.upper + chart.lower) / 2
    position = (chart.start - middle) / np.maximum(half, np.finfo(np.float32).tiny)  # lower = upper is allowed
    w = Tensor(np.arctanh(np.clip(position, -MAX_INITIAL_TANH, MAX_INITIAL_TANH)), requires_grad=True)
    optimiser = Adam([w], AdamConfig(settings.learning_rate, betas=(0.9, 0.999), weight_decay=0.0))
    for iteration in range(settings.iterations + 1):
        codes = half * tanh(w) + middle
        margins = margins_of(codes, iteration)
        if iteration < settings.iterations:
            ((codes - chart.start) ** 2).backward()
            hinge = relu(settings.confidence - margins)  # max(-margin, -kappa) plus the constant kappa
            hinge.backward(np.full(len(labels), settings.weight, np.float32))
            optimiser.step(settings.learning_rate)
    return smallest
