"""Attacks without gradients of the attacked model: transfer from another model, and random search."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from hlf_np.attacks.attack import AttackResult, checked_chart
from hlf_np.attacks.objectives import margin
from hlf_np.attacks.pgd import PGD
from hlf_np.autodiff import Tensor
from hlf_np.data.dataset import Split, check_split
from hlf_np.models import Model
from hlf_np.random import generator
from hlf_np.spaces import Space
from hlf_np.spaces.space import projected
from hlf_np.support.arrays import Booleans, Floats, Integers, per_row
from hlf_np.support.checks import check_fields, store_counts
from hlf_np.support.errors import UserError


@dataclass(frozen=True)
class Transfer:
    """Transfer attack: adversarial examples for one model, applied to another. An `Attack`.

    As in the paper, an example counts only if it fools its source, too. A low rate means either that the attacked model
    is robust or merely that the two models err in different places.

    Parameters
    ----------
    source : Model
        The model for which adversarial examples are computed. In the paper, a held-out model trained normally on
        10,000 images.
    attack : PGD
        The attack on the source; the examples of each restart are applied.

    Raises
    ------
    UserError
        If the attack is another one than PGD.
    """

    name: ClassVar[str] = "transfer"

    source: Model
    attack: PGD = field(default_factory=PGD)

    def __post_init__(self) -> None:
        check_fields(self)
        if not isinstance(self.attack, PGD):
            raise UserError(f"the examples of a transfer must come from PGD, not {self.attack!r}")

    def find(self, model: Model, split: Split, space: Space, seed: int = 0) -> AttackResult:
        """Run the attack, see `Attack.find`.

        `restart_success` tells which restarts fool both models; `images` come from the first of them, or from the first
        that fools the attacked model, or from the first.
        """
        attacked = check_split(split, self.source.classes, self.source.image_shape)
        once = replace(self.attack, restarts=1)
        seeds = (int(generator(seed, "transfer", i).integers(2**31)) for i in range(self.attack.restarts))
        results = [once.find(self.source, attacked, space, restart_seed) for restart_seed in seeds]
        fooled = np.array([model.predict(result.images) != attacked.labels for result in results])  # (restarts, N)
        both = fooled & np.array([result.success for result in results])
        restart, row = (2 * both + fooled).argmax(axis=0), np.arange(len(attacked))
        images, perturbations, iterations = (
            np.stack([getattr(result, name) for result in results])[restart, row]
            for name in ("images", "perturbations", "iterations")
        )
        objective = self.attack.objective
        targets = objective.targets(model, attacked.images, attacked.labels)
        losses = objective.of(Tensor(model.logits(images)), targets).data
        return AttackResult(images, perturbations, np.asarray(fooled.any(axis=0)), iterations, losses, both)


@dataclass(frozen=True)
class RandomSearch:
    """Random trials, each of which is kept if it raises the margin; an `Attack`.

    Each query sets a block of adjacent entries of every code to epsilon above, or to epsilon below, the start. Block
    positions are random; block sizes shrink from the whole code to a 256th of it. The search uses logits only and is
    therefore far weaker than a gradient attack, unless gradients are misleading. In the result, which has one restart,
    `iterations` counts queries and `loss` is the margin.

    Parameters
    ----------
    queries : int
        Number of model evaluations per image; an image that is misclassified is not changed further.

    Raises
    ------
    UserError
        If the number of queries is negative.

    References
    ----------
    Andriushchenko et al., 2020: the idea of square trials that shrink.

    Examples
    --------
    >>> import hlf_np as hlf
    >>> model, test = hlf.models.cnn(), hlf.data.load_fonts(0, 20).test
    >>> result = RandomSearch(queries=20).find(model, test, hlf.spaces.ImageBall(0.3))
    >>> bool((result.loss > 0).all() == result.success.all())
    True
    """

    name: ClassVar[str] = "random"

    queries: int = 500

    def __post_init__(self) -> None:
        check_fields(self)
        store_counts(self, queries=0)

    def find(self, model: Model, split: Split, space: Space, seed: int = 0) -> AttackResult:
        """Run the attack, see `Attack.find`."""
        split = check_split(split, model.classes, model.image_shape)
        labels, chart = split.labels, checked_chart(space, split.images, split.labels, split.codes)
        random = generator(seed, "random search")

        def evaluate(codes: Floats, rows: Integers) -> tuple[Floats, Booleans]:
            """Return margin and success of codes of the images `rows`."""
            logits, predictions = model.logits_and_predictions(chart.take(rows).decoded(codes))
            return margin(Tensor(logits), labels[rows]).data, predictions != labels[rows]

        best, iterations = chart.start.copy(), np.zeros(len(labels), np.int64)
        margins, success = evaluate(best, np.arange(len(labels)))
        for query in range(1, self.queries + 1):
            blocks = _blocks(random, best.shape, 0.5 ** (8 * (query - 1) / self.queries))
            offsets = random.choice(np.array([-space.epsilon, space.epsilon], np.float32), len(labels))
            rows = np.flatnonzero(~success)
            if not len(rows):
                break
            shifted = chart.start[rows] + per_row(offsets[rows], best)
            trials = projected(space, chart.take(rows), np.where(blocks[rows], shifted, best[rows]))
            trial_margins, fooled = evaluate(trials, rows)
            better = fooled | (trial_margins > margins[rows])
            improved = rows[better]
            best[improved], margins[improved], iterations[improved] = trials[better], trial_margins[better], query
            success[rows] = fooled
        return AttackResult(chart.decoded(best), best - chart.start, success, iterations, margins, success[None].copy())


def _blocks(random: np.random.Generator, shape: tuple[int, ...], share: float) -> Booleans:
    """Draw a mask of the given shape (N, ...): in each row a block at a random position, about `share` of its entries.

    The N blocks have the same size, with equal shares of each axis.
    """
    count, *sizes = shape
    long_axes = max(1, sum(size > 1 for size in sizes))
    blocks: Booleans = np.ones(shape, bool)
    for axis, size in enumerate(sizes):
        length = max(1, round(size * share ** (1 / long_axes)))
        first = random.integers(0, size - length + 1, count)
        offsets = np.arange(size) - first[:, None]  # (N, size)
        inside = (offsets >= 0) & (offsets < length)
        blocks &= inside.reshape(count, *[size if other == axis else 1 for other in range(len(sizes))])
    return blocks
