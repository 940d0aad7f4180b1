"""What a perturbation space is.

Every attack and every training of this package differs only in this. A *space* encodes a batch of images to start
codes, decodes codes to images differentiably, and says which codes are allowed: those within `epsilon` of the start, in
a norm, and within a box. For a given batch a space draws up a `Chart`, which is all that an attack needs to know.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from hlf_np.arrays import Floats, Integers, flat_rows
from hlf_np.autodiff import Tensor
from hlf_np.checks import check_choice, check_positive
from hlf_np.data.dataset import Codes
from hlf_np.errors import UserError
from hlf_np.programs.evaluation import Program

if TYPE_CHECKING:
    from hlf_np.data.source import Source
    from hlf_np.manifolds import Vae
    from hlf_np.models import Model


TINY = float(np.finfo(np.float32).tiny)  # no norm is divided by less


class Norm(StrEnum):
    """How the size of a perturbation is measured, over all entries of an image's code.

    Examples
    --------
    >>> import numpy as np
    >>> perturbation = np.array([[3.0, -4.0]])
    >>> Norm.LINF.of(perturbation).item(), Norm.L2.of(perturbation).item()
    (4.0, 5.0)
    >>> Norm.LINF.clip(perturbation, 1).tolist(), Norm.L2.clip(perturbation, 1).round(3).tolist()
    ([[1.0, -1.0]], [[0.6, -0.8]])
    """

    LINF = "linf"
    L2 = "l2"

    def of(self, perturbations: Floats) -> Floats:
        """The norm of each perturbation, (N, ...) to (N,)."""
        flat = flat_rows(perturbations)
        if self is Norm.LINF:
            return np.asarray(np.abs(flat).max(axis=1))
        squares = np.square(flat, dtype=np.float64).sum(axis=1)  # sums of float32 would be wrong in the last digits
        return np.asarray(np.sqrt(squares), flat.dtype)

    def clip(self, perturbations: Floats, epsilon: float) -> Floats:
        """The nearest perturbations of norm <= epsilon."""
        if self is Norm.LINF:
            return np.clip(perturbations, -epsilon, epsilon)
        norms = per_row(self.of(perturbations), perturbations)
        return perturbations * (epsilon / np.maximum(norms, max(epsilon, TINY)))

    def steepest(self, gradients: Floats) -> Floats:
        """The directions of norm 1 along which a loss with these gradients rises fastest: the sign for L_inf."""
        if self is Norm.LINF:
            return np.sign(gradients)
        return gradients / np.maximum(per_row(self.of(gradients), gradients), TINY)


# The paper's sizes of perturbations of the image, and of those on manifolds.
PAPER_EPSILONS = {Norm.LINF: (0.3, 0.3), Norm.L2: (1.5, 0.3)}


def per_row(values: Floats, like: Floats) -> Floats:
    """(N,) values shaped to broadcast over an array (N, ...)."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


@dataclass(frozen=True)
class Compiled:
    """A compiled program from codes to logits.

    groups : (N,), of each row; sources : (N, E), the images that are warped, E = 0 for none.
    """

    program: Program
    groups: Integers
    sources: Floats


@dataclass(frozen=True)
class Chart(ABC):
    """A space around the images of one batch.

    start : the codes of the images, (N, ...) float32.
    lower, upper : the box that codes must stay in; they broadcast against `start`, and the start lies inside.
    codes_are_images : whether decoding changes nothing.
    of_images : the fields that have an entry for each image.
    """

    start: Floats
    lower: Floats
    upper: Floats
    codes_are_images: ClassVar[bool] = False
    of_images: ClassVar[tuple[str, ...]] = ("start",)

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """The images (N, H, W, C) of codes (N, ...), differentiably."""

    def decoded(self, codes: Floats) -> Floats:
        """The same images where no gradient is needed."""
        return self.decode(Tensor(np.asarray(codes, self.start.dtype))).data

    def compiled(self, model: Model) -> Compiled | None:
        """How to attack a model here in a compiled program; None if only the autodiff can."""
        return None

    def take(self, rows: Integers) -> Self:
        """The chart of some of the images."""
        more = {each.name for each in fields(self)} - {"start", "lower", "upper"}
        if more and type(self).of_images is Chart.of_images:  # a field that is forgotten would fit to other images
            raise UserError(f"{type(self).__name__} must say which of its fields are of images: set of_images = (...)")
        return replace(self, **{name: getattr(self, name)[rows] for name in self.of_images})


