"""What an attack is: whatever finds, for every image of a split, an adversarial example within a space."""

import math
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np

from hlf_np.arrays import Booleans, Floats, Integers
from hlf_np.checks import check_images
from hlf_np.data.dataset import Codes, Split
from hlf_np.errors import UserError
from hlf_np.models import Model
from hlf_np.spaces import Chart, ImageBall, Space


@dataclass(frozen=True)
class AttackResult:
    """What an attack found.

    images : (N, H, W, C) float32, the final images: valid and inside the space.
    perturbations : (N, ...) float32, of the codes; for `ImageBall`, images minus originals. Their norms are at most
        epsilon, rounding included.
    success : (N,) bool; exactly `model.predict(images) != labels`.
    iterations : (N,) int64, how many steps led to `images`.
    loss : (N,) float32, the attack's objective at `images`.
    restart_success : (restarts, N) bool, whether each restart succeeded.
    """

    images: Floats
    perturbations: Floats
    success: Booleans
    iterations: Integers
    loss: Floats
    restart_success: Booleans


class Attack(Protocol):
    """One call attacks a whole split. `PGD`, `FGSM`, `CarliniWagner`, `RandomSearch` and `Transfer` are attacks."""

    @property
    def name(self) -> str:
        """On the command line and, where a run measures it, at the beginning of its columns."""

    def find(self, model: Model, split: Split, space: Space, seed: int = 0) -> AttackResult:
        """Adversarial examples of all images of a split.

        model : attacked in evaluation mode.
        split : images, labels and, for spaces that need them, codes. An image that is misclassified from the start
            counts as a success.
        space : the allowed perturbations.
        seed : of all that is random.
        """


def checked_chart(space: Space, images: Floats, labels: Integers, codes: Codes | None) -> Chart:
    """A space's chart of images; UserError unless it starts at a float32 code of each image, within its box."""
    chart = space.chart(images, labels, codes)
    inside = (chart.start >= chart.lower) & (chart.start <= chart.upper)  # NaN compares false
    if len(chart.start) != len(images) or chart.start.dtype != np.float32 or not np.all(inside):
        problem = f"{chart.start.shape} {chart.start.dtype}" if np.all(inside) else "codes outside of its box, or NaN"
        raise UserError(f"{type(space).__name__}.chart must start at a float32 code of each image: not {problem}")
    return chart


def checked_result(attack: Attack, found: AttackResult, model: Model, split: Split, space: Space) -> AttackResult:
    """What an attack that anybody may have written found, if it is what `AttackResult` says.

    Raises
    ------
    UserError : for another type, images that are none or outside of the space, and successes that are none.
    """
    name = f"attack {attack.name}"
    if not isinstance(found, AttackResult):
        raise UserError(f"{name} gave {type(found).__name__}: `find` must return an AttackResult")
    try:
        images = check_images(found.images, model.image_shape)
    except UserError as error:
        raise UserError(f"{name} gave no images: {error}") from None
    if len(images) != len(split):
        raise UserError(f"{name} gave {len(images)} images for {len(split)}: return one for each, in their order")
    moved = images - split.images if isinstance(space, ImageBall) else found.perturbations
    farthest = float(space.norm.of(moved).max(initial=0)) if len(moved) else 0.0
    if not farthest <= space.epsilon * (1 + 1e-5) + 1e-6:
        raise UserError(f"{name} went {farthest:.3g} far, but epsilon is {space.epsilon:g}: use space.project")
    wrong = model.predict(images) != split.labels
    restarts = np.asarray(found.restart_success)
    if restarts.dtype != bool or restarts.ndim != 2 or restarts.shape[1] != len(split):
        raise UserError(f"{name} must say in restart_success, (restarts, N) bool, where each restart succeeded")
    if not np.array_equal(found.success, wrong):
        raise UserError(f"{name} must say in `success` exactly where model.predict(images) is not the label")
    return found


@dataclass(frozen=True)
class SuccessRate:
    """Successful attacks as a fraction of the images that are classified correctly without one.

    average : over restarts, as the paper's released code reports it.
    worst : an image counts if any restart succeeded.

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
    def of(cls, result: AttackResult) -> Self:
        """The rates of an attack on correctly classified images; NaN if there were none."""
        if not len(result.success):
            return cls(math.nan, math.nan)
        return cls(float(result.restart_success.mean()), float(result.restart_success.any(axis=0).mean()))
