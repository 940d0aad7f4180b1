"""One network computed in every way that there is, and compared: programs, autodiff, double precision, PyTorch.

The yardstick is the autodiff in double precision, which PyTorch must confirm. Programs and autodiff in single precision
then differ from it by rounding alone. What rounding can do depends on the network: a pre-activation within rounding of
zero, or two pixels of equal size in a pooling window, may send a gradient elsewhere. So where the yardstick is not
sharp, the *autodiff's own error* says how blunt it is, and a program may be wrong by several times as much.
"""

from __future__ import annotations

import copy
import importlib.util
import pickle
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum

import numpy as np
from comparisons import BLUNT, Difference, distance, doubled, drawn_images, model_of, place
from networks import Case
from steps import gradients, spaces

from hlf_np.attacks import pgd
from hlf_np.autodiff import Tensor
from hlf_np.data.dataset import Split
from hlf_np.engine import Engine
from hlf_np.errors import UserError
from hlf_np.models import Model
from hlf_np.operations import cross_entropy
from hlf_np.optim import Adam, AdamConfig
from hlf_np.random import generator
from hlf_np.spaces import ImageBall
from hlf_np.training import TrainingConfig, train

HAS_TORCH = importlib.util.find_spec("torch") is not None
# Of the largest logit, whatever that is. Each of about ten layers adds an error of a few 6e-8, and a sum may cancel to
# a hundredth of its terms: 1e-4. Wrong weights or pixels give 1e-2 and more.
LOGITS = 2e-4
# Relative to the loss, and to how far a parameter has moved. Adam with an epsilon above nearly all gradients is
# gradient descent with momentum, which passes errors on without making them larger, as its usual first steps, nearly
# the signs of the gradients, would.
LOSS, MOVED = 1e-3, 1e-2
ADAM = AdamConfig(learning_rate=0.003, epsilon=0.1, weight_decay=0.01)


class Outcome(StrEnum):
    """What computed, where nothing was wrong."""

    COMPILED = "compiled"
    AUTODIFF = "autodiff"
    REFUSED = "refused"


def check(case: Case, seed: int = 0) -> Outcome:
    """Compare everything about a network that fits.

    Raises
    ------
    Difference : for the first thing that is wrong, exceptions included; its text says how to see it again.
    """
    case = replace(case, network=copy.deepcopy(case.network))  # as it was drawn, for who asks again
    for part in (_logits, gradients, spaces, _training, _copies):
        try:
            part(case, np.random.default_rng([1, seed]))
        except Difference:
            raise
        except UserError as error:
            raise Difference(f"{part.__name__.removeprefix('_')} refused", case, str(error)) from error
        except Exception as error:
            kind = f"{part.__name__.removeprefix('_')} {type(error).__name__}"
            raise Difference(kind, case, f"{str(error)[:300]} at {place(error)}") from error
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
    if own > LOGITS:
        raise Difference("autodiff", case, f"logits in single and in double precision differ by {own:.1e}")
    wide = np.zeros((7, *case.image_shape[:2], 2 * case.image_shape[2]), np.float32)
    wide[..., ::2] = images[:7]
    batches = {"1 image": images[:1], "7 images": images[:7], "50 images": images, "a view": wide[..., ::2]}
    together = model.logits(images)
    for name, batch in batches.items():
        found = model.logits(batch)
        if found.dtype != np.float32 or (error := distance(found, exact[: len(batch)])) > LOGITS:
            raise Difference("logits", case, f"of {name} are wrong by {error:.1e} of the largest ({found.dtype})")
        if not np.array_equal(found, together[: len(batch)]):
            raise Difference("batches", case, f"the logits of {name} are other bits than in a batch of 50")


# ---- training


def _training(case: Case, random: np.random.Generator) -> None:
    """Wrong is what three trainings in a row find, on other images each.

    In one of 300 networks a single training is no evidence: one of few images flips a ReLU, or several batch norms of
    two or three images multiply rounding, in single precision by any engine.
    """
    found: list[Difference] = []
    while len(found) < 3:
        try:
            return _compare_training(case, random)
        except Difference as difference:
            found.append(difference)
        except UserError:
            if any(case.network.named_parameters()):
                raise
            return None  # there is nothing to train
    raise found[0]


