"""Networks whose layers do not fit together: every first use must refuse them with a `UserError`.

Oddities are networks that might be accepted: they must be refused, or all ways of computing them must agree.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from comparisons import Difference, drawn_images, location
from differential import Outcome, check
from networks import Case, enliven

from hlf_np.attacks import pgd
from hlf_np.data.dataset import Split
from hlf_np.engine import Engine
from hlf_np.layers import (
    BatchNorm,
    Convolution,
    Flatten,
    Layer,
    Linear,
    MaxPool,
    ReLU,
    Residual,
    Sequential,
    TransposedConvolution,
    Unflatten,
)
from hlf_np.models import Model
from hlf_np.spaces import ImageBall
from hlf_np.support.errors import UserError
from hlf_np.training import TrainingConfig, train


@dataclass(frozen=True)
class Sizes:
    """Sizes of a network of convolution, batch norm, ReLU, flattening, linear layer; a misfit is wrong by `off` > 0."""

    side: int
    channels: int
    width: int
    classes: int
    off: int

    @property
    def features(self) -> int:
        return self.width * self.side**2


def misfit(seed: int) -> Case:
    """Draw a network with one mistake."""
    random = np.random.default_rng([2, seed])
    low, high = (4, 1, 2, 2, 1), (12, 5, 17, 11, 4)
    n = Sizes(*(int(random.integers(least, most)) for least, most in zip(low, high, strict=True)))

    def linear(inputs: int, outputs: int = n.classes) -> Linear:
        return Linear(inputs, outputs, random)

    def same(channels: int, width: int) -> Convolution:
        return Convolution(channels, width, random, kernel=3, stride=1, padding=1)

    first, rows = same(n.channels, n.width), n.side**2 * n.channels
    rest = (ReLU(), Flatten(), linear(n.features))
    kinds: dict[str, tuple[Layer, ...]] = {
        "a wide linear layer": (first, ReLU(), Flatten(), linear(n.features + n.off)),
        "a narrow linear layer": (first, ReLU(), Flatten(), linear(max(1, n.features - n.off))),
        "linear layers of other widths": (Flatten(), linear(rows, n.width), ReLU(), linear(n.width + n.off)),
        "adjacent linear layers of other widths": (Flatten(), linear(rows, n.width), linear(n.width + n.off)),
        "more channels than the images": (same(n.channels + n.off, n.width), *rest),
        "other channels between convolutions": (first, ReLU(), same(n.width + n.off, n.width), *rest),
        "a larger batch norm": (first, BatchNorm(n.width + n.off), *rest),
        "a batch norm of one channel": (first, BatchNorm(1), *rest),
        "a batch norm of the images' size": (first, BatchNorm(n.side + n.width), *rest),
        "a batch norm of other rows": (Flatten(), linear(rows, n.width), BatchNorm(n.width + n.off), linear(n.width)),
        "a first batch norm of another size": (BatchNorm(n.channels + n.off), first, *rest),
        "fewer outputs than classes": (first, ReLU(), Flatten(), linear(n.features, n.classes - 1)),
        "no flattening": (first, ReLU(), linear(n.width)),
        "no flattening, as wide as all pixels": (first, ReLU(), linear(n.features)),
        "no flattening at the start": (linear(rows, n.width), ReLU(), linear(n.width)),
        "images instead of logits": (first, ReLU(), same(n.width, n.classes)),
        "a kernel larger than the image": (
            Convolution(n.channels, n.width, random, n.side + n.off, stride=1, padding=0),
            Flatten(),
            linear(n.width),
        ),
        "a pool larger than the image": (first, MaxPool(n.side + n.off), Flatten(), linear(n.width)),
        "a transposed convolution to nothing": (
            TransposedConvolution(n.channels, n.width, random, kernel=1, stride=1, padding=n.side),
            Flatten(),
            linear(n.width),
        ),
        "a convolution of rows": (Flatten(), same(rows, n.width), *rest),
        "a pool of rows": (Flatten(), MaxPool(1), linear(rows)),
        "a body of other channels": (first, Residual(Sequential(same(n.width, n.width + n.off))), *rest),
        "a body of another size": (
            first,
            Residual(Sequential(Convolution(n.width, n.width, random, 3, 2, 1))),
            Flatten(),
            linear(n.width * ((n.side + 1) // 2) ** 2),
        ),
        "a shortcut of other channels": (
            first,
            Residual(Sequential(same(n.width, n.width)), Sequential(same(n.width, n.width + n.off))),
            *rest,
        ),
        "rows that do not unflatten": (
            Flatten(),
            linear(rows, 6 * n.width + 1),
            Unflatten(2, 3),
            Flatten(),
            linear(6 * n.width),
        ),
        "images that are unflattened": (first, Unflatten(n.side, n.side), *rest),
        "one class": (first, ReLU(), Flatten(), linear(n.features, 1)),
    }
    kind = list(kinds)[seed % len(kinds)]  # each in turn
    network = Sequential(*kinds[kind])
    enliven(network, random)
    classes = 1 if kind == "one class" else n.classes
    return Case(network, classes, (n.side, n.side, n.channels), f"misfit({seed}), {kind}")


def oddity(seed: int) -> Case:
    """Draw a network that broadcasting, or a missing check, might accept."""
    random = np.random.default_rng([3, seed])
    side, channels, width, classes = (int(random.integers(*bounds)) for bounds in ((3, 10), (1, 5), (2, 17), (2, 9)))

    def same(channels: int, width: int) -> Convolution:
        return Convolution(channels, width, random, kernel=3, stride=1, padding=1)

    first, rows = same(channels, width), width * side**2
    to_pixel = Convolution(width, width, random, kernel=side, stride=1, padding=0)
    rest = (Flatten(), Linear(rows, classes, random))
    kinds: dict[str, tuple[Layer, ...]] = {
        "more outputs than classes": (first, Flatten(), Linear(rows, classes + 2, random)),
        "a body of one channel": (first, Residual(same(width, 1)), *rest),
        "a body of one pixel": (first, Residual(to_pixel), *rest),
        "a shortcut of one pixel": (first, Residual(Sequential(), to_pixel), *rest),
        "flattened twice": (first, Flatten(), *rest),
        "pixels of one row": (first, to_pixel, Linear(width, classes, random)),
        "rows that are pixels at the end": (first, *rest, Unflatten(1, 1)),
        "no layer": (Flatten(),),
        "nothing": (),
    }
    kind = list(kinds)[seed % len(kinds)]
    network = Sequential(*kinds[kind])
    enliven(network, random)
    classes = channels * side**2 if kind == "no layer" else classes
    return Case(network, classes, (side, side, channels), f"oddity({seed}), {kind}")


def check_oddity(case: Case, seed: int) -> Outcome:
    """Fail unless all uses refuse the network, or none does and all ways of computing it agree; see `check`."""
    try:
        return check_misfit(case)
    except Difference as difference:
        if "gives numbers" not in difference.kind:
            raise
    return check(case, seed)


def check_misfit(case: Case) -> Outcome:
    """Fail unless every first use of a new model, or `Model` itself, refuses the network.

    Raises
    ------
    Difference
        For the first use that does not.
    """
    images, labels = drawn_images(case, np.random.default_rng(0), 3), np.arange(3) % case.classes

    def learn(model: Model, engine: Engine) -> None:
        train(model, Split(images, labels), config=TrainingConfig(epochs=1, batch_size=3, engine=engine))

    uses: dict[str, Callable[[Model], object]] = {"logits": lambda model: model.logits(images)}
    for engine in Engine:
        uses[f"an attack by {engine}"] = lambda model, engine=engine: pgd(
            model, images, labels, ImageBall(), steps=1, engine=engine
        )
        uses[f"training by {engine}"] = lambda model, engine=engine: learn(model, engine)
    for name, use in uses.items():
        try:
            use(Model(copy.deepcopy(case.network), case.classes, case.image_shape))
        except UserError:
            continue
        except Exception as error:
            what = f"{name} ends in {type(error).__name__}: {str(error)[:200]} at {location(error)}"
            raise Difference(f"misfit: {name} ends in {type(error).__name__}", case, what) from error
        raise Difference(f"misfit: {name} gives numbers", case, f"{name} gives numbers")
    return Outcome.REFUSED
