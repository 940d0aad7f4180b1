"""One network computed in every way that there is, and compared: programs, autodiff, double precision, PyTorch.

The yardstick is the autodiff in double precision, which PyTorch must confirm. Programs and autodiff in single precision
then differ from it by rounding alone. What rounding can do depends on the network: a pre-activation within rounding of
zero, or two pixels of equal size in a pooling window, may send a gradient elsewhere. So where the yardstick is not
sharp, the *autodiff's own error* says how blunt it is, and a program may be wrong by several times as much.
"""

from __future__ import annotations

import copy
import importlib.util
import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from typing import Any

import numpy as np
from networks import Case

from hlf_np.attacks import pgd
from hlf_np.autodiff import Tensor
from hlf_np.data.dataset import Split
from hlf_np.engine import Engine
from hlf_np.errors import UserError
from hlf_np.layers import Layer
from hlf_np.manifolds.vae import Vae, VaeConfig
from hlf_np.models import Model
from hlf_np.operations import cross_entropy, mean
from hlf_np.optim import Adam, AdamConfig
from hlf_np.random import generator
from hlf_np.spaces import EMNIST_BOX, Chart, ImageBall, LearnedManifold, Space, Transformations
from hlf_np.spaces.learned_manifold import LearnedChart
from hlf_np.spaces.warp_chart import WarpChart
from hlf_np.training import TrainingConfig, train

HAS_TORCH = importlib.util.find_spec("torch") is not None
# Of the largest logit, whatever that is. Each of about ten layers adds an error of a few 6e-8, and a sum may cancel to
# a hundredth of its terms: 1e-4. Wrong weights or pixels give 1e-2 and more.
LOGITS = 2e-4
# Relative to the length of a step. Gradients pass twice as many layers as logits.
STEP, MEDIAN_STEP, OUTLIERS = 1e-2, 1e-3, 1 / 8
# Relative to the loss, and to how far a parameter has moved. Adam with an epsilon above nearly all gradients is
# gradient descent with momentum, which passes errors on without making them larger, as its usual first steps, nearly
# the signs of the gradients, would.
LOSS, MOVED = 1e-3, 1e-2
ADAM = AdamConfig(learning_rate=0.003, epsilon=0.1, weight_decay=0.01)
BLUNT = 10  # times the autodiff's own error is no evidence


class Outcome(StrEnum):
    """What computed, where nothing was wrong."""

    COMPILED = "compiled"
    AUTODIFF = "autodiff"
    REFUSED = "refused"


class Difference(AssertionError):  # noqa: N818, what is found is no error of the search
    """Two ways that disagree; `kind` is the same for all disagreements of one kind."""

    def __init__(self, kind: str, case: Case, what: str) -> None:
        super().__init__(f"{kind}: {what}\n    in {case.description}")
        self.kind = kind

    def __reduce__(self) -> tuple[Any, ...]:
        return _difference, (self.kind, str(self))


def _difference(kind: str, text: str) -> Difference:
    difference = Difference.__new__(Difference, text)
    difference.kind, difference.args = kind, (text,)
    return difference


def check(case: Case, seed: int = 0) -> Outcome:
    """Compare everything about a network that fits.

    Raises
    ------
    Difference : for the first thing that is wrong, exceptions included; its text says how to see it again.
    """
    case = replace(case, network=copy.deepcopy(case.network))  # as it was drawn, for who asks again
    outcome = Outcome.AUTODIFF
    for part in (_logits, _gradients, _spaces, _training, _copies):
        try:
            part(case, np.random.default_rng([1, seed]))
            if Model.of(copy.deepcopy(case.network), case.classes, case.image_shape).compiles:
                outcome = Outcome.COMPILED
        except Difference:
            raise
        except UserError as error:
            raise Difference(f"{part.__name__[1:]} refused", case, str(error)) from error
        except Exception as error:
            kind = f"{part.__name__[1:]} {type(error).__name__}"
            raise Difference(kind, case, f"{str(error)[:300]} at {place(error)}") from error
    return outcome


def place(error: BaseException) -> str:
    """Where an exception was raised."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}" if trace else "an unknown place"


def doubled(network: Layer) -> Any:
    """The same in double precision; shared layers and tensors stay shared."""
    network = copy.deepcopy(network)
    for layer in network.every_layer():
        for tensor in layer.parameters.values():
            tensor.data = np.asarray(tensor.data, np.float64)
        layer.buffers |= {name: np.asarray(buffer, np.float64) for name, buffer in layer.buffers.items()}
    return network


def model_of(case: Case) -> Model:
    """A model of a copy of the network that nothing has used yet."""
    return Model.of(copy.deepcopy(case.network), case.classes, case.image_shape)


def drawn_images(case: Case, random: np.random.Generator, count: int) -> np.ndarray:
    return random.random((count, *case.image_shape), np.float32)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference, in units of the largest number of b; infinite for numbers that are none."""
    if a.shape != b.shape or not np.isfinite(a).all():
        return np.inf
    return float(np.abs(a - b).max(initial=0) / max(np.abs(b).max(initial=0), 1e-30))


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


# ---- steps of attacks


