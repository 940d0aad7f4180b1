"""FONTS, a dataset with a known manifold: letters A to J of 1000 fonts under random affine maps.

The decoder of FONTS is explicit. An image of class y has the latent code (f, t), a font f and six affine parameters t
(translation x and y, shear x and y, scale, rotation), and is:

    x = warp(prototype[f, y], A(t))        A(t) = affine_matrix(t), see `hlf_np.operations.affine`

The parameters are uniform over a box, which depends on the difficulty. The true manifold of class y is the set of all
these images: 1000 six-dimensional pieces, one per font. As the decoder is differentiable in t, an attack can search the
manifold by gradient ascent (`hlf_np.spaces.true_manifold`).

Image i has a class, a font and a repeat; the class varies fastest:

    i = (repeat * fonts + font) * classes + class

There are 112 repeats, the first 96 for training and the last 16 for testing. So the first 250 training images are one
image each of 25 fonts x 10 letters, and every font also occurs in the test set.

Images are generated on demand. The parameters of image i are draws 6 i to 6 i + 5 of one random stream, which can be
entered at any position, so image i is the same no matter which others are generated with it.
"""

import os
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from string import ascii_uppercase
from typing import Any, Self

import numpy as np

from hlf_np.autodiff import Tensor
from hlf_np.data.dataset import Codes, Dataset, Split
from hlf_np.data.fonts.prototypes import load_prototypes, prototypes_digest
from hlf_np.kernels.operations.warp import warp_images
from hlf_np.operations import affine_matrix
from hlf_np.random import generator
from hlf_np.support.arrays import Bytes, Floats, Integers
from hlf_np.support.checks import check_choice, check_count
from hlf_np.support.errors import UserError
from hlf_np.support.files import digest

TRAIN_REPEATS, TEST_REPEATS = 96, 16
FONTS = "fonts"  # name of the dataset with the shipped prototypes


class Difficulty(StrEnum):
    """The range of the affine parameters, see `BOXES`; the paper uses hard."""

    EASY = "easy"
    MODERATE = "moderate"
    HARD = "hard"


@dataclass(frozen=True)
class Box:
    """Range of the six affine parameters, lengths in half images and the rotation in radians.

    Parameters
    ----------
    lower : tuple of float
        Lower bounds of translation x, y, shear x, y, scale and rotation.
    upper : tuple of float
        Upper bounds.
    """

    lower: tuple[float, ...]
    upper: tuple[float, ...]

    @classmethod
    def around_identity(cls, translation: float, shear: float, scale: tuple[float, float], rotation: float) -> Self:
        """Make a box around the identity: symmetric about 0, except for the scale.

        Parameters
        ----------
        translation : float
            Largest absolute translation in each direction.
        shear : float
            Largest absolute shear in each direction.
        scale : tuple of float
            Smallest and largest scale, below and above 1.
        rotation : float
            Largest absolute rotation.
        """
        return cls(
            (-translation, -translation, -shear, -shear, scale[0], -rotation),
            (translation, translation, shear, shear, scale[1], rotation),
        )

    def sample(self, random: np.random.Generator, count: int) -> Floats:
        """Draw uniform parameters, (count, 6) float32, with exactly six draws for each row."""
        lower, upper = np.array(self.lower), np.array(self.upper)
        uniform = random.random((count, len(lower)))
        return np.asarray(lower + (upper - lower) * uniform, np.float32)


BOXES = {
    Difficulty.EASY: Box.around_identity(0.1, 0.2, (0.90, 1.10), np.pi / 6),
    Difficulty.MODERATE: Box.around_identity(0.2, 0.4, (0.85, 1.15), np.pi / 3),
    Difficulty.HARD: Box.around_identity(0.2, 0.5, (0.75, 1.15), np.pi / 2),
}
# The transformations that the paper uses on EMNIST and Fashion-MNIST; on FONTS they are those of the difficulty.
EMNIST_BOX = Box.around_identity(0.15, 0.2, (0.85, 1.15), np.pi / 10)


