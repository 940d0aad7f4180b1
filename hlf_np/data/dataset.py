"""Labelled images and their positions on the manifold."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from hlf_np.support.arrays import Array, Floats, Integers
from hlf_np.support.checks import check_images, check_labels
from hlf_np.support.errors import UserError


@dataclass(frozen=True)
class Codes:
    """Positions on the true manifold of FONTS: the latent code of an image is (font, class, parameters).

    Parameters
    ----------
    font : ndarray of int64, shape (N,)
        Index of the font.
    parameters : ndarray of float32, shape (N, 6)
        Affine parameters: translation x, y, shear x, y, scale, rotation.
    """

    font: Integers
    parameters: Floats

    def take(self, rows: Integers | slice) -> Self:
        """Return the codes at the given indices or slice."""
        return replace(self, font=self.font[rows], parameters=self.parameters[rows])

    def joined(self, other: Self) -> Self:
        """Return these codes followed by others."""
        return replace(
            self,
            font=np.concatenate([self.font, other.font]),
            parameters=np.concatenate([self.parameters, other.parameters]),
        )


@dataclass(frozen=True)
class Split:
    """Images with their labels, and their codes if the manifold is known.

    Parameters
    ----------
    images : ndarray of float32, shape (N, H, W, C)
        Images in [0, 1].
    labels : ndarray of int64, shape (N,)
        The class of each image.
    codes : Codes, optional
        The position of each image on the true manifold.

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

    def arrays(self) -> list[Array]:
        """Return all arrays, not copies."""
        return [self.images, self.labels, *([self.codes.font, self.codes.parameters] if self.codes else [])]

    def take(self, rows: Integers | slice) -> Self:
        """Return the images, labels and codes at the given indices or slice."""
        codes = self.codes.take(rows) if self.codes else None
        return replace(self, images=self.images[rows], labels=self.labels[rows], codes=codes)

    def joined(self, other: Self) -> Self:
        """Return the images of this split followed by those of another, with codes if both have them."""
        return replace(
            self,
            images=np.concatenate([self.images, other.images]),
            labels=np.concatenate([self.labels, other.labels]),
            codes=self.codes.joined(other.codes) if self.codes and other.codes else None,
        )


def check_split(split: Split, classes: int, image_shape: tuple[int, int, int] | None = None) -> Split:
    """Check images and labels of a split, and convert them to float32 and int64.

    Parameters
    ----------
    split : Split
        The split.
    classes : int
        Number of classes; labels must be below it.
    image_shape : tuple of int, optional
        The required shape (H, W, C) of an image.

    Returns
    -------
    Split
        The split; arrays that need no conversion are not copied.

    Raises
    ------
    UserError
        If it is no split, its images or labels are invalid, see `hlf_np.support.checks`, or it has more or fewer
        codes than images.
    """
    if not isinstance(split, Split):
        raise UserError(
            f"images and labels must be given as a Split, not {type(split).__name__}: use Split(images, labels), or the"
            " attribute `train` or `test` of a dataset"
        )
    images, codes = check_images(split.images, image_shape), split.codes
    if codes is not None and not len(codes.font) == len(codes.parameters) == len(images):
        raise UserError(f"{len(codes.parameters)} codes for {len(images)} images: take both from one split")
    return replace(split, images=images, labels=check_labels(split.labels, classes, len(images)))


@dataclass(frozen=True)
class Dataset:
    """A dataset: its name, the names of its classes, and its training and test images.

    Parameters
    ----------
    name : str
        Name of the dataset.
    classes : tuple of str
        Name of each class, by label.
    train : Split
        Training images.
    test : Split
        Test images.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