def _gradients(case: Case, random: np.random.Generator) -> None:
    images = drawn_images(case, random, 16) / 2 + np.float32(0.25)  # no step leaves [0, 1]
    model, size = model_of(case), 0.02 * math.sqrt(images[0].size)
    for norm, rule, epsilon, step in (
        ("l2", "sign", 2 * size, size),
        ("linf", "sign", 0.1, 0.02),
        ("linf", "adam", 0.1, 0.02),
    ):
        _compare_step(case, model, ImageBall(epsilon, norm), images, rule, "image", step)


def _spaces(case: Case, random: np.random.Generator) -> None:
    height, width, channels = case.image_shape
    model, images = model_of(case), drawn_images(case, random, 16)
    if channels == 1 and min(height, width) > 1:
        space = Transformations(EMNIST_BOX, epsilon=0.2, norm="l2")
        _compare_step(case, model, space, images, "sign", "random", 0.01)
    if height == width and height >= 2 and case.classes <= 4:
        config = VaeConfig((4,), latent_dimensions=3, image_shape=case.image_shape)
        vaes = [Vae(config, seed) for seed in range(case.classes)]
        space = LearnedManifold(vaes, epsilon=0.5, norm="l2")
        _compare_step(case, model, space, images, "sign", "random", 0.05)


def _doubled_chart(chart: Chart) -> Chart:
    if isinstance(chart, WarpChart):
        chart = replace(chart, images=chart.images.astype(np.float64))
    if isinstance(chart, LearnedChart):
        chart = replace(chart, space=replace(chart.space, vaes=[doubled(vae) for vae in chart.space.vaes]))
    return replace(chart, start=chart.start.astype(np.float64))


def _compare_step(
    case: Case, model: Model, space: Space, images: np.ndarray, rule: str, start: str, step: float
) -> None:
    """One step of steepest ascent from the image, or, where that lies on a kink of the space, from beside it.

    The label is the least likely one, as the gradient drowns in rounding where the label's probability is nearly one.
    A step is kept only where it raises the loss; where double precision finds that it hardly does, nothing is compared.
    """
    network, where = doubled(case.network), f"{type(space).__name__} {space.norm} {rule}"
    labels = network(Tensor(images.astype(np.float64))).data[:, : case.classes].argmin(axis=1).astype(np.int64)
    single = space.chart(images, labels, None)
    chart = _doubled_chart(single)

    def attack(steps: int, engine: Engine) -> np.ndarray:
        """The codes that it ends with."""
        settings = {"rule": rule, "start": start, "step_size": step, "stop_early": False}
        result = pgd(model, images, labels, space, steps=steps, engine=engine, **settings)
        if not np.array_equal(result.success, model.predict(result.images) != labels):
            raise Difference("success", case, f"of {where} by {engine} is not what the model predicts")
        return single.start + result.perturbations

    before = attack(0, Engine.AUTODIFF).astype(np.float64)
    variable = Tensor(before, requires_grad=True)
    losses = cross_entropy(network(chart.decode(variable)), labels)
    if not losses.requires_grad:
        return
    losses.backward()
    gradient = np.zeros_like(before) if variable.gradient is None else variable.gradient
    direction = gradient / (np.abs(gradient) + 1e-8) if rule == "adam" else space.norm.steepest(gradient)
    after = space.project(chart, before + step * direction)
    gain = cross_entropy(network(chart.decode(Tensor(after))), labels).data - losses.data
    clear = gain > 1e-5 * np.maximum(1, np.abs(losses.data))
    if clear.sum() < 4:
        return
    # a wrong sign counts as much as its entry matters
    weight = np.ones_like(gradient) if rule == "sign" and space.norm == "l2" else np.abs(gradient)
    weight, moved = (a[clear].reshape(clear.sum(), -1) for a in (weight, after - before))
    length = np.linalg.norm(weight * moved, axis=1)

    def errors(engine: Engine) -> np.ndarray:
        found = (attack(1, engine) - before)[clear].reshape(moved.shape)
        off = np.linalg.norm(weight * (found - moved), axis=1) / np.maximum(length, 1e-30)
        return np.where(np.isfinite(off), off, np.inf)

    own = errors(Engine.AUTODIFF)
    _judge_step(case, f"{where} by autodiff", own, np.zeros_like(own))
    _judge_step(case, f"{where} by program", errors(Engine.PROGRAM), own)


def _judge_step(case: Case, where: str, errors: np.ndarray, own: np.ndarray) -> None:
    """Half of the steps must be right to rounding, and nearly all but for the flip of a rare kink."""
    bad = errors > np.maximum(STEP, BLUNT * own)
    if np.median(errors) > max(MEDIAN_STEP, BLUNT * np.median(own)) or bad.sum() > max(1, OUTLIERS * len(bad)):
        what = f"the steps of {where} are wrong by {np.median(errors):.1e} in the median, up to {errors.max():.1e}"
        raise Difference(f"step in {where}", case, what)


# ---- training


def _training(case: Case, random: np.random.Generator) -> None:
    """Wrong is what three trainings in a row find, on other images each.

    In one of 300 networks a single training is no evidence: one of few images flips a ReLU, or several batch norms of
    two or three images multiply rounding, in single precision by any engine.
    """
    for attempts_left in (2, 1, 0):
        try:
            _compare_training(case, random)
            break
        except UserError:
            if any(case.network.named_parameters()):
                raise
            break  # there is nothing to train
        except Difference:
            if not attempts_left:
                raise


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
                mean(each).backward()
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