class Need(StrEnum):
    """What not every run has."""

    TRUE_MANIFOLD = "the true manifold"
    LEARNED_MANIFOLD = "the learned manifold"


@dataclass(frozen=True)
class Given:
    """What a run makes its spaces from.

    source : of its images; vaes : of the learned manifold, one for each class, or none.
    epsilon, norm : of perturbations of the image; latent_epsilon : of codes of manifolds and of transformations.
    """

    source: Source
    vaes: tuple[Vae, ...] = ()
    epsilon: float = 0.3
    latent_epsilon: float = 0.3
    norm: Norm = Norm.LINF


@dataclass(frozen=True)
class Space(ABC):
    """A family of allowed perturbations.

    The class is also its declaration. Where a run knows it, every model is attacked in it, `NAME_success` and
    `NAME_success_worst` are columns of the results, and `NAME_adversarial` is a training; tables, figures and help
    texts follow.

    epsilon : the largest norm of a perturbation of the code, positive; norm : "linf" or "l2".

    Attributes
    ----------
    name : of a space that runs know, in lower case; "" for all others.
    attacks : what attacks there are called: "attacks on the true manifold".
    option : its name on the command line, if not `name`.
    needs : what a run must have for it, if anything.
    measured : whether runs attack in it, or only train.
    step_size : of the projected gradients of runs here, in the units of its codes; 0 for that of the run.
    """

    name: ClassVar[str] = ""
    attacks: ClassVar[str] = ""
    option: ClassVar[str] = ""
    needs: ClassVar[Need | None] = None
    measured: ClassVar[bool] = True
    step_size: ClassVar[float] = 0.0

    epsilon: float
    norm: Norm = Norm.LINF

    def __post_init__(self) -> None:
        check_positive("epsilon", self.epsilon)
        object.__setattr__(self, "norm", check_choice("norm", self.norm, Norm))

    @abstractmethod
    def chart(self, images: Floats, labels: Integers, codes: Codes | None) -> Chart:
        """The space around these images; `codes` are their places on the true manifold, where known."""

    @classmethod
    def called(cls) -> str:
        """Attacks in this space, in words; a class that inherits from another space is another one."""
        return vars(cls).get("attacks") or f"{cls.name.replace('_', ' ')} attacks"

    @classmethod
    def choice(cls) -> str:
        """Its name on the command line."""
        return vars(cls).get("option") or cls.name

    @classmethod
    def of_run(cls, given: Given) -> Space:
        """The space that a run trains and attacks in; asked for only where the run has what it `needs`."""
        return cls(given.epsilon, given.norm)

    @property
    def radius(self) -> float:
        """What `project` takes for epsilon, a float32 number that is never above it: float32(0.3) would be 0.300000012.

        In L2 it is a millionth less, so that a norm is within epsilon in whatever order somebody adds up the squares.
        """
        radius = self.epsilon * (1 if self.norm is Norm.LINF else 1 - 2**-20)
        rounded = np.float32(radius)
        return float(rounded if float(rounded) <= radius else np.nextafter(rounded, np.float32(0)))

    def project(self, chart: Chart, codes: Floats) -> Floats:
        """Codes brought back into the ball, then into the box.

        The sum of start and perturbation is rounded, and may come to lie further from the start than the perturbation
        is long; the next number towards the start does not. The start lies in the box, so clipping to the box moves
        every entry towards the start, too, and cannot leave the ball.
        """
        perturbations = self.norm.clip(codes - chart.start, self.radius)
        moved = chart.start + perturbations
        too_far = np.abs(moved - chart.start) > np.abs(perturbations)
        moved = np.where(too_far, np.nextafter(moved, chart.start), moved)
        return np.clip(moved, chart.lower, chart.upper)

    def random_perturbations(self, random: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        """Perturbations uniform over direction and over distance: a Gaussian over its norm, times U(0, 1) epsilon.

        (Uniform over the *volume* of a ball in hundreds of dimensions would almost always start at its border.)
        """
        directions = random.standard_normal(shape, np.float32)
        distances = self.epsilon * random.random(shape[0], np.float32)
        drawn = directions * per_row((distances / self.norm.of(directions)).astype(np.float32), directions)
        return self.norm.clip(drawn, self.radius)
