"""The interface of attacks: `Attack` searches a space for an adversarial example of every image of a split."""

import math
from dataclasses import dataclass, replace
from typing import Protocol, Self

import numpy as np

from hlf_np.autodiff import Tensor
from hlf_np.data.dataset import Codes, Split
from hlf_np.models import Model
from hlf_np.operations import cross_entropy
from hlf_np.spaces import Chart, ImageBall, Space
from hlf_np.spaces.space import check_decodes, check_space, projected
from hlf_np.support.arrays import Booleans, Floats, Integers
from hlf_np.support.checks import check_images
from hlf_np.support.errors import UserError

MAX_ROUNDING = 1e-3  # of codes and pixels, in results of attacks


@dataclass(frozen=True)
class AttackResult:
    """The result of an attack on N images.

    Attributes
    ----------
    images : ndarray of float32, shape (N, H, W, C)
        The final images, valid and, unless the attack is not `bounded`, inside the space.
    perturbations : ndarray of float32, shape (N, ...)
        Final minus original codes; for `ImageBall`, final minus original images. Inside the space, their norms are at
        most epsilon, rounding included.
    success : ndarray of bool, shape (N,)
        Exactly `model.predict(images) != labels`.
    iterations : ndarray of int64, shape (N,)
        The number of steps that led to `images`.
    loss : ndarray of float32, shape (N,)
        The attack's objective at `images`.
    restart_success : ndarray of bool, shape (restarts, N)
        Whether each restart succeeded. Attacks whose restarts attack only what withstood so far have a single row.
    """

    images: Floats
    perturbations: Floats
    success: Booleans
    iterations: Integers
    loss: Floats
    restart_success: Booleans


def result_at(model: Model, chart: Chart, labels: Integers, codes: Floats, iterations: Integers) -> AttackResult:
    """Return the result of an attack that ended at these codes, with the cross-entropy as its loss.

    Parameters
    ----------
    model : Model
        The attacked classifier.
    chart : Chart
        The space around the images.
    labels : ndarray of int64, shape (N,)
        Their classes.
    codes : ndarray of float32, shape (N, ...)
        The final codes.
    iterations : ndarray of int64, shape (N,)
        The number of steps that led to them.

    Returns
    -------
    AttackResult
        The result, as that of a single restart.
    """
    images = chart.decoded(codes)
    logits, predictions = model.logits_and_predictions(images)
    success = predictions != labels
    losses = cross_entropy(Tensor(logits), labels).data
    return AttackResult(images, codes - chart.start, success, iterations, losses, success[None])


def input_gradient(outputs: Tensor, inputs: Tensor, gradient: Floats | None = None) -> Floats:
    """Compute the gradient of the outputs, or of their sum, with respect to a tensor that they were computed from.

    It is 0 if they do not depend on it differentiably, as in a network that rounds: what an attack then fails to find,
    `diagnose_masking` explains.

    Parameters
    ----------
    outputs : Tensor
        The outputs.
    inputs : Tensor
        The inputs, without a gradient so far.
    gradient : ndarray, optional
        Gradient with respect to the outputs; ones if not given.

    Returns
    -------
    ndarray
        The gradient, of the shape of the inputs.
    """
    if outputs.requires_grad:
        outputs.backward(gradient)
    return np.zeros_like(inputs.data) if inputs.gradient is None else inputs.gradient


class Attack(Protocol):
    """An attack: one call of `find` attacks a whole split.

    `PGD`, `FGSM`, `CarliniWagner`, `RandomSearch` and `Transfer` are attacks. One that may leave the space, such as a
    rotation, has an attribute `bounded` that is false.
    """

    @property
    def name(self) -> str:
        """Name on the command line, and prefix of result columns where a run measures the attack."""

    def find(self, model: Model, split: Split, space: Space, seed: int = 0) -> AttackResult:
        """Search for an adversarial example of every image of a split.

        Parameters
        ----------
        model : Model
            The classifier, attacked in evaluation mode.
        split : Split
            Images, labels and, for spaces that need them, codes. An image that is misclassified without a perturbation
            counts as a success.
        space : Space
            The allowed perturbations.
        seed : int
            Seed of all random choices.

        Returns
        -------
        AttackResult
            One entry per image, in the order of the split.
        """


def checked_chart(space: Space, images: Floats, labels: Integers, codes: Codes | None) -> Chart:
    """Return `space.chart(images, labels, codes)` after checking it.

    Parameters
    ----------
    space : Space
        The space, which may come from a plugin.
    images : ndarray of float32, shape (N, H, W, C)
        Images in [0, 1].
    labels : ndarray of int64, shape (N,)
        Their classes.
    codes : Codes or None
        Their codes on the true manifold, if known.

    Returns
    -------
    Chart
        The space around the images.

    Raises
    ------
    UserError
        If it is no space, or its chart does not start at one float32 code per image, inside its box, or at those of
        other images.
    """
    check_space(space)
    chart = space.chart(images, labels, codes)
    if not isinstance(chart, Chart):
        raise UserError(f"{type(space).__name__}.chart must return a Chart, not {type(chart).__name__}")
    lower, upper = np.asarray(chart.lower, np.float32), np.asarray(chart.upper, np.float32)
    if lower is not chart.lower or upper is not chart.upper:  # other bounds would make other codes of float32 ones
        chart = replace(chart, lower=lower, upper=upper)
    inside = (chart.start >= chart.lower) & (chart.start <= chart.upper)  # NaN compares false
    if len(chart.start) != len(images) or chart.start.dtype != np.float32 or not np.all(inside):
        problem = f"{chart.start.shape} {chart.start.dtype}" if np.all(inside) else "codes outside its box, or NaN"
        raise UserError(f"{type(space).__name__}.chart must start at a float32 code of each image: not {problem}")
    if space.starts_at_image and not chart.codes_are_images:
        check_decodes(space, chart, images)
    return chart


