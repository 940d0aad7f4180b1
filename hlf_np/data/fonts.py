"""FONTS: letters A to J of 1000 fonts under random affine maps; a dataset whose manifold is known.

An image is decoded from (font, class, t): the font's prototype of the letter, warped by six parameters t
that are uniform over a box. So the true manifold of a class is the set of all its prototypes' warps, and
its decoder is differentiable in t. There are 112 draws of t per prototype: 96 for training, 16 for
testing. The order is repeat, then font, then class: the first 250 training images are one image each of
25 fonts x 10 letters, and every font also occurs in the test set.

Images are generated on demand. The parameters of image i are numbers 6 i to 6 i + 5 of one stream of
random numbers, which can be entered anywhere, so image i is the same whatever else is generated with it.
"""

import hashlib
import os
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from hlf_np.arrays import Bytes, Floats, Integers
from hlf_np.autodiff import Tensor
from hlf_np.checks import check_choice, check_count
from hlf_np.data.dataset import Codes, Dataset, Split
from hlf_np.errors import UserError
from hlf_np.files import digest, read_arrays
from hlf_np.kernels.warp import warp_images
from hlf_np.operations import affine_matrix
from hlf_np.random import generator

TRAIN_REPEATS, TEST_REPEATS = 96, 16
LETTERS = tuple("ABCDEFGHIJ")
FONTS = "fonts"  # the name of the dataset with the shipped prototypes


class Difficulty(StrEnum):
    """How far the parameters vary; the paper uses hard."""

    EASY = "easy"
    MODERATE = "moderate"
    HARD = "hard"


@dataclass(frozen=True)
class Box:
    """The range of the parameters t: translation x, y, shear x, y, scale, rotation."""

    lower: tuple[float, ...]
    upper: tuple[float, ...]

    @classmethod
    def around_identity(cls, translation: float, shear: float, scale: tuple[float, float], rotation: float) -> Self:
        """Translation, shear and rotation to both sides of 0; scale between two numbers around 1."""
        return cls(
            (-translation, -translation, -shear, -shear, scale[0], -rotation),
            (translation, translation, shear, shear, scale[1], rotation),
        )

    def sample(self, random: np.random.Generator, count: int) -> Floats:
        """Uniform parameters, (count, 6) float32; takes exactly six numbers of the stream for each."""
        lower, upper = np.array(self.lower), np.array(self.upper)
        uniform = random.random((count, len(lower)))
        return np.asarray(lower + (upper - lower) * uniform, np.float32)


BOXES = {
    Difficulty.EASY: Box.around_identity(0.1, 0.2, (0.90, 1.10), np.pi / 6),
    Difficulty.MODERATE: Box.around_identity(0.2, 0.4, (0.85, 1.15), np.pi / 3),
    Difficulty.HARD: Box.around_identity(0.2, 0.5, (0.75, 1.15), np.pi / 2),
}
# What the paper allows on EMNIST and Fashion-MNIST; on FONTS it is the box of the difficulty.
EMNIST_BOX = Box.around_identity(0.15, 0.2, (0.85, 1.15), np.pi / 10)


