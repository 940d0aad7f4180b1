"""Labelled images, and where on the manifold they come from."""

from dataclasses import dataclass, replace
from typing import Self

from hlf_np.arrays import Floats, Integers
from hlf_np.checks import check_images, check_labels


@dataclass(frozen=True)
class Codes:
    """Places on the true manifold of FONTS: the latent code of an image is (font, class, parameters).

    font : (N,) int64; parameters : (N, 6) float32, translation x, y, shear x, y, scale, rotation.
    """

    font: Integers
    parameters: Floats

    def take(self, rows: Integers | slice) -> Self:
        return replace(self, font=self.font[rows], parameters=self.parameters[rows])


@dataclass(frozen=True)
class Split:
    """Images (N, H, W, C) float32 in [0, 1], labels (N,) int64, and their codes where the manifold is known.

    Examples
    --------
    >>> import numpy as np
    >>> split = Split(np.zeros((5, 28, 28, 1), np.float32), np.arange(5))
    >>> len(split), split.take(slice(0, 2)).labels.tolist()
    (5, [0, 1])
    """

    images: Floats
    labels: Integers
    codes: Codes | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Integers | slice) -> Self:
        """Some of the images, by index or slice."""
        codes = self.codes.take(rows) if self.codes else None
        return replace(self, images=self.images[rows], labels=self.labels[rows], codes=codes)

    def checked(self, classes: int, image_shape: tuple[int, int, int] | None = None) -> Self:
        """The same as this package computes with it; UserError for bad images or labels, see `checks`."""
        images = check_images(self.images, image_shape)
        return replace(self, images=images, labels=check_labels(self.labels, classes, len(images)))


@dataclass(frozen=True)
class Dataset:
    """A name, the names of the classes, and the images to train and to test on."""

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