def checked_result(attack: Attack, result: AttackResult, model: Model, split: Split, space: Space) -> AttackResult:
    """Return the result of an attack, which may come from a plugin, after checking it.

    Parameters
    ----------
    attack : Attack
        The attack, for its name.
    result : AttackResult
        What its method `find` returned.
    model : Model
        The attacked model.
    split : Split
        The attacked images.
    space : Space
        The allowed perturbations.

    Returns
    -------
    AttackResult
        The same result.

    Raises
    ------
    UserError
        If it is not an `AttackResult`, its images are invalid or outside the space, or its successes are wrong.
    """
    name = f"attack {attack.name}"
    if not isinstance(result, AttackResult):
        raise UserError(f"{name} returned {type(result).__name__}: `find` must return an AttackResult")
    try:
        images = check_images(result.images, model.image_shape)
    except UserError as error:
        raise UserError(f"{name} returned invalid images: {error}") from None
    if len(images) != len(split):
        raise UserError(f"{name} returned {len(images)} images for {len(split)}: return one for each, in their order")
    perturbations = images - split.images if isinstance(space, ImageBall) else result.perturbations
    check_norm(attack, perturbations, space)
    if getattr(attack, "bounded", True):
        _check_is_inside(attack, replace(result, images=images), split, space)
    misclassified = model.predict(images) != split.labels
    restarts = np.asarray(result.restart_success)
    if restarts.dtype != bool or restarts.ndim != 2 or restarts.shape[1] != len(split) or not len(restarts):
        raise UserError(f"{name} must set restart_success, bool of shape (restarts, N), to the success of each restart")
    if not np.array_equal(result.success, misclassified):
        raise UserError(f"{name} must set `success` to exactly model.predict(images) != labels")
    if (restarts.any(axis=0) & ~misclassified).any():
        raise UserError(f"{name} returned failures for images that a restart misled: return what succeeded")
    return result


def check_norm(attack: Attack, perturbations: Floats, space: Space) -> None:
    """Raise UserError if a perturbation is longer than epsilon, rounding aside, unless the attack is not bounded."""
    largest_norm = float(space.norm.of(perturbations).max()) if len(perturbations) else 0.0
    if getattr(attack, "bounded", True) and not largest_norm <= space.epsilon * (1 + 1e-5) + 1e-6:
        raise UserError(
            f"attack {attack.name} returned a perturbation of norm {largest_norm:.3g}, but epsilon is"
            f" {space.epsilon:g}: use space.project, or set `bounded = False`"
        )


def _check_is_inside(attack: Attack, result: AttackResult, split: Split, space: Space) -> None:
    """Raise UserError if `space.project` would move the codes of a result, or its images are not those of its codes."""
    chart = checked_chart(space, split.images, split.labels, split.codes)
    perturbations = result.images - split.images if chart.codes_are_images else np.asarray(result.perturbations)
    if perturbations.shape != chart.start.shape:
        shapes = f"{perturbations.shape} instead of {chart.start.shape}"
        raise UserError(f"attack {attack.name} returned perturbations of shape {shapes}: return one for each code")
    codes = (chart.start + perturbations).astype(np.float32)
    moved = np.abs(projected(space, chart, codes) - codes)[perturbations != 0]  # starts may lie outside a box
    if moved.max(initial=0) > MAX_ROUNDING:
        raise UserError(
            f"attack {attack.name} left its {type(space).__name__}: use space.project, or set `bounded = False`"
        )
    if np.abs(chart.decoded(codes) - result.images).max(initial=0) > MAX_ROUNDING:
        raise UserError(
            f"attack {attack.name} returned images that do not belong to its perturbations: return"
            " chart.decoded(chart.start + perturbations)"
        )


@dataclass(frozen=True)
class SuccessRate:
    """Successful attacks as a fraction of the images that are classified correctly before.

    Attributes
    ----------
    average : float
        The mean over restarts, as in the paper's released code.
    worst : float
        The fraction of images for which any restart succeeded.

    Examples
    --------
    >>> import hlf_np as hlf
    >>> model, test = hlf.models.cnn(), hlf.data.load_fonts(0, 50).test
    >>> right = test.take(model.predict(test.images) == test.labels)
    >>> rate = SuccessRate.of(hlf.attacks.PGD(steps=5, restarts=2).find(model, right, hlf.spaces.ImageBall(0.3)))
    >>> 0 <= rate.average <= rate.worst <= 1
    True
    """

    average: float
    worst: float

    @classmethod
    def of(cls, result: AttackResult, total: int | None = None) -> Self:
        """Return the rates of an attack on correctly classified images.

        Parameters
        ----------
        result : AttackResult
            The result of the attack.
        total : int, optional
            The number of correctly classified images, if not all of them were attacked; the others count as
            withstanding.

        Returns
        -------
        SuccessRate
            NaN if there are no such images.
        """
        restarts = result.restart_success  # (restarts, N)
        total = restarts.shape[1] if total is None else total
        if not total:
            return cls(math.nan, math.nan)
        return cls(float(restarts.sum() / (len(restarts) * total)), float(restarts.any(axis=0).sum() / total))
