"""Where the images of a run come from: FONTS, files, or arrays."""

import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hlf_np.checks import check_count
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


class StoredSource:
    """The images of a stored dataset, in an order that the seed decides: files may be sorted by class.

    Its classes are those that occur among the training images, so that a part of a dataset will do; test images of
    others are left out.

    path : of its files, None for arrays; image_size : the side that its images were resized to, None if they were not.
    """

    box = EMNIST_BOX
    manifold = None

    def __init__(
        self, stored: StoredDataset, path: Path | None = None, seed: int = 0, image_size: int | None = None
    ) -> None:
        self.stored, self.seed = stored, seed
        self.name = stored.name.replace("-", "_")
        self.description: dict[str, Any] = {
            "path": str(path or ""),
            "digest": stored.digest,
            "prototypes": "",
            "image_size": int(image_size or 0),
        }
        train, test = stored.train, stored.test
        self.present = np.unique(train.labels)  # ascending
        self.class_names = tuple(stored.classes[label] for label in self.present)
        self.class_size = int(np.bincount(train.labels).max())
        _, height, width, channels = train.images.shape
        self.image_shape = (height, width, channels)
        self._train_rows = generator(seed, "idx", "train").permutation(len(train))
        order = generator(seed, "idx", "test").permutation(len(test))
        self._test_rows = order[np.isin(test.labels[order], self.present)]
        if not len(self._test_rows):
            raise UserError(f"no test image of {stored.name!r} is of a class that the training images have: add some")
        self.train_size, self.test_size = len(self._train_rows), len(self._test_rows)

    def dataset(self, n_train: int, n_test: int) -> Dataset:
        for name, count, most in (("n_train", n_train, self.train_size), ("n_test", n_test, self.test_size)):
            check_count(name, count, least=0, most=most)
        train = self._known(self.stored.train.split(self._train_rows[:n_train]))
        test = self._known(self.stored.test.split(self._test_rows[:n_test]))
        return Dataset(self.name, self.class_names, train, test)

    def of_each_class(self, count: int) -> Split:
        labels = self.stored.train.labels[self._train_rows]
        places = np.concatenate([np.flatnonzero(labels == label)[:count] for label in self.present])
        return self._known(self.stored.train.split(self._train_rows[np.sort(places)]))

    def _known(self, split: Split) -> Split:
        """With labels that count the present classes."""
        return Split(split.images, np.searchsorted(self.present, split.labels).astype(np.int64))


def open_files(path: Path, name: str | None = None, seed: int = 0, image_size: int | None = None) -> StoredSource:
    """A source of the images in files, see `hlf_np.data.load`; UserErrors of missing ones say where to get them."""
    if not os.path.exists(path):
        hint = origin(str(path))
        raise UserError(f"unknown dataset {str(path)!r}: use fonts, or a folder of images or files: {hint}")
    return StoredSource(read_files(path, name, image_size), Path(os.path.abspath(path)), seed, image_size)


def array_source(dataset: Dataset, seed: int = 0) -> StoredSource:
    """A source of images in memory; UserError where they are not as those of a `Dataset`, or one part has none.

    Examples
    --------
    >>> source = array_source(Dataset("noise", ("a", "b"), *[Split(np.zeros((4, 8, 8, 1)), np.arange(4) % 2)] * 2))
    >>> source.name, source.image_shape, source.dataset(3, 2).train.images.shape
    ('noise', (8, 8, 1), (3, 8, 8, 1))
    """
    name, classes = dataset.name, dataset.classes
    if not len(dataset.train) or not len(dataset.test):
        raise UserError(f"{name!r} needs images to train and to test on: add some")
    first = dataset.train.checked(len(classes))
    splits = (first, dataset.test.checked(len(classes), first.images.shape[1:]))
    train, test = (Stored(split.images, split.labels, white=1) for split in splits)
    arrays = (train.images, test.images, train.labels, test.labels)
    return StoredSource(StoredDataset(name, classes, train, test, digest([name, classes], *arrays)), seed=seed)
