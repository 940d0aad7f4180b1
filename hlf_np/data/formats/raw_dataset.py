"""Datasets as read from files of any format; images stay bytes until they are needed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self, TypeVar

import numpy as np

from hlf_np.data.dataset import Dataset, Split
from hlf_np.data.formats.known_datasets import CLASS_NAMES
from hlf_np.random import generator
from hlf_np.support.arrays import Array, Integers
from hlf_np.support.errors import UserError
from hlf_np.support.files import digest

PARTS = {"train": "train", "test": "test", "t10k": "test", "val": "val", "valid": "val", "validation": "val"}
MAX_CHANNELS = 4
MAX_CLASSES = 2**16  # labels must be below it
TEST_DIVISOR = 5  # if one part is missing, one fifth of the other is held out for testing
ROUNDING = 1e-3  # by which floating-point values may exceed 1
MIN_WHITE = 16  # values that end there or below belong to no known scale, unless they end at 1
T = TypeVar("T")


@dataclass(frozen=True)
class RawSplit:
    """Images and labels as stored in files, except that images are upright and labels start from 0.

    Parameters
    ----------
    images : ndarray, shape (N, H, W, C)
        Images from 0 to `white_value`, of any numeric type.
    labels : ndarray of int64, shape (N,)
        The class of each image.
    white_value : int
        Value of a white pixel.
    """

    images: Array
    labels: Integers
    white_value: int = 255

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Integers) -> Self:
        """Return the images and labels at the given indices."""
        return replace(self, images=self.images[rows], labels=self.labels[rows])

    def split(self, rows: Integers | slice = slice(None)) -> Split:
        """Return the images at the given indices as float32 in [0, 1], with their labels."""
        images = np.divide(self.images[rows], np.float32(self.white_value), dtype=np.float32, order="C")
        return Split(np.minimum(images, 1, out=images), self.labels[rows])


@dataclass(frozen=True)
class RawDataset:
    """A dataset as stored in files; bytes take a quarter of the memory of float32.

    Parameters
    ----------
    name : str
        Name of the dataset.
    classes : tuple of str
        Name of each class, by label.
    train : RawSplit
        Training images.
    test : RawSplit
        Test images.
    digest : str
        Digest of the name and of all images and labels.
    """

    name: str
    classes: tuple[str, ...]
    train: RawSplit
    test: RawSplit
    digest: str

    def dataset(self) -> Dataset:
        """Return all images as float32 in [0, 1]."""
        return Dataset(self.name, self.classes, self.train.split(), self.test.split())


@dataclass(frozen=True)
class RawArray:
    """An array read from a file.

    Parameters
    ----------
    name : str
        Name of the file (and of the array in it) for messages.
    array : ndarray
        Images (N, H, W, C) or labels (N,).
    checksum : str
        Checksum of the content.
    """

    name: str
    array: Array
    checksum: str


ImagesAndLabels = tuple[RawArray, RawArray]  # (N, H, W, C) and (N,) int64


@dataclass(frozen=True)
class ReadRequest:
    """A request to read a dataset.

    Parameters
    ----------
    path : Path
        The path that the user gave.
    name : str
        Name of the dataset.
    is_named : bool
        Whether the user or the names of the files gave this name; otherwise it comes from the folder.
    image_size : int, optional
        Side in pixels to which images are resized.
    """

    path: Path
    name: str
    is_named: bool
    image_size: int | None = None


@dataclass(frozen=True)
class FoundDataset:
    """A dataset found in a folder.

    Parameters
    ----------
    read : callable
        Function that reads it.
    unnamed : str
        Description of the files if the dataset's name is not known from them; empty if it is.
    resizes : bool
        Whether its images can be resized.
    """

    read: Callable[[ReadRequest], RawDataset]
    unnamed: str = ""
    resizes: bool = False


def train_and_test(parts: Mapping[str, T]) -> dict[str, T]:
    """Return the parts "train" and "test" if present; validation data replace missing test data."""
    chosen = {"train": parts.get("train"), "test": parts.get("test", parts.get("val"))}
    return {part: content for part, content in chosen.items() if content is not None}


def check_arrays(images: Array, images_name: str, labels: Array, labels_name: str) -> ImagesAndLabels:
    """Validate an array of images and an array of as many labels, and compute their checksums."""
    if labels.ndim and images.ndim:
        check_counts(images_name, len(images), labels_name, len(labels))
    return (
        RawArray(images_name, as_images(images, images_name), digest(images.dtype.str, images)),
        RawArray(labels_name, as_labels(labels, labels_name), digest(labels.dtype.str, labels)),
    )


def check_counts(images_name: str, images: int, labels_name: str, labels: int) -> None:
    """Raise UserError unless there is one label for each image."""
    if images != labels:
        raise UserError(
            f"{images_name!r} holds {images} images, but {labels_name!r} {labels} labels: download both files again"
        )


def as_images(array: Array, name: str) -> Array:
    """Reshape images (N, H, W) or (N, H, W, C) to (N, H, W, C); raise UserError for anything else."""
    numeric = array.dtype.kind in "biuf" and array.size
    if not numeric or array.ndim not in (3, 4) or array.shape[3:] > (MAX_CHANNELS,):
        raise UserError(
            f"{name!r} holds images of shape {array.shape[1:]}: give height, width and up to {MAX_CHANNELS} channels,"
            " in this order"
        )
    return array.reshape(*array.shape[:3], -1)


def as_labels(array: Array, name: str) -> Integers:
    """Convert labels (N,) or (N, 1) to (N,) int64; raise UserError for anything else."""
    if array.ndim == 2 and array.shape[1] != 1:
        raise UserError(f"{name!r} holds {array.shape[1]} values for each image: give one, the index of its class")
    if array.dtype.kind not in "biuf" or array.ndim not in (1, 2) or not array.size:
        raise UserError(f"{name!r} holds {array.dtype} of shape {array.shape}: give one integer for each image")
    flat = array.reshape(-1)
    if not (flat.min() >= 0 and flat.max() < MAX_CLASSES and (flat == np.rint(flat)).all()):  # NaN compares false
        raise UserError(
            f"{name!r} holds labels from {flat.min()} to {flat.max()}: give integers from 0 to {MAX_CLASSES - 1}"
        )
    return flat.astype(np.int64)


def assemble(
    path: Path, name: str, parts: Mapping[str, ImagesAndLabels], classes: tuple[str, ...] = (), first_label: int = 0
) -> RawDataset:
    """Assemble a dataset from the images and labels of its parts.

    Parameters
    ----------
    path : Path
        The path that the user gave.
    name : str
        Name of the dataset.
    parts : mapping of str to (RawArray, RawArray)
        Images and labels of "train", "test" or both.
    classes : tuple of str
        Names of the classes; by default those of a known dataset, else the labels.
    first_label : int
        Label of the first class in the files.

    Returns
    -------
    RawDataset
        Training and test images, with labels from 0.

    Raises
    ------
    UserError
        If labels or pixels are out of range, or the parts differ in image size.
    """
    classes = classes or CLASS_NAMES.get(name, ())
    if not classes:
        classes = tuple(str(label) for label in range(1 + max(int(labels.array.max()) for _, labels in parts.values())))
    white_values = _white_values(parts)
    splits = {}
    for part, (images, labels) in parts.items():
        lowest, highest = int(labels.array.min()), int(labels.array.max())
        if lowest < first_label or highest >= first_label + len(classes):
            raise UserError(
                f"{labels.name!r} has labels {lowest} to {highest}, those of {name} are {first_label} to"
                f" {first_label + len(classes) - 1}: download it again, or give the dataset another name"
            )
        splits[part] = RawSplit(images.array, labels.array - first_label, white_values[part])
    checksums = {part: [content.checksum for content in parts[part]] for part in sorted(parts)}
    return RawDataset(name, classes, *_two_splits(path, splits), digest=digest([name, checksums]))


def _white_values(parts: Mapping[str, ImagesAndLabels]) -> dict[str, int]:
    """Return the value of a white pixel in each part, 1 or 255.

    It is 1 for floating-point and Boolean parts if none of them has a value above 1, and for all parts if no part has
    one, since images of integers are then binary. Floating-point values may exceed it by rounding. Otherwise it is 255,
    which is contradicted by a part whose values end far below, unless all are 0.
    """
    expected = "give values from 0 to 255, or floating-point values from 0 to 1"
    for images, _ in parts.values():
        low, high = images.array.min(), images.array.max()
        if not (low >= 0 and high <= 255):  # NaN compares false
            raise UserError(f"{images.name!r} has pixels from {low:g} to {high:g}: {expected}")
    highest = {part: float(images.array.max()) for part, (images, _) in parts.items()}
    floats = {part for part, (images, _) in parts.items() if images.array.dtype.kind in "bf"}
    if all(high <= 1 for high in highest.values()):
        floats = set(parts)
    white_is_1 = all(highest[part] <= 1 + ROUNDING for part in floats)
    white_values = {part: 1 if part in floats and white_is_1 else 255 for part in parts}
    brightest = max(highest.values())
    for part, (images, _) in sorted(parts.items()):
        if white_values[part] == 255 and 0 < highest[part] <= MIN_WHITE:
            others = f", the brightest images {brightest:g}" if brightest > highest[part] else ""
            raise UserError(f"{images.name!r} has pixels up to {highest[part]:g}{others}: {expected}")
    return white_values


def _two_splits(path: Path, splits: dict[str, RawSplit]) -> tuple[RawSplit, RawSplit]:
    """Return training and test images; if there is only one part, hold out one fifth of it.

    At least one image of each class remains for training.
    """
    if len(splits) == 2:
        train, test = splits["train"], splits["test"]
        if train.images.shape[1:] != test.images.shape[1:]:
            raise UserError(f"training and test images in {str(path)!r} differ in size: get both from the same source")
        return train, test
    (only,) = splits.values()
    order = generator(0, "idx parts").permutation(len(only))  # files may be sorted by class
    _, from_end = np.unique(only.labels[order][::-1], return_index=True)
    may_be_held_out = np.delete(order, len(order) - 1 - from_end)  # all but the last image of each class
    held_out = np.sort(may_be_held_out[: len(only) // TEST_DIVISOR])
    if not len(held_out):
        raise UserError(f"{len(only)} images in {str(path)!r} are too few to train and to test: add the other files")
    return only.take(np.setdiff1d(order, held_out)), only.take(held_out)
