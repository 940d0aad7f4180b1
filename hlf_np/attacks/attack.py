"""What an attack is: whatever finds, for every image of a split, an adversarial example within a space."""

import math
from dataclasses import dataclass
from typing import Protocol, Self

from hlf_np.arrays import Booleans, Floats, Integers
from hlf_np.data.dataset import Split
from hlf_np.models import Model
from hlf_np.spaces import Space


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
