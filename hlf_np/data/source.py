"""Sources of a run's images: FONTS, files or arrays."""

import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hlf_np.data.dataset import Dataset, Split, check_split
from hlf_np.data.files import read_files
from hlf_np.data.fonts import EMNIST_BOX, Box, Fonts
from hlf_np.data.formats.known_datasets import download_hint
from hlf_np.data.formats.raw_dataset import RawDataset, RawSplit
from hlf_np.random import generator
from hlf_np.support.checks import check_count
from hlf_np.support.errors import UserError
from hlf_np.support.files import digest


class Source(Protocol):
    """Training and test images, each in a fixed order, from which a run takes the first; `Fonts` is an example."""

    @property
    def name(self) -> str:
        """Name of the dataset in the results."""

    @property
    def seed(self) -> int:
        """Seed of the images or of their order."""

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def image_shape(self) -> tuple[int, int, int]: ...

    @property
    def box(self) -> Box:
        """Range of the affine transformations that keep an image's class."""

    @property
    def manifold(self) -> Fonts | None:
        """The generator of the images if their true manifold is known."""

    @property
    def description(self) -> dict[str, Any]:
        """What the configuration of a run stores in order to find the same images again."""

    @property
    def train_size(self) -> int: ...

    @property
    def test_size(self) -> int: ...

    @property
    def class_size(self) -> int:
        """Number of training images of the largest class."""

    def dataset(self, n_train: int, n_test: int) -> Dataset:
        """Return the first `n_train` training and `n_test` test images; raise UserError if there are fewer."""

    def of_each_class(self, count: int) -> Split:
        """Return the first `count` training images of each class, or all images of a smaller class."""


class ArraySource:
    """The images of a dataset in memory, in an order that depends on the seed, as files may be sorted by class.

    The classes are those of the training images, so that part of a dataset suffices; test images of other classes are
    ignored.

    Parameters
    ----------
    raw : RawDataset
        Images and labels as stored in files.
    path : Path, optional
        Path of the files; None for arrays.
    seed : int
        Seed of the order.
    image_size : int, optional
        Side in pixels to which the images were resized.

    Raises
    ------
    UserError
        If no test image belongs to a class of the training images.

    Attributes
    ----------
    left_out : int
        Number of test images of other classes.
    """

    box = EMNIST_BOX
    manifold = None

    def __init__(self, raw: RawDataset, path: Path | None = None, seed: int = 0, image_size: int | None = None) -> None:
        self.raw, self.seed = raw, seed
        self.name = raw.name.replace("-", "_")
        self.description: dict[str, Any] = {
            "path": str(path or ""),
            "digest": raw.digest,
            "prototypes": "",
            "image_size": int(image_size or 0),
        }
        train, test = raw.train, raw.test
        self._train_labels = np.unique(train.labels)  # ascending
        self.class_names = tuple(raw.classes[label] for label in self._train_labels)
        self.class_size = int(np.bincount(train.labels).max())
        _, height, width, channels = train.images.shape
        self.image_shape = (height, width, channels)
        self._train_rows = generator(seed, "idx", "train").permutation(len(train))
        order = generator(seed, "idx", "test").permutation(len(test))
        self._test_rows = order[np.isin(test.labels[order], self._train_labels)]
        if not len(self._test_rows):
            raise UserError(f"no test image of {raw.name!r} belongs to a class of the training images: add test images")
        self.left_out = len(test) - len(self._test_rows)
        self.train_size, self.test_size = len(self._train_rows), len(self._test_rows)

    def dataset(self, n_train: int, n_test: int) -> Dataset:
        for name, count, size in (("n_train", n_train, self.train_size), ("n_test", n_test, self.test_size)):
            check_count(name, count, minimum=0, maximum=size)
        train = self._relabelled(self.raw.train.split(self._train_rows[:n_train]))
        test = self._relabelled(self.raw.test.split(self._test_rows[:n_test]))
        return Dataset(self.name, self.class_names, train, test)

    def of_each_class(self, count: int) -> Split:
        labels = self.raw.train.labels[self._train_rows]
        positions = np.concatenate([np.flatnonzero(labels == label)[:count] for label in self._train_labels])
        return self._relabelled(self.raw.train.split(self._train_rows[np.sort(positions)]))

    def _relabelled(self, split: Split) -> Split:
        """Number the classes of the training images consecutively from 0."""
        return Split(split.images, np.searchsorted(self._train_labels, split.labels).astype(np.int64))


def open_files(path: Path, name: str | None = None, seed: int = 0, image_size: int | None = None) -> ArraySource:
    """Open a dataset of files.

    Parameters
    ----------
    path : Path
        Folder or file, see `hlf_np.data.load`.
    name : str, optional
        Which of several datasets in the files to read.
    seed : int
        Seed of the order of the images.
    image_size : int, optional
        Side in pixels to which the images are resized.

    Returns
    -------
    ArraySource
        The training and test images.

    Raises
    ------
    UserError
        If the files are damaged, or missing; then the message says where to download them.
    """
    if not os.path.exists(path):
        hint = download_hint(str(path))
        raise UserError(f"unknown dataset {str(path)!r}: use fonts, or a folder of images or files: {hint}")
    return ArraySource(read_files(path, name, image_size), Path(os.path.abspath(path)), seed, image_size)


def check_class_names(names: tuple[str, ...]) -> None:
    """Raise UserError unless the names of classes are a tuple of str, which a run stores and compares."""
    if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
        raise UserError(f"the names of classes must be a tuple of str, not {names!r:.60}")


def array_source(dataset: Dataset, seed: int = 0) -> ArraySource:
    """Make a source of the images of a dataset in memory.

    Parameters
    ----------
    dataset : Dataset
        Training and test images, at least one of each.
    seed : int
        Seed of the order of the images.

    Returns
    -------
    ArraySource
        The training and test images.

    Raises
    ------
    UserError
        If images or labels are invalid, or one of the splits is empty.

    Examples
    --------
    >>> source = array_source(Dataset("noise", ("a", "b"), *[Split(np.zeros((4, 8, 8, 1)), np.arange(4) % 2)] * 2))
    >>> source.name, source.image_shape, source.dataset(3, 2).train.images.shape
    ('noise', (8, 8, 1), (3, 8, 8, 1))
    """
    name, classes = dataset.name, dataset.classes
    if not len(dataset.train) or not len(dataset.test):
        raise UserError(f"dataset {name!r} needs training images and test images: add some")
    check_class_names(tuple(classes))
    checked_train = check_split(dataset.train, len(classes))
    checked_test = check_split(dataset.test, len(classes), checked_train.images.shape[1:])
    train, test = (RawSplit(split.images, split.labels, white_value=1) for split in (checked_train, checked_test))
    arrays = (train.images, test.images, train.labels, test.labels)
    return ArraySource(RawDataset(name, classes, train, test, digest([name, classes], *arrays)), seed=seed)