@dataclass(frozen=True)
class Fonts:
    """The generator of FONTS images, a `data.source.Source`.

    prototypes : (fonts, classes, 28, 28) uint8; difficulty : the box of the parameters; seed : of their stream.
    name : another one for other prototypes than the shipped.
    """

    prototypes: Bytes
    difficulty: Difficulty = Difficulty.HARD
    seed: int = 0
    name: str = FONTS

    @property
    def classes(self) -> int:
        return int(self.prototypes.shape[1])

    @property
    def class_names(self) -> tuple[str, ...]:
        return LETTERS[: self.classes]

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

    @property
    def train_size(self) -> int:
        """Training images are numbers 0 to train_size - 1, test images the test_size numbers after them."""
        return TRAIN_REPEATS * len(self.prototypes) * self.classes

    @property
    def test_size(self) -> int:
        return TEST_REPEATS * len(self.prototypes) * self.classes

    @property
    def class_size(self) -> int:
        return TRAIN_REPEATS * len(self.prototypes)

    def labels(self, indices: Integers) -> Integers:
        """The classes of images, (N,)."""
        return indices % self.classes

    def codes(self, indices: Integers) -> Codes:
        """The places of images on the manifold, (N,) indices in any order."""
        font = indices // self.classes % len(self.prototypes)
        random = generator(self.seed, "fonts")
        stream = random.bit_generator
        assert isinstance(stream, np.random.PCG64)
        parameters = np.empty((len(indices), 6), np.float32)
        breaks = np.flatnonzero(np.diff(indices) != 1) + 1
        position = 0
        for run in np.split(np.arange(len(indices)), breaks):  # of consecutive images
            if run.size:
                stream.advance(6 * (int(indices[run[0]]) - position))
                parameters[run] = self.box.sample(random, run.size)
                position = int(indices[run[-1]]) + 1
        return Codes(font, parameters)

    @cached_property
    def letters(self) -> Floats:
        """The unwarped letters, (fonts * classes, 28, 28, 1) float32 in [0, 1]."""
        return self.prototypes.reshape(-1, *self.prototypes.shape[2:], 1).astype(np.float32) / np.float32(255)

    def decode(self, codes: Codes, labels: Integers) -> Floats:
        """The images of codes, (N, 28, 28, 1)."""
        matrices = affine_matrix(Tensor(codes.parameters)).data
        images = warp_images(self.letters, matrices, codes.font * self.classes + labels)
        # interpolation weights sum to 1 only up to rounding
        return np.clip(images, 0, 1, out=images)

    def split(self, indices: Integers) -> Split:
        """Images number `indices`, each from 0 to train_size + test_size - 1, in the order given.

        Raises
        ------
        UserError : for an index beyond the last image.
        """
        indices = np.asarray(indices, np.int64)
        if indices.size and (indices.min() < 0 or indices.max() >= self.train_size + self.test_size):
            last = self.train_size + self.test_size - 1
            raise UserError(f"FONTS has images 0 to {last}, asked for {indices.min()} to {indices.max()}")
        codes, labels = self.codes(indices), self.labels(indices)
        return Split(self.decode(codes, labels), labels, codes)

    def dataset(self, n_train: int, n_test: int) -> Dataset:
        for name, count, most in (("n_train", n_train, self.train_size), ("n_test", n_test, self.test_size)):
            check_count(name, count, least=0, most=most)
        train = self.split(np.arange(n_train))
        test = self.split(np.arange(self.train_size, self.train_size + n_test))
        return Dataset(self.name, self.class_names, train, test)

    def of_each_class(self, count: int) -> Split:
        return self.split(np.arange(count * self.classes))  # every tenth image is of the same class


def prototypes_path() -> Path:
    """The prototypes that come with the package: inside it when installed, beside it in a checkout."""
    package = Path(__file__).parent
    installed = package / "prototypes.npz"
    return installed if installed.exists() else package.parents[1] / "fonts" / "prototypes.npz"


@cache
def prototypes_digest() -> str:
    """The SHA-256 of the shipped prototypes' file: results are comparable only where it is the same."""
    try:
        return hashlib.sha256(prototypes_path().read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {str(prototypes_path())!r} ({error.strerror}): install hlf_np again") from None


def load_prototypes(path: str | os.PathLike[str] | None = None) -> Bytes:
    """Prototypes (fonts, classes, 28, 28) uint8 from a file of `fonts build`, the shipped ones by default.

    Raises
    ------
    UserError : if the file is missing or holds something else.

    Examples
    --------
    >>> load_prototypes().shape
    (1000, 10, 28, 28)
    """
    path = prototypes_path() if path is None else Path(path)
    hint = "make one with `python -m hlf_np fonts build DIR`"
    try:
        images = read_arrays(path)["images"]
    except FileNotFoundError:
        raise UserError(f"there is no prototypes file {str(path)!r}: {hint}") from None
    except (ValueError, KeyError):
        raise UserError(f"{str(path)!r} is not a file of font prototypes, or damaged: {hint}") from None
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (len(LETTERS), 28, 28) or not len(images):
        raise UserError(
            f"{str(path)!r} holds {images.dtype} of shape {images.shape}, not letters A to J in 28x28: {hint}"
        )
    return images


def load_fonts(
    n_train: int = 1000,
    n_test: int = 1000,
    difficulty: str = "hard",
    seed: int = 0,
    prototypes: str | os.PathLike[str] | None = None,
) -> Dataset:
    """FONTS, generated.

    Parameters
    ----------
    n_train, n_test : how many images, up to 960,000 and 160,000 with the shipped prototypes.
    difficulty : "easy", "moderate" or "hard", the box of the affine parameters.
    seed : of the random parameters.
    prototypes : a file of `python -m hlf_np fonts build`, if not the shipped one.

    Returns
    -------
    A dataset of 10 classes with 28x28x1 images and their codes.

    Raises
    ------
    UserError : for an unknown difficulty, too many images, or a bad file.

    Examples
    --------
    >>> data = load_fonts(n_train=20, n_test=10, difficulty="easy")
    >>> data.train.images.shape, data.test.labels.tolist()
    ((20, 28, 28, 1), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    >>> data.train.codes.parameters.shape  # where on the manifold they are
    (20, 6)
    """
    fonts = Fonts(load_prototypes(prototypes), check_choice("difficulty", difficulty, Difficulty), seed)
    return fonts.dataset(n_train, n_test)
