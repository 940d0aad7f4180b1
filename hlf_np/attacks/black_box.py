"""Attacks without gradients of the attacked model: transfer from another model, and random search."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from hlf_np.attacks.attack import AttackResult, checked_chart
from hlf_np.attacks.objectives import margin
from hlf_np.attacks.pgd import PGD
from hlf_np.autodiff import Tensor
from hlf_np.data.dataset import Codes, Split
from hlf_np.models import Model
from hlf_np.random import generator
from hlf_np.spaces import Space
from hlf_np.spaces.space import per_row
from hlf_np.support.arrays import Booleans, Floats, Integers
from hlf_np.support.checks import check_count


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
    """

    name: ClassVar[str] = "transfer"

    source: Model
    attack: PGD = field(default_factory=PGD)

    def find(self, model: Model, split: Split, space: Space, seed: int = 0) -> AttackResult:
        """Run the attack, see `Attack.find`.

        `restart_success` tells which restarts fool both models; `images` come from the first of them, or from the first
        that fools the attacked model, or from the first.
        """
        attacked = split.checked(self.source.classes, self.source.image_shape)
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


def transfer(
    source: Model, target: Model, split: Split, space: Space, attack: PGD | None = None, seed: int = 0
) -> tuple[Integers, AttackResult]:
    """Apply adversarial examples for one model to another, on images that both classify correctly; see `Transfer`.

    Parameters
    ----------
    source : Model
        The model for which adversarial examples are computed.
    target : Model
        The model to which they are applied.
    split : Split
        Images, labels and, for spaces that need them, codes.
    space : Space
        The allowed perturbations.
    attack : PGD, optional
        The attack on the source; the paper's by default.
    seed : int
        Seed of the random starts.

    Returns
    -------
    rows : ndarray of int64, shape (M,)
        Indices of the images that both models classify correctly.
    result : AttackResult
        The result for the target on these images.

    Raises
    ------
    UserError
        If images or labels do not fit the models or the space.

    Examples
    --------
    >>> import hlf_np as hlf
    >>> source, target = hlf.models.cnn(seed=0), hlf.models.cnn(seed=1)
    >>> rows, result = transfer(source, target, hlf.data.load_fonts(0, 50).test, hlf.spaces.ImageBall(0.3))
    >>> len(rows) == len(result.success) <= 50
    True
    """
    split = split.checked(source.classes, source.image_shape)
    correct = [model.predict(split.images) == split.labels for model in (source, target)]
    rows = np.flatnonzero(correct[0] & correct[1])
    return rows, Transfer(source, attack or PGD()).find(target, split.take(rows), space, seed)


@dataclass(frozen=True)
class RandomSearch:
    """`random_search` as an `Attack`.

    Parameters
    ----------
    queries : int
        Number of model evaluations per image.
    """

    name: ClassVar[str] = "random"

    queries: int = 500

    def find(self, model: Model, split: Split, space: Space, seed: int = 0) -> AttackResult:
        """Run the attack, see `Attack.find` and `random_search`."""
        return random_search(model, split.images, split.labels, space, split.codes, self.queries, seed)


def random_search(
    model: Model,
    images: Floats,
    labels: Integers,
    space: Space,
    codes: Codes | None = None,
    queries: int = 500,
    seed: int = 0,
) -> AttackResult:
    """Search for adversarial examples by random trials, keeping each that raises the margin.

    Each query sets a block of adjacent entries of every code to epsilon above, or to epsilon below, the start. Block
    positions are random; block sizes shrink from the whole code to a 256th of it. The search uses logits only and is
    therefore far weaker than a gradient attack, unless gradients are misleading.

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
    queries : int
        Number of model evaluations per image; an image that is misclassified is not changed further.
    seed : int
        Seed of the blocks.

    Returns
    -------
    AttackResult
        With one restart; `iterations` counts queries, `loss` is the margin.

    Raises
    ------
    UserError
        If images, labels or settings are invalid.

    References
    ----------
    Andriushchenko et al., 2020: the idea of square trials that shrink.

    Examples
    --------
    >>> import hlf_np as hlf
    >>> model, test = hlf.models.cnn(), hlf.data.load_fonts(0, 20).test
    >>> result = random_search(model, test.images, test.labels, hlf.spaces.ImageBall(0.3), queries=20)
    >>> bool((result.loss > 0).all() == result.success.all())
    True
    """
    split = Split(images, labels, codes).checked(model.classes, model.image_shape)
    check_count("queries", queries, minimum=0)
    labels, chart = split.labels, checked_chart(space, split.images, split.labels, codes)
    random = generator(seed, "random search")

    def evaluate(codes: Floats, rows: Integers) -> tuple[Floats, Booleans]:
        """Return margin and success of codes of the images `rows`."""
        logits = model.logits(np.clip(chart.take(rows).decoded(codes), 0, 1))
        return margin(Tensor(logits), labels[rows]).data, logits.argmax(axis=1) != labels[rows]

    best, iterations = chart.start.copy(), np.zeros(len(labels), np.int64)
    margins, success = evaluate(best, np.arange(len(labels)))
    for query in range(1, queries + 1):
        blocks = _blocks(random, best.shape, 0.5 ** (8 * (query - 1) / queries))
        offsets = random.choice(np.array([-space.epsilon, space.epsilon], np.float32), len(labels))
        rows = np.flatnonzero(~success)
        if not len(rows):
            break
        shifted = chart.start[rows] + per_row(offsets[rows], best)
        trials = space.project(chart.take(rows), np.where(blocks[rows], shifted, best[rows]))
        trial_margins, fooled = evaluate(trials, rows)
        better = fooled | (trial_margins > margins[rows])
        improved = rows[better]
        best[improved], margins[improved], iterations[improved] = trials[better], trial_margins[better], query
        success[rows] = fooled
    final = np.clip(chart.decoded(best), 0, 1)
    return AttackResult(final, best - chart.start, success, iterations, margins, success[None].copy())


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
