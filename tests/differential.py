"""Differential testing: one network computed by programs, autodiff, in double precision, and by PyTorch.

The reference is the autodiff in double precision, which PyTorch must confirm. Programs and autodiff in single precision
differ from it by rounding alone. The effect of rounding depends on the network: a pre-activation near zero, or two
nearly equal pixels in a pooling window, may change a gradient. So the *autodiff's own error* in single precision sets
the scale, and a program may be wrong by several times as much.
"""

from __future__ import annotations

import copy
import importlib.util
import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum

import numpy as np
from comparisons import ERROR_FACTOR, Difference, distance, doubled, drawn_images, location, model_of
from networks import Case
from steps import gradients, spaces

from hlf_np.attacks import pgd
from hlf_np.autodiff import Tensor
from hlf_np.data.dataset import Split
from hlf_np.engine import Engine
from hlf_np.models import Model
from hlf_np.operations import cross_entropy
from hlf_np.optim import Adam, AdamConfig
from hlf_np.random import generator
from hlf_np.spaces import ImageBall
from hlf_np.support.errors import UserError
from hlf_np.training import TrainingConfig, train

HAS_TORCH = importlib.util.find_spec("torch") is not None
# Relative to the largest logit. Each of about ten layers adds an error of a few 6e-8, and a sum may cancel to a
# hundredth of its terms: 1e-4. Wrong weights or pixels give 1e-2 and more.
LOGITS_TOLERANCE = 2e-4
# Relative to the loss, and to the distance that a parameter has moved. Adam with an epsilon above nearly all gradients
# is gradient descent with momentum, which does not amplify errors; its usual first steps, nearly the signs of the
# gradients, would.
LOSS_TOLERANCE, PARAMETER_TOLERANCE = 1e-3, 1e-2
ADAM = AdamConfig(learning_rate=0.003, epsilon=0.1, weight_decay=0.01)


class Outcome(StrEnum):
    """What computed a network without a failure."""

    COMPILED = "compiled"
    AUTODIFF = "autodiff"
    REFUSED = "refused"


def check(case: Case, seed: int = 0) -> Outcome:
    """Compare all ways of computing a network whose layers fit together.

    Raises
    ------
    Difference
        For the first failure, exceptions included; its text says how to reproduce it.
    """
    case = replace(case, network=copy.deepcopy(case.network))  # the caller's network stays as it was drawn
    for part in (_logits, gradients, spaces, _training, _copies):
        try:
            part(case, np.random.default_rng([1, seed]))
        except Difference:
            raise
        except UserError as error:
            raise Difference(f"{part.__name__.removeprefix('_')} refused", case, str(error)) from error
        except Exception as error:
            kind = f"{part.__name__.removeprefix('_')} {type(error).__name__}"
            raise Difference(kind, case, f"{str(error)[:300]} at {location(error)}") from error
    return Outcome.COMPILED if model_of(case).compiles else Outcome.AUTODIFF


# ---- logits


def _logits(case: Case, random: np.random.Generator) -> None:
    model, images = model_of(case), drawn_images(case, random, 50)
    exact = doubled(case.network)(Tensor(images.astype(np.float64))).data
    if HAS_TORCH:
        from torch_reference import torch_logits

        if (error := distance(exact, torch_logits(case.network, images))) > 1e-9:
            raise Difference("autodiff", case, f"its logits differ from PyTorch's by {error:.1e} in double precision")
    own = distance(case.network(Tensor(images)).data, exact)
    if own > LOGITS_TOLERANCE:
        raise Difference("autodiff", case, f"logits in single and in double precision differ by {own:.1e}")
    wide = np.zeros((7, *case.image_shape[:2], 2 * case.image_shape[2]), np.float32)
    wide[..., ::2] = images[:7]
    batches = {"1 image": images[:1], "7 images": images[:7], "50 images": images, "a view": wide[..., ::2]}
    together = model.logits(images)
    for name, batch in batches.items():
        found = model.logits(batch)
        if found.dtype != np.float32 or (error := distance(found, exact[: len(batch)])) > LOGITS_TOLERANCE:
            raise Difference("logits", case, f"of {name} are wrong by {error:.1e} of the largest ({found.dtype})")
        if not np.array_equal(found, together[: len(batch)]):
            raise Difference("batches", case, f"the logits of {name} are other bits than in a batch of 50")


# ---- training


def _training(case: Case, random: np.random.Generator) -> None:
    """Fail if three trainings in a row fail, each with other images.

    For one of 300 networks the failure of a single training proves nothing: one of few images flips a ReLU, or several
    batch norms of two or three images amplify rounding, in single precision and with either engine.
    """
    failures: list[Difference] = []
    while len(failures) < 3:
        try:
            return _compare_training(case, random)
        except Difference as difference:
            failures.append(difference)
        except UserError:
            if any(case.network.named_parameters()):
                raise
            return None  # there is nothing to train
    raise failures[0]


