"""Attacks that need no gradient of the model they attack: examples made on another model, and random search."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from hlf_np.arrays import Booleans, Floats, Integers
from hlf_np.attacks.ascent import PGD
from hlf_np.attacks.attack import AttackResult, checked_chart
from hlf_np.attacks.objectives import margin
from hlf_np.autodiff import Tensor
from hlf_np.checks import check_count
from hlf_np.data.dataset import Codes, Split
from hlf_np.models import Model
from hlf_np.random import generator
from hlf_np.spaces import Space
from hlf_np.spaces.space import per_row


@dataclass(frozen=True)
class Transfer:
    """Attack another model and show what is found to this one, an `Attack`.

    source : the model that is attacked. The attack knows nothing of the other, so a low rate can mean robustness or
        merely that the two models err in different places. The paper's source is a held-out, normally trained model
        (N = 10,000).
    attack : on the source; each restart is shown.
    """

    name: ClassVar[str] = "transfer"

    source: Model
    attack: PGD = field(default_factory=PGD)

    def find(self, model: Model, split: Split, space: Space, seed: int = 0) -> AttackResult:
        """See `Attack.find`.

        `restart_success` counts every restart that fooled the model, `images` are of the first such restart (of the
        first restart, where none did).
        """
        attacked = split.checked(self.source.classes, self.source.image_shape)
        once = replace(self.attack, restarts=1)
        seeds = (int(generator(seed, "transfer", each).integers(2**31)) for each in range(self.attack.restarts))
        results = [once.find(self.source, attacked, space, each) for each in seeds]
        fooled = np.array([model.predict(result.images) != attacked.labels for result in results])  # (restarts, N)
        shown, each = fooled.argmax(axis=0), np.arange(len(attacked))
        images, perturbations, iterations = (
            np.stack([getattr(result, name) for result in results])[shown, each]
            for name in ("images", "perturbations", "iterations")
        )
        objective = self.attack.objective
        targets = objective.targets(model, attacked.images, attacked.labels)
        losses = objective.of(Tensor(model.logits(images)), targets).data
        return AttackResult(images, perturbations, np.asarray(fooled.any(axis=0)), iterations, losses, fooled)


def transfer(
    source: Model, target: Model, split: Split, space: Space, attack: PGD | None = None, seed: int = 0
) -> tuple[Integers, AttackResult]:
    """Attack `source` and see whether `target` is fooled, on images that both classify correctly; see `Transfer`.

    Returns
    -------
    rows : (M,) int64, the images of the split that both models classify correctly.
    result : of the target for these images.

    Raises
    ------
    UserError : for images or labels that do not fit the models or the space.

    Examples
    --------
    >>> import hlf_np as hlf
    >>> source, target = hlf.models.cnn(seed=0), hlf.models.cnn(seed=1)
    >>> rows, shown = transfer(source, target, hlf.data.load_fonts(0, 50).test, hlf.spaces.ImageBall(0.3))
    >>> len(rows) == len(shown.success) <= 50
    True
    """
    split = split.checked(source.classes, source.image_shape)
    correct = [model.predict(split.images) == split.labels for model in (source, target)]
    rows = np.flatnonzero(correct[0] & correct[1])
    return rows, Transfer(source, attack or PGD()).find(target, split.take(rows), space, seed)


@dataclass(frozen=True)
class RandomSearch:
    """`random_search` as an `Attack`; queries : of the model, for each image."""

    name: ClassVar[str] = "random"

    queries: int = 500

    def find(self, model: Model, split: Split, space: Space, seed: int = 0) -> AttackResult:
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
    """Adversarial examples by trial: what raises the margin is kept.

    Each query moves one block of neighbouring entries of every code to the border of the ball, all of them up or all of
    them down. The blocks are drawn anywhere and become smaller: at first they are the whole code, at the end a 256th of
    it. The search asks for logits only. So it is far weaker than a gradient attack, unless gradients mislead.

    Parameters
    ----------
    model, images, labels, space, codes : as for `pgd`, and the same errors.
    queries : of the model, for each image; one that is fooled is left alone.
    seed : of the blocks.

    Returns
    -------
    As for `pgd`, with one restart; `iterations` counts queries, `loss` is the margin.

    Source: the idea of square-shaped trials that shrink is Andriushchenko et al.'s, 2020.

    Examples
    --------
    >>> import hlf_np as hlf
    >>> model, test = hlf.models.cnn(), hlf.data.load_fonts(0, 20).test
    >>> result = random_search(model, test.images, test.labels, hlf.spaces.ImageBall(0.3), queries=20)
    >>> bool((result.loss > 0).all() == result.success.all())
    True
    """
    split = Split(images, labels, codes).checked(model.classes, model.image_shape)
    check_count("queries", queries, least=0)
    labels, chart = split.labels, checked_chart(space, split.images, split.labels, codes)
    random = generator(seed, "random search")

    def judged(codes: Floats, rows: Integers) -> tuple[Floats, Booleans]:
        logits = model.logits(np.clip(chart.take(rows).decoded(codes), 0, 1))
        return margin(Tensor(logits), labels[rows]).data, logits.argmax(axis=1) != labels[rows]

    best, iterations = chart.start.copy(), np.zeros(len(labels), np.int64)
    margins, success = judged(best, np.arange(len(labels)))
    for query in range(1, queries + 1):
        blocks = _blocks(random, best.shape, 0.5 ** (8 * (query - 1) / queries))
        moves = random.choice(np.array([-space.epsilon, space.epsilon], np.float32), len(labels))
        rows = np.flatnonzero(~success)
        if not len(rows):
            break
        corners = chart.start[rows] + per_row(moves[rows], best)
        tried = space.project(chart.take(rows), np.where(blocks[rows], corners, best[rows]))
        found, fooled = judged(tried, rows)
        better = fooled | (found > margins[rows])
        kept = rows[better]
        best[kept], margins[kept], iterations[kept] = tried[better], found[better], query
        success[rows] = fooled
    final = np.clip(chart.decoded(best), 0, 1)
    return AttackResult(final, best - chart.start, success, iterations, margins, success[None].copy())


def _blocks(random: np.random.Generator, shape: tuple[int, ...], share: float) -> Booleans:
    """For each row of an array of this shape, (N, ...), a block anywhere in it that is about this share of it."""
    count, *sizes = shape
    long = max(1, sum(size > 1 for size in sizes))
    blocks: Booleans = np.ones(shape, bool)
    for axis, size in enumerate(sizes):
        length = max(1, round(size * share ** (1 / long)))
        first = random.integers(0, size - length + 1, count)
        behind = np.arange(size) - first[:, None]  # (N, size)
        inside = (behind >= 0) & (behind < length)
        blocks &= inside.reshape(count, *[size if other == axis else 1 for other in range(len(sizes))])
    return blocks
