"""Where the images of a run come from: FONTS, files, or arrays."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hlf_np.arrays import Integers
from hlf_np.checks import check_count, check_images, check_labels
from hlf_np.data.dataset import Dataset, Split
from hlf_np.data.files import read_files
from hlf_np.data.fonts import EMNIST_BOX, Box, Fonts
from hlf_np.data.names import origin
from hlf_np.data.stored import Stored, StoredDataset
from hlf_np.errors import UserError
from hlf_np.files import digest
from hlf_np.random import generator


class Source(Protocol):
    """Training and test images, each in a fixed order of which a run takes the first; `Fonts` is one."""

    @property
    def name(self) -> str:
        """In the results."""

    @property
    def seed(self) -> int:
        """Of what is random about the images or their order."""

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def image_shape(self) -> tuple[int, int, int]: ...

    @property
    def box(self) -> Box:
        """Of the transformations that keep an image's class."""

    @property
    def manifold(self) -> Fonts | None:
        """The generator that knows the true manifold of the images, if any does."""

    @property
    def description(self) -> dict[str, Any]:
        """What the configuration of a run stores to find the same images again."""

    @property
    def train_size(self) -> int: ...

    @property
    def test_size(self) -> int: ...

    @property
    def class_size(self) -> int:
        """How many training images the largest class has."""

    def dataset(self, n_train: int, n_test: int) -> Dataset:
        """The first `n_train` training and the first `n_test` test images; UserError if there are fewer."""

    def of_each_class(self, count: int) -> Split:
        """The first `count` training images of each class, or all of it if it is smaller."""


@dataclass(frozen=True)
class StoredSource:
    """The images of a stored dataset, in an order that the seed decides: files may be sorted by class.

    Its classes are those that occur among the training images, so that a part of a dataset will do; test images of
    others are left out.

    path : of its files, None for arrays; image_size : the side that its images were resized to, None if they were not.
    """

    stored: StoredDataset
    path: Path | None = None
    seed: int = 0
    image_size: int | None = None
    present: Integers = field(init=False)  # the labels that occur, ascending
    train_rows: Integers = field(init=False)  # in the source's order
    test_rows: Integers = field(init=False)

    def __post_init__(self) -> None:
        train, test = self.stored.train, self.stored.test
        known = np.unique(train.labels)
        order = generator(self.seed, "idx", "test").permutation(len(test))
        for name, value in {
            "present": known,
            "train_rows": generator(self.seed, "idx", "train").permutation(len(train)),
            "test_rows": order[np.isin(test.labels[order], known)],
        }.items():
            object.__setattr__(self, name, value)

    @property
    def name(self) -> str:
        return self.stored.name.replace("-", "_")

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.stored.classes[label] for label in self.present)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        _, height, width, channels = self.stored.train.images.shape
        return (height, width, channels)

    @property
    def box(self) -> Box:
        return EMNIST_BOX

    @property
    def manifold(self) -> None:
        return None

    @property
    def description(self) -> dict[str, Any]:
        path = "" if self.path is None else str(self.path)
        return {"path": path, "digest": self.stored.digest, "prototypes": "", "image_size": int(self.image_size or 0)}

    @property
    def train_size(self) -> int:
        return len(self.train_rows)

    @property
    def test_size(self) -> int:
        return len(self.test_rows)

    @property
    def class_size(self) -> int:
        return int(np.bincount(self.stored.train.labels).max())

    def dataset(self, n_train: int, n_test: int) -> Dataset:
        for name, count, most in (("n_train", n_train, self.train_size), ("n_test", n_test, self.test_size)):
            check_count(name, count, least=0, most=most)
        train = self._known(self.stored.train.split(self.train_rows[:n_train]))
        return Dataset(self.name, self.class_names, train, self._known(self.stored.test.split(self.test_rows[:n_test])))

    def of_each_class(self, count: int) -> Split:
        labels = self.stored.train.labels[self.train_rows]
        places = np.concatenate([np.flatnonzero(labels == label)[:count] for label in self.present])
        return self._known(self.stored.train.split(self.train_rows[np.sort(places)]))

    def _known(self, split: Split) -> Split:
        """With labels that count the present classes."""
        return Split(split.images, np.searchsorted(self.present, split.labels).astype(np.int64))


def open_files(path: Path, name: str | None = None, seed: int = 0, image_size: int | None = None) -> StoredSource:
    """A source of the images in files, see `hlf_np.data.load`.

    Raises
    ------
    UserError : as `load` does; a missing dataset comes with the place where to get it.
    """
    if not os.path.exists(path):
        hint = origin(str(path))
        raise UserError(f"unknown dataset {str(path)!r}: use fonts, or a folder of images or files: {hint}")
    return StoredSource(read_files(path, name, image_size), Path(os.path.abspath(path)), seed, image_size)


def array_source(dataset: Dataset, seed: int = 0) -> StoredSource:
    """A source of images that are in memory.

    Raises
    ------
    UserError : for images and labels that are not as those of a `Dataset`, or none to train or to test on.

    Examples
    --------
    >>> source = array_source(Dataset("noise", ("a", "b"), *[Split(np.zeros((4, 8, 8, 1)), np.arange(4) % 2)] * 2))
    >>> source.name, source.image_shape, source.dataset(3, 2).train.images.shape
    ('noise', (8, 8, 1), (3, 8, 8, 1))
    """
    name, classes = dataset.name, dataset.classes
    if not len(dataset.train) or not len(dataset.test):
        raise UserError(f"{name!r} needs images to train and to test on: add some")
    images = check_images(dataset.train.images), check_images(dataset.test.images, dataset.train.images.shape[1:])
    labels = [check_labels(split.labels, len(classes), len(split)) for split in (dataset.train, dataset.test)]
    train, test = (Stored(*pair, white=1) for pair in zip(images, labels, strict=True))
    return StoredSource(StoredDataset(name, classes, train, test, digest([name, classes], *images, *labels)), seed=seed)