def _compare_training(case: Case, random: np.random.Generator) -> None:
    batch_size = int(random.choice([2, 3, 5, 8, 13, 32, 50]))
    count = batch_size if random.random() < 0.7 else batch_size + int(random.integers(1, batch_size))
    split = Split(drawn_images(case, random, count), random.integers(case.classes, size=count))
    exact_losses, exact = _exact_training(case, split, batch_size)
    found = {engine: _trained(case, split, batch_size, engine) for engine in (Engine.AUTODIFF, Engine.PROGRAM)}
    before = model_of(case).state_dict()
    own_losses, own = found[Engine.AUTODIFF]
    for engine, (losses, state) in found.items():
        # with a batch norm of two or three images, whose gradients cancel, single precision is far from double
        by_program = engine is Engine.PROGRAM
        error, own_error = (np.abs(a - exact_losses) / (1e-3 + exact_losses) for a in (losses, own_losses))
        of_own = np.maximum(LOSS_TOLERANCE, ERROR_FACTOR * own_error)
        if not (error <= (of_own if by_program else ERROR_FACTOR * LOSS_TOLERANCE)).all():
            what = f"the losses of {count} images are {losses.round(5)} by {engine} instead of {exact_losses.round(5)}"
            raise Difference(f"training by {engine}", case, what)
        for name, target in exact.items():
            distance_moved = np.abs(target - before[name]).max(initial=0)
            error, own_error = (float(np.abs(a[name] - target).max(initial=0)) for a in (state, own))
            small = PARAMETER_TOLERANCE * distance_moved + 2e-6 * np.abs(target).max(initial=0)
            if not error <= (max(small, ERROR_FACTOR * own_error) if by_program else ERROR_FACTOR * small):
                what = f"{name} is wrong by {error:.1e} after moving by {distance_moved:.1e}, with {count} images"
                raise Difference(f"trained weights by {engine}", case, what)


Trained = tuple[np.ndarray, dict[str, np.ndarray]]  # the losses of five epochs, and the final state


def _trained(case: Case, split: Split, batch_size: int, engine: Engine) -> Trained:
    model, config = model_of(case), TrainingConfig(epochs=5, batch_size=batch_size, adam=ADAM, engine=engine)
    model.logits(split.images)  # so that programs and caches exist
    losses = np.array([entry.loss for entry in train(model, split, config=config)])
    _expect_fresh(case, model, split.images, f"training by {engine}")
    return losses, model.state_dict()


def _exact_training(case: Case, split: Split, batch_size: int) -> Trained:
    network, losses = doubled(case.network), []
    optimiser = Adam([parameter for _, parameter in network.named_parameters()], ADAM)
    for epoch in range(5):
        order, total = generator(0, "order", epoch).permutation(len(split)), 0.0
        steps = math.ceil(len(split) / batch_size)
        for step in range(steps):
            batch = split.take(np.take(order, range(step * batch_size, (step + 1) * batch_size), mode="wrap"))
            each = cross_entropy(network(Tensor(batch.images.astype(np.float64)), training=True), batch.labels)
            if each.requires_grad:  # unless there are no parameters
                each.mean().backward()
            optimiser.step(ADAM.learning_rate * ADAM.decay ** (epoch + 1 + step / steps))
            total += each.data.sum()
        losses.append(total / (steps * batch_size))
    return np.array(losses), dict(network.named_arrays())


# ---- copies, and weights that change under a model


def _copies(case: Case, random: np.random.Generator) -> None:
    model, images = model_of(case), drawn_images(case, random, 5)
    before = model.logits(images)
    pgd(model, images, np.zeros(5, np.int64), ImageBall(0.1), steps=1)  # so that programs and caches exist
    ways: dict[str, Callable[[Model], Model]] = {
        "copy.deepcopy": copy.deepcopy,
        "pickle": lambda m: pickle.loads(pickle.dumps(m)),
        "copy.copy": copy.copy,  # these share the network
        "Model": lambda m: Model(m.network, m.classes, m.image_shape),
    }

    def expect(changed: Model, what: str) -> None:
        _expect_fresh(case, changed, images, what)

    for name, way in ways.items():
        other = way(model)
        expect(other, name)
        values: dict[int, np.ndarray] = {}  # by array, as a layer that is used twice has two names
        arrays = list(other.network.named_arrays())
        other.load_state_dict({key: values.setdefault(id(a), _other(key, a, random)) for key, a in arrays})
        expect(other, f"{name} and load_state_dict")
        for layer in other.network.every_layer():
            for key, tensor in layer.parameters.items():
                tensor.data = _other(key, tensor.data, random)
        expect(other, f"{name} and other parameter arrays")
        for layer in other.network.every_layer():
            if layer.buffers:
                layer.buffers["running_mean"] += np.float32(0.1)
        expect(other, f"{name} and statistics changed in place")
        for layer in other.network.every_layer():
            if layer.buffers:
                layer.buffers["running_var"] = _other("running_var", layer.buffers["running_var"], random)
        expect(other, f"{name} and replaced statistics")
        if other.network is model.network:
            expect(model, f"changes of a model of the same network by {name}")
        elif not np.array_equal(model.logits(images), before):
            raise Difference("copies", case, f"changes of a model by {name} reached the original")


def _expect_fresh(case: Case, changed: Model, images: np.ndarray, what: str) -> None:
    """Fail unless a model computes the same bits as a new model with its weights."""
    fresh = model_of(case)
    fresh.load_state_dict(changed.state_dict())
    if not np.array_equal(changed.logits(images), fresh.logits(images)):
        raise Difference("copies", case, f"a model after {what} is not the model of its weights")


def _other(name: str, array: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return values that differ somewhat; variances stay positive."""
    return array * random.uniform(0.7, 1.4, array.shape).astype(array.dtype)