def _compare_training(case: Case, random: np.random.Generator) -> None:
    batch_size = int(random.choice([2, 3, 5, 8, 13, 32, 50]))
    count = batch_size if random.random() < 0.7 else batch_size + int(random.integers(1, batch_size))
    count += count % batch_size == 1  # batch norm may refuse a last batch of one image
    split = Split(drawn_images(case, random, count), random.integers(case.classes, size=count))
    exact_losses, exact = _exact_training(case, split, batch_size)
    found = {engine: _trained(case, split, batch_size, engine) for engine in (Engine.AUTODIFF, Engine.PROGRAM)}
    before = model_of(case).state_dict()
    own_losses, own = found[Engine.AUTODIFF]
    for engine, (losses, state) in found.items():
        # with a batch norm of two or three images, whose gradients cancel, single precision is far from double
        by_program = engine is Engine.PROGRAM
        error, own_error = (np.abs(a - exact_losses) / (1e-3 + exact_losses) for a in (losses, own_losses))
        if (~(error <= (np.maximum(LOSS, BLUNT * own_error) if by_program else BLUNT * LOSS))).any():
            what = f"the losses of {count} images are {losses.round(5)} by {engine} instead of {exact_losses.round(5)}"
            raise Difference(f"training by {engine}", case, what)
        for name, target in exact.items():
            way = np.abs(target - before[name]).max(initial=0)
            error, own_error = (float(np.abs(a[name] - target).max(initial=0)) for a in (state, own))
            small = MOVED * way + 2e-6 * np.abs(target).max(initial=0)
            if not error <= (max(small, BLUNT * own_error) if by_program else BLUNT * small):
                what = f"{name} is {error:.1e} beside where it should be, {way:.1e} from its start, with {count} images"
                raise Difference(f"trained weights by {engine}", case, what)


Trained = tuple[np.ndarray, dict[str, np.ndarray]]  # the losses of five epochs, and what they end with


def _trained(case: Case, split: Split, batch_size: int, engine: Engine) -> Trained:
    model, config = model_of(case), TrainingConfig(epochs=5, batch_size=batch_size, adam=ADAM, engine=engine)
    model.logits(split.images)  # so that there is something to forget
    losses = np.array([entry.loss for entry in train(model, split, config=config)])
    _expect_fresh(case, model, split.images, f"training by {engine}")
    return losses, model.state_dict()


def _exact_training(case: Case, split: Split, batch_size: int) -> Trained:
    network, losses = doubled(case.network), []
    optimiser = Adam([parameter for _, parameter in network.named_parameters()], ADAM)
    for epoch in range(5):
        order, total = generator(0, "order", epoch).permutation(len(split)), 0.0
        for first in range(0, len(split), batch_size):
            batch = split.take(order[first : first + batch_size])
            each = cross_entropy(network(Tensor(batch.images.astype(np.float64)), training=True), batch.labels)
            if each.requires_grad:  # not without any parameter
                each.mean().backward()
            optimiser.step(ADAM.rate(epoch))
            total += each.data.sum()
        losses.append(total / len(split))
    return np.array(losses), dict(network.named_arrays())


# ---- copies, and weights that change under a model


def _copies(case: Case, random: np.random.Generator) -> None:
    model, images = model_of(case), drawn_images(case, random, 5)
    before, state = model.logits(images), model.state_dict()
    pgd(model, images, np.zeros(5, np.int64), ImageBall(0.1), steps=1)  # so that it has a past
    ways: dict[str, Callable[[Model], Model]] = {
        "copy.deepcopy": copy.deepcopy,
        "pickle": lambda m: pickle.loads(pickle.dumps(m)),
        "copy.copy": copy.copy,  # from here on with the same network
        "Model.of": lambda m: Model.of(m.network, m.classes, m.image_shape),
    }

    def expect(changed: Model, what: str) -> None:
        _expect_fresh(case, changed, images, what)

    for name, way in ways.items():
        other = way(model)
        expect(other, name)
        other.load_state_dict({key: _other(key, array, random) for key, array in state.items()})
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
    """Whatever a model has been through, it is what a new one with its weights is, bit for bit."""
    fresh = model_of(case)
    fresh.load_state_dict(changed.state_dict())
    if not np.array_equal(changed.logits(images), fresh.logits(images)):
        raise Difference("copies", case, f"a model after {what} is not the model of its weights")


def _other(name: str, array: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Somewhat other numbers; variances stay positive."""
    return array * random.uniform(0.7, 1.4, array.shape).astype(array.dtype)
