"""`Chart`: a perturbation space around one batch of images, which is all that an attack sees of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from hlf_np.autodiff import Tensor
from hlf_np.operations import clip
from hlf_np.programs.evaluation import Program
from hlf_np.support.arrays import Floats, Integers
from hlf_np.support.errors import UserError

if TYPE_CHECKING:
    from hlf_np.models import Model


@dataclass(frozen=True)
class Compiled:
    """A compiled program from codes to logits, with its inputs besides the codes.

    Parameters
    ----------
    program : Program
        The decoder and the model, compiled together.
    groups : ndarray of int64, shape (N,)
        The index of the decoder for each code; 0 where there is only one.
    sources : ndarray of float32, shape (N, E)
        The flattened image to warp for each code; E = 0 if nothing is warped.
    """

    program: Program
    groups: Integers
    sources: Floats


@dataclass(frozen=True)
class Chart(ABC):
    """A space around the images of one batch: their codes, the box, and the decoder.

    Subclasses implement `decode` and may add fields for what the decoder needs. Fields with one entry per image must be
    listed in `of_images`, so that `take` can select images.

    Parameters
    ----------
    start : ndarray of float32, shape (N, ...)
        The codes of the images, inside the box.
    lower, upper : ndarray of float32
        The box that codes must stay in; broadcast against `start`. There may be one for each image.

    Attributes
    ----------
    codes_are_images : bool
        Whether `decode` is the identity.
    of_images : tuple of str
        The names of all fields with one entry per image.
    """

    start: Floats
    lower: Floats
    upper: Floats
    codes_are_images: ClassVar[bool] = False
    of_images: ClassVar[tuple[str, ...]] = ("start",)

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """Map codes (N, ...) to images (N, H, W, C), differentiably."""

    def image_of(self, codes: Tensor) -> Tensor:
        """Map codes (N, ...) to images in [0, 1], whatever `decode` returns: there are no others to attack with."""
        return clip(self.decode(codes), 0, 1)

    def decoded(self, codes: Floats) -> Floats:
        """Map codes (N, ...) to images (N, H, W, C) in [0, 1] without recording gradients."""
        return self.image_of(Tensor(np.asarray(codes, self.start.dtype))).data

    def compiled(self, model: Model) -> Compiled | None:
        """Return a compiled program that decodes and classifies codes, or None if only autodiff can."""
        return None

    def take(self, rows: Integers) -> Self:
        """Return the chart of some of the images.

        Parameters
        ----------
        rows : ndarray of int64
            Indices of the images.

        Raises
        ------
        UserError
            If the class adds fields but does not define `of_images`.
        """
        added = {field.name for field in fields(self)} - {"start", "lower", "upper"}
        if added and type(self).of_images is Chart.of_images:  # a forgotten field would belong to other images
            raise UserError(
                f"{type(self).__name__} must list its fields with one entry per image: set of_images = (...)"
            )
        entries = {name: getattr(self, name) for name in {*self.of_images, *self.boxes_of_images}}
        return replace(self, **{name: entry[rows] for name, entry in entries.items() if entry is not None})

    def is_current(self, shortcut: str, *methods: str) -> bool:
        """Return whether `shortcut` still computes what `methods` do: no subclass redefines one of these alone."""
        first = next(cls for cls in type(self).__mro__ if {shortcut, *methods} & vars(cls).keys())
        return shortcut in vars(first)

    @property
    def boxes_of_images(self) -> tuple[str, ...]:
        """Those of `lower` and `upper` that have one entry per image."""
        sizes = {name: np.shape(getattr(self, name)) for name in ("lower", "upper")}
        return tuple(
            name for name, size in sizes.items() if len(size) == self.start.ndim and size[0] == len(self.start)
        )
