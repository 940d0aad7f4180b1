"""The attack of Carlini and Wagner (2017): the smallest perturbation, rather than the worst within a ball.

It minimises, with Adam,

    ||zeta||_2 + lambda max(f_y - max(0, max_{k != y} f_k), -kappa)

over the perturbation zeta of the code: be small, but let another class lead by kappa. The box of the space needs no
projection, because the code is parameterised as lower + (upper - lower) (tanh(w) + 1) / 2 with unconstrained w.

This is the attack as the released code of the paper reproduced here has it. The original one squares the norm, searches
for the best lambda of each image, and does not compare f_y with 0, to which that code sets the label's own logit before
it takes the maximum.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hlf_np.attacks.attack import AttackResult, checked_chart, result_at
from hlf_np.attacks.objectives import margin
from hlf_np.attacks.pgd import Start
from hlf_np.autodiff import Tensor
from hlf_np.data.dataset import Split, check_split
from hlf_np.models import Model
from hlf_np.operations import relu, reshape, tanh
from hlf_np.optim import Adam, AdamConfig
from hlf_np.random import generator
from hlf_np.spaces import Chart, Norm, Space
from hlf_np.spaces.space import random_start
from hlf_np.support.arrays import IMAGES_PER_BATCH, Booleans, Floats, Integers, batches
from hlf_np.support.checks import check_choice, check_fields, check_positive, check_range, redefines, store_counts
from hlf_np.support.errors import UserError

# |tanh(w)| of codes on the boundary of the box; closer to 1, tanh is so flat that w could hardly move.
MAX_INITIAL_TANH = 0.999
TINY = 1e-12  # added to squared norms, as the norm has no gradient at 0


@dataclass(frozen=True)
class CarliniWagner:
    """The attack of Carlini and Wagner, an `Attack`. The defaults are the paper's, but bounded by epsilon.

    The paper's regular attack takes place in `ImageBall(1.5, "l2")`, its attacks on manifolds with `epsilon=0.3,
    norm="l2"`, both with `bounded=False`. The result has one restart; its `loss` is the cross-entropy.

    Parameters
    ----------
    iterations : int
        Number of Adam steps.
    confidence : float
        kappa, the margin by which another class should lead, in logits. (The text of the paper says 1.5, its code 3.)
    weight : float
        lambda, the weight of the margin relative to the size.
    learning_rate : float
        Learning rate of Adam, in units of w.
    start : {"random", "image"}
        Where the search starts: at a random perturbation within epsilon, or at the image.
    bounded : bool
        Whether only label changes within epsilon count as success. If not, as in the paper, epsilon merely limits the
        random start, and perturbations may be of any size.

    Raises
    ------
    UserError
        If a setting is out of range.

    Examples
    --------
    >>> import hlf_np as hlf
    >>> model, test = hlf.models.cnn(), hlf.data.load_fonts(0, 5).test
    >>> space = hlf.spaces.ImageBall(1.5, "l2")
    >>> result = CarliniWagner(iterations=3).find(model, test, space)
    >>> bool((space.norm.of(result.perturbations) <= 1.5).all())
    True
    """

    name: ClassVar[str] = "cw"

    iterations: int = 120
    confidence: float = 3.0
    weight: float = 1.0
    learning_rate: float = 0.005
    start: Start = Start.RANDOM
    bounded: bool = True

    def __post_init__(self) -> None:
        check_fields(self)
        store_counts(self, iterations=0)
        for name in ("weight", "learning_rate"):
            check_positive(name, getattr(self, name))
        object.__setattr__(self, "start", check_choice("start", self.start, Start))
        check_range("confidence", self.confidence)

    def find(self, model: Model, split: Split, space: Space, seed: int = 0) -> AttackResult:
        """Run the attack, see `Attack.find`."""
        split = check_split(split, model.classes, model.image_shape)
        labels, chart = split.labels, checked_chart(space, split.images, split.labels, split.codes)
        if not (np.isfinite(chart.lower).all() and np.isfinite(chart.upper).all()):
            raise UserError(f"{self.name} needs a space whose box is finite, unlike that of {type(space).__name__}")
        if redefines(space, Space, "project"):
            raise UserError(f"{self.name} does not use `project`, which {type(space).__name__} redefines: use pgd")
        best, iterations = chart.start.copy(), np.zeros(len(labels), np.int64)
        starts = chart.start
        if self.start is Start.RANDOM:
            starts = random_start(space, chart, generator(seed, "attack"))
        for rows in batches(len(labels), IMAGES_PER_BATCH):
            smallest = _minimise(model, chart.take(rows), starts[rows], labels[rows], space, self)
            best[rows], iterations[rows] = smallest.codes, smallest.iterations
            if self.bounded:  # successful codes already are within epsilon
                failed = rows[~smallest.success]
                best[failed] = space.project(chart.take(failed), best[failed])
        return result_at(model, chart, labels, best, iterations)


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


def _minimise(
    model: Model, chart: Chart, start: Floats, labels: Integers, space: Space, settings: CarliniWagner
) -> _SmallestCodes:
    """Attack one batch, from the codes `start` (N, ...)."""
    smallest = _SmallestCodes(chart.start)

    def margins_of(codes: Tensor, iteration: int) -> Tensor:
        """Return max(0, max_{k != y} f_k) - f_y for codes, shape (N,), and keep the codes that are better."""
        images = chart.image_of(codes)
        logits = model.forward(images)
        margins, zeta = margin(logits, labels), codes.data - chart.start
        success = model.predictions_of(images.data, logits.data) != labels
        if settings.bounded:
            success &= space.norm.of(zeta) <= space.radius
        smallest.update(codes.data, Norm.L2.of(zeta), margins.data, success, iteration)
        label_logits = (logits * (np.arange(model.classes) == labels[:, None]).astype(np.float32)).sum(axis=1)
        return margins + relu(-label_logits - margins)

    margins_of(Tensor(chart.start), 0)  # the image itself: on the boundary of the box it has no finite w
    half, middle = (chart.upper - chart.lower) / 2, (chart.upper + chart.lower) / 2
    position = (start - middle) / np.maximum(half, np.finfo(np.float32).tiny)  # lower = upper is allowed
    w = Tensor(np.arctanh(np.clip(position, -MAX_INITIAL_TANH, MAX_INITIAL_TANH)), requires_grad=True)
    optimiser = Adam([w], AdamConfig(settings.learning_rate, betas=(0.9, 0.999), weight_decay=0.0))
    for iteration in range(settings.iterations + 1):
        codes = half * tanh(w) + middle
        margins = margins_of(codes, iteration)
        if iteration < settings.iterations:
            norms = (reshape((codes - chart.start) ** 2, (len(labels), -1)).sum(axis=1) + TINY) ** 0.5
            hinge = relu(settings.confidence - margins)  # max(-margin, -kappa) plus the constant kappa
            (norms + settings.weight * hinge).backward()
            optimiser.step(settings.learning_rate)
    return smallest
