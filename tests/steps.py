"""One step of an attack in every space, by program and autodiff, beside the step that double precision takes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from comparisons import ERROR_FACTOR, Difference, doubled, drawn_images, model_of
from networks import Case

from hlf_np.attacks import pgd
from hlf_np.autodiff import Tensor
from hlf_np.engine import Engine
from hlf_np.models import Model
from hlf_np.models.vae import Vae, VaeConfig
from hlf_np.operations import cross_entropy
from hlf_np.spaces import EMNIST_BOX, Chart, ImageBall, LearnedManifold, Space, Transformations
from hlf_np.spaces.learned_manifold import LearnedChart
from hlf_np.spaces.warp_chart import WarpChart

# Relative to the length of a step. Gradients pass twice as many layers as logits.
STEP, MEDIAN_STEP, OUTLIERS = 1e-2, 1e-3, 1 / 8


def gradients(case: Case, random: np.random.Generator) -> None:
    images = drawn_images(case, random, 16) / 2 + np.float32(0.25)  # no step leaves [0, 1]
    model, size = model_of(case), 0.02 * math.sqrt(images[0].size)
    for norm, rule, epsilon, step in (
        ("l2", "sign", 2 * size, size),
        ("linf", "sign", 0.1, 0.02),
        ("linf", "adam", 0.1, 0.02),
    ):
        _compare_step(case, model, ImageBall(epsilon, norm), images, rule, "image", step)


def spaces(case: Case, random: np.random.Generator) -> None:
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
    bad = errors > np.maximum(STEP, ERROR_FACTOR * own)
    if np.median(errors) > max(MEDIAN_STEP, ERROR_FACTOR * np.median(own)) or bad.sum() > max(1, OUTLIERS * len(bad)):
        what = f"the steps of {where} are wrong by {np.median(errors):.1e} in the median, up to {errors.max():.1e}"
        raise Difference(f"step in {where}", case, what)
