"""The interface of perturbation spaces.

Attacks and trainings differ only in their space. A space maps a batch of images to *codes*, maps codes back to images
differentiably, and defines which codes are allowed: those within distance `epsilon` of the original codes, in the given
norm, and inside a box. `Space.chart` collects this for one batch in a `Chart`; attacks see nothing but the two.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from hlf_np.data.dataset import Codes, Split
from hlf_np.spaces.chart import Chart
from hlf_np.spaces.norm import Norm
from hlf_np.support.arrays import Booleans, Floats, Integers, per_row
from hlf_np.support.checks import check_choice, check_fields, check_positive
from hlf_np.support.errors import UserError

if TYPE_CHECKING:
    from hlf_np.data.source import Source
    from hlf_np.models.vae import Vae


SAME_IMAGE = 1e-3  # by how much the pixels of decoded codes may differ from those of their images


class Need(StrEnum):
    """A requirement of a space that not every run meets."""

    TRUE_MANIFOLD = "the true manifold"
    LEARNED_MANIFOLD = "the learned manifold"
    DATA_MANIFOLD = "the class-agnostic manifold"


@dataclass(frozen=True)
class RunContext:
    """What a run offers to `Space.of_run`.

    Parameters
    ----------
    source : Source
        The source of the run's images.
    vaes : tuple of Vae
        The VAEs of the learned manifold, one per class; empty if the run has none.
    epsilon : float
        Largest norm of perturbations of the image.
    latent_epsilon : float
        Largest norm of perturbations of manifold codes and of transformations.
    norm : Norm
        The norm of perturbations.
    data_vae : Vae, optional
        The VAE of the class-agnostic manifold.
    """

    source: Source
    vaes: tuple[Vae, ...] = ()
    epsilon: float = 0.3
    latent_epsilon: float = 0.3
    norm: Norm = Norm.LINF
    data_vae: Vae | None = None


@dataclass(frozen=True)
class Space(ABC):
    """A family of allowed perturbations.

    Subclasses implement `chart`; those with parameters of their own also override `of_run`.

    A subclass with a `name` is also a declaration for experiment runs: if it is `measured`, every model is attacked in
    it, and `NAME_success` and `NAME_success_worst` become result columns; `NAME_adversarial` becomes a training.
    Tables, figures and help texts follow from it.

    Parameters
    ----------
    epsilon : float
        Largest norm of a perturbation of the code, positive. A default that a subclass declares also holds in runs.
    norm : {"linf", "l2"}
        The norm of perturbations.

    Attributes
    ----------
    name : str
        Name in results and trainings, in lower case; "" for a space that runs do not use.
    attacks : str
        What reports call attacks in this space, such as "attacks on the true manifold"; derived from `name` if empty.
    option : str
        Name on the command line; `name` if empty.
    needs : Need or None
        What a run must have to use this space.
    measured : bool
        Whether runs measure attacks in this space; otherwise they only train in it.
    step_size : float
        Step size of a run's gradient attacks in this space, in units of the code; 0 for the run's own.
    starts_at_image : bool
        Whether the code of an image decodes to the image itself. If not, as for a reconstruction, success rates are
        fractions of the images whose start, rather than the image, is classified correctly.

    Raises
    ------
    UserError
        If epsilon is not positive or the norm is unknown.
    """

    name: ClassVar[str] = ""
    attacks: ClassVar[str] = ""
    option: ClassVar[str] = ""
    needs: ClassVar[Need | None] = None
    measured: ClassVar[bool] = True
    step_size: ClassVar[float] = 0.0
    starts_at_image: ClassVar[bool] = True

    epsilon: float
    norm: Norm = Norm.LINF

    def __post_init__(self) -> None:
        check_fields(self)
        check_positive("epsilon", self.epsilon)
        object.__setattr__(self, "norm", check_choice("norm", self.norm, Norm))

    @abstractmethod
    def chart(self, images: Floats, labels: Integers, codes: Codes | None) -> Chart:
        """Return the space around the images of a batch.

        Parameters
        ----------
        images : ndarray of float32, shape (N, H, W, C)
            Images in [0, 1].
        labels : ndarray of int64, shape (N,)
            Their classes.
        codes : Codes or None
            Their codes on the true manifold, if known.
        """

    @classmethod
    def attack_label(cls) -> str:
        """Return what reports call attacks in this space.

        `attacks` is not inherited: a subclass of another space needs a phrase of its own.
        """
        return vars(cls).get("attacks") or f"{cls.name.replace('_', ' ')} attacks"

    @classmethod
    def option_name(cls) -> str:
        """Return the name on the command line; `option` is not inherited."""
        return vars(cls).get("option") or cls.name

    @classmethod
    def of_run(cls, run: RunContext) -> Space:
        """Return the space in which a run attacks and trains; called only if the run has what the space `needs`."""
        return cls(cls.epsilon_in_run(run.epsilon), cls.norm_in_run(run.norm))

    @classmethod
    def epsilon_in_run(cls, epsilon: float, base: type[Space] | None = None) -> float:
        """Return the epsilon of a run, or the default that this class declares, if it differs from that of `base`."""
        default = getattr(cls, "epsilon", None)
        return epsilon if default is None or default == getattr(base, "epsilon", None) else float(default)

    @classmethod
    def norm_in_run(cls, norm: Norm) -> Norm:
        """Return the norm of a run, or the default that this class declares, if it differs from that of `Space`."""
        return norm if cls.norm == Space.norm else cls.norm

    def fitted(self, images: Floats, labels: Integers) -> Self:
        """Return the space with everything that depends on a whole set of images, such as the box of their codes.

        Parameters
        ----------
        images : ndarray of float32, shape (N, H, W, C)
            All images to train on, or all test images.
        labels : ndarray of int64, shape (N,)
            Their classes.

        Returns
        -------
        Space
            By default, the space itself.
        """
        return self

    def perturbable(self, split: Split) -> Booleans:
        """Return which images of a split can be perturbed, shape (N,): by default all.

        The others are trained on as they are, and count as withstanding the attack.
        """
        return np.ones(len(split), bool)

    def sampled(self, split: Split, random: np.random.Generator) -> Split:
        """Draw new images from the distribution of the data: for each image of a split, one of the same class.

        Raises
        ------
        UserError
            If the space is no manifold to draw from, which is the default.
        """
        raise UserError(f"{type(self).__name__} does not generate images: use TrueManifold or LearnedManifold")

    @property
    def radius(self) -> float:
        """The radius that `project` uses: epsilon rounded down to float32, as float32(0.3) would be 0.300000012.

        In L2 it is smaller by a factor of 1 - 2^-20, so that the norm is at most epsilon regardless of the order in
        which its squares are summed.
        """
        radius = self.epsilon * (1 if self.norm is Norm.LINF else 1 - 2**-20)
        rounded = np.float32(radius)
        return float(rounded if float(rounded) <= radius else np.nextafter(rounded, np.float32(0)))

    def project(self, chart: Chart, codes: Floats) -> Floats:
        """Project codes (N, ...) into the ball around `chart.start`, then into the box.

        start + perturbation is rounded and may end up farther from the start than the perturbation is long; the next
        float towards the start does not. The start lies in the box, so clipping to the box moves every entry towards
        the start and cannot leave the ball.
        """
        perturbations = self.norm.clip(codes - chart.start, self.radius)
        moved = chart.start + perturbations
        too_far = np.abs(moved - chart.start) > np.abs(perturbations)
        moved = np.where(too_far, np.nextafter(moved, chart.start), moved)
        return np.clip(moved, chart.lower, chart.upper)

    def random_perturbations(self, random: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        """Draw perturbations of shape (N, ...), uniform in direction and in distance.

        Each is a Gaussian vector divided by its norm, times epsilon U(0, 1). (Samples uniform in the *volume* of a
        ball of hundreds of dimensions would almost all lie near its boundary.)
        """
        directions = random.standard_normal(shape, np.float32)
        distances = self.epsilon * random.random(shape[0], np.float32)
        perturbations = directions * per_row((distances / self.norm.of(directions)).astype(np.float32), directions)
        return self.norm.clip(perturbations, self.radius)


def check_space(space: Space) -> Space:
    """Return the space; raise UserError if it is something else."""
    if not isinstance(space, Space):
        raise UserError(f"a space must be an object such as ImageBall(epsilon=0.3), not {space!r}")
    return space


def checked_perturbable(space: Space, split: Split) -> Booleans:
    """Return `space.perturbable(split)`; raise UserError if it is not a bool for each image."""
    perturbable = space.perturbable(split)
    if not isinstance(perturbable, np.ndarray) or perturbable.dtype != bool or perturbable.shape != (len(split),):
        raise UserError(f"`perturbable` of {type(space).__name__} must return an array with a bool for each image")
    return perturbable


def check_decodes(space: Space, chart: Chart, images: Floats) -> None:
    """Raise UserError if a chart does not start at the images."""
    decoded = chart.decoded(chart.start)
    if decoded.shape != images.shape or not np.abs(decoded - images).max(initial=0) <= SAME_IMAGE:
        raise UserError(
            f"the codes of {type(space).__name__} do not decode to the images: take images, labels and codes from"
            " one split, or set `starts_at_image = False` in a space of your own"
        )


def projected(space: Space, chart: Chart, codes: Floats) -> Floats:
    """Return `space.project(chart, codes)` in the precision of the chart, which a space of one's own may change."""
    return _as_codes(space, "project", space.project(chart, codes), codes)


def random_start(space: Space, chart: Chart, random: np.random.Generator) -> Floats:
    """Return the codes of a chart after a random perturbation."""
    perturbations = space.random_perturbations(random, chart.start.shape)
    return projected(space, chart, chart.start + _as_codes(space, "random_perturbations", perturbations, chart.start))


def _as_codes(space: Space, method: str, result: Floats, codes: Floats) -> Floats:
    """Return what a method of a space returned; raise UserError if it has not the shape of the codes."""
    if np.shape(result) != codes.shape:
        raise UserError(f"`{method}` of {type(space).__name__} must return an array of shape {codes.shape}")
    return np.asarray(result, codes.dtype)


def can_compile(space: Space, chart: Chart) -> bool:
    """Return whether compiled code projects and decodes as these objects do.

    It does not if a subclass overrides `project`, or how codes are decoded but not `compiled`, or if every image has
    its own box.
    """
    one_box = all(np.ndim(bound) < chart.start.ndim for bound in (chart.lower, chart.upper))
    decodes_alike = chart.is_current("compiled", "decode", "image_of", "decoded")
    return type(space).project is Space.project and decodes_alike and one_box