@dataclass(frozen=True)
class Fonts:
    """Generator of FONTS images; a `hlf_np.data.source.Source`.

    Parameters
    ----------
    prototypes : ndarray of uint8, shape (fonts, classes, 28, 28)
        The letters of each font.
    difficulty : Difficulty
        Determines the box of the affine parameters.
    seed : int
        Seed of the affine parameters.
    name : str
        Name of the dataset in runs, where "fonts" stands for the shipped prototypes.

    Examples
    --------
    >>> fonts = Fonts(load_prototypes(), Difficulty.EASY)
    >>> split = fonts.split(np.array([0, 1, 10]))  # A and B of the first font, A of the second
    >>> split.labels.tolist(), split.codes.font.tolist()
    ([0, 1, 0], [0, 0, 1])
    >>> np.array_equal(fonts.decode(split.codes, split.labels), split.images)
    True
    """

    prototypes: Bytes
    difficulty: Difficulty = Difficulty.HARD
    seed: int = 0
    name: str = FONTS

    def __post_init__(self) -> None:
        if self.prototypes.dtype != np.uint8 or self.prototypes.ndim != 4:
            given = f"{self.prototypes.dtype} of shape {self.prototypes.shape}"
            raise UserError(f"prototypes must be uint8 of shape (fonts, classes, H, W), not {given}")
        object.__setattr__(self, "difficulty", check_choice("difficulty", self.difficulty, Difficulty))

    # --- the generator ---

    def split(self, indices: Integers) -> Split:
        """Generate images.

        Parameters
        ----------
        indices : ndarray of int, shape (N,)
            Indices of the images, from 0 to train_size + test_size - 1, in any order.

        Returns
        -------
        Split
            The images (N, 28, 28, 1) in the given order, with labels and codes.

        Raises
        ------
        UserError
            If an index is out of range.
        """
        indices = np.asarray(indices, np.int64)
        last = self.train_size + self.test_size - 1
        if indices.size and (indices.min() < 0 or indices.max() > last):
            raise UserError(f"FONTS has images 0 to {last}, not {indices.min()} to {indices.max()}")
        codes, labels = self.codes(indices), self.labels(indices)
        return Split(self.decode(codes, labels), labels, codes)

    def labels(self, indices: Integers) -> Integers:
        """Return the classes of the images with the given indices, (N,)."""
        return indices % self.classes

    def codes(self, indices: Integers) -> Codes:
        """Return the latent codes of the images with the given indices (N,), in any order."""
        font = indices // self.classes % len(self.prototypes)
        random = generator(self.seed, "fonts")
        stream = random.bit_generator
        assert isinstance(stream, np.random.PCG64)
        parameters = np.empty((len(indices), 6), np.float32)
        breaks = np.flatnonzero(np.diff(indices) != 1) + 1
        position = 0  # of the stream, in images
        for run in np.split(np.arange(len(indices)), breaks):  # runs of consecutive images
            if run.size:
                stream.advance(6 * (int(indices[run[0]]) - position))
                parameters[run] = self.box.sample(random, run.size)
                position = int(indices[run[-1]]) + 1
        return Codes(font, parameters)

    def decode(self, codes: Codes, labels: Integers) -> Floats:
        """Decode latent codes of the given classes to images, (N, 28, 28, 1) in [0, 1]."""
        matrices = affine_matrix(Tensor(codes.parameters)).data  # (N, 2, 3)
        images = warp_images(self.letters, matrices, codes.font * self.classes + labels)
        # The interpolation weights sum to 1 only up to rounding.
        return np.clip(images, 0, 1, out=images)

    @cached_property
    def letters(self) -> Floats:
        """The prototypes, (fonts * classes, 28, 28, 1) float32 in [0, 1]."""
        return self.prototypes.reshape(-1, *self.prototypes.shape[2:], 1).astype(np.float32) / np.float32(255)

    # --- the interface of a source ---

    def dataset(self, n_train: int, n_test: int) -> Dataset:
        """Generate the first `n_train` training and `n_test` test images; raise UserError if there are fewer."""
        for name, count, size in (("n_train", n_train, self.train_size), ("n_test", n_test, self.test_size)):
            check_count(name, count, minimum=0, maximum=size)
        train = self.split(np.arange(n_train))
        test = self.split(np.arange(self.train_size, self.train_size + n_test))
        return Dataset(self.name, self.class_names, train, test)

    def of_each_class(self, count: int) -> Split:
        """Generate the first `count` training images of each class, or all of them if there are fewer."""
        return self.split(np.arange(min(count, self.class_size) * self.classes))  # the class varies fastest

    @property
    def train_size(self) -> int:
        """Number of training images; the test images follow them."""
        return TRAIN_REPEATS * len(self.prototypes) * self.classes

    @property
    def test_size(self) -> int:
        return TEST_REPEATS * len(self.prototypes) * self.classes

    @property
    def class_size(self) -> int:
        return TRAIN_REPEATS * len(self.prototypes)

    @property
    def classes(self) -> int:
        return int(self.prototypes.shape[1])

    @property
    def class_names(self) -> tuple[str, ...]:
        has_letters = self.classes <= len(ascii_uppercase)
        return tuple(ascii_uppercase[: self.classes] if has_letters else map(str, range(self.classes)))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (int(self.prototypes.shape[2]), int(self.prototypes.shape[3]), 1)

    @property
    def box(self) -> Box:
        return BOXES[self.difficulty]

    @property
    def manifold(self) -> Self:
        return self

    @property
    def description(self) -> dict[str, Any]:
        if self.name == FONTS:
            return {"difficulty": self.difficulty, "prototypes": prototypes_digest()}
        return {"difficulty": self.difficulty, "digest": digest([self.difficulty, self.seed], self.prototypes)}


def load_fonts(
    n_train: int = 1000,
    n_test: int = 1000,
    difficulty: str = "hard",
    seed: int = 0,
    prototypes: str | os.PathLike[str] | None = None,
) -> Dataset:
    """Generate the FONTS dataset.

    Parameters
    ----------
    n_train : int
        Number of training images, up to 960,000 with the shipped prototypes.
    n_test : int
        Number of test images, up to 160,000.
    difficulty : {"easy", "moderate", "hard"}
        Range of the affine parameters.
    seed : int
        Seed of the affine parameters.
    prototypes : str or path-like, optional
        A file made by `python -m hlf_np fonts build`; by default, the shipped prototypes.

    Returns
    -------
    Dataset
        Images (N, 28, 28, 1) of 10 classes, with codes.

    Raises
    ------
    UserError
        If the difficulty is unknown, there are fewer images, or the file does not hold prototypes.

    Examples
    --------
    >>> data = load_fonts(n_train=20, n_test=10, difficulty="easy")
    >>> data.train.images.shape, data.test.labels.tolist()
    ((20, 28, 28, 1), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    >>> data.train.codes.parameters.shape  # translation x, y, shear x, y, scale, rotation
    (20, 6)
    """
    fonts = Fonts(load_prototypes(prototypes), check_choice("difficulty", difficulty, Difficulty), seed)
    return fonts.dataset(n_train, n_test)
