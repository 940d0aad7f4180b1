"""Datasets as their files have them, whatever the format; whose images stay bytes until they are needed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self, TypeVar

import numpy as np

from hlf_np.arrays import Array, Integers
from hlf_np.data.dataset import Dataset, Split
from hlf_np.data.names import CLASSES
from hlf_np.errors import UserError
from hlf_np.files import digest
from hlf_np.random import generator

PARTS = {"train": "train", "test": "test", "t10k": "test", "val": "val", "valid": "val", "validation": "val"}
MOST_CHANNELS = 4
MOST_CLASSES = 2**16  # a larger label is none
TEST_SHARE = 5  # where one part is missing, a fifth of the other serves to test


@dataclass(frozen=True)
class Stored:
    """Images (N, H, W, C) as their files have them, but upright, and labels (N,) from 0. white : of a white pixel."""

    images: Array
    labels: Integers
    white: int = 255

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Integers) -> Self:
        return replace(self, images=self.images[rows], labels=self.labels[rows])

    def split(self, rows: Integers | slice = slice(None)) -> Split:
        """Some of them, as numbers from 0 to 1."""
        images = np.divide(self.images[rows], np.float32(self.white), dtype=np.float32, order="C")
        return Split(images, self.labels[rows])


@dataclass(frozen=True)
class StoredDataset:
    """A dataset as its files have it; bytes take a quarter of the memory. digest : tells it apart from all others."""

    name: str
    classes: tuple[str, ...]
    train: Stored
    test: Stored
    digest: str

    def dataset(self) -> Dataset:
        """All images as numbers from 0 to 1."""
        return Dataset(self.name, self.classes, self.train.split(), self.test.split())


@dataclass(frozen=True)
class Content:
    """What a file of this name holds: an array, and a checksum that tells it apart from all others."""

    name: str
    array: Array
    checksum: str


Pair = tuple[Content, Content]  # images (N, H, W, C) and labels (N,) int64


@dataclass(frozen=True)
class Request:
    """What is asked of a reader. chosen : whether the name comes from the caller or from the files' publisher."""

    path: Path
    name: str
    chosen: bool
    image_size: int | None = None


@dataclass(frozen=True)
class Found:
    """A dataset that is there. unnamed : what it is, if its publisher did not name it; resizes : if images can be."""

    read: Callable[[Request], StoredDataset]
    unnamed: str = ""
    resizes: bool = False


Kept = TypeVar("Kept")


def with_test(parts: Mapping[str, Kept]) -> dict[str, Kept]:
    """The parts to train and to test on; the images for validation serve to test where there are no others."""
    chosen = {"train": parts.get("train"), "test": parts.get("test", parts.get("val"))}
    return {part: content for part, content in chosen.items() if content is not None}


def pair_of(images: Array, images_name: str, labels: Array, labels_name: str) -> Pair:
    """Images and labels from arrays that a file has, of as many entries."""
    if labels.ndim and images.ndim:
        check_counts(images_name, len(images), labels_name, len(labels))
    return (
        Content(images_name, images_of(images, images_name), digest(images.dtype.str, images)),
        Content(labels_name, labels_of(labels, labels_name), digest(labels.dtype.str, labels)),
    )


def check_counts(images_name: str, images: int, labels_name: str, labels: int) -> None:
    """There must be a label for each image."""
    if images != labels:
        raise UserError(
            f"{images_name!r} holds {images} images, but {labels_name!r} {labels} labels: get both files again"
        )


def images_of(array: Array, name: str) -> Array:
    """Images (N, H, W, C), of one channel where the file has none."""
    numbers = array.dtype.kind in "biuf" and array.size
    if not numbers or array.ndim not in (3, 4) or array.shape[3:] > (MOST_CHANNELS,):
        raise UserError(
            f"{name!r} holds images of shape {array.shape[1:]}: give height, width and up to {MOST_CHANNELS} channels,"
            " in this order"
        )
    return array.reshape(*array.shape[:3], -1)


def labels_of(array: Array, name: str) -> Integers:
    """The class of each image, (N,) int64, from an array (N,) or (N, 1)."""
    if array.ndim == 2 and array.shape[1] != 1:
        raise UserError(f"{name!r} holds {array.shape[1]} numbers for each image: give one, the number of its class")
    if array.dtype.kind not in "biuf" or array.ndim not in (1, 2) or not array.size:
        raise UserError(f"{name!r} holds {array.dtype} of shape {array.shape}: give one number for each image")
    first = array.reshape(-1)
    if not (first.min() >= 0 and first.max() < MOST_CLASSES and (first == np.rint(first)).all()):  # NaN compares false
        raise UserError(
            f"{name!r} holds labels from {first.min()} to {first.max()}: give whole numbers from 0 to"
            f" {MOST_CLASSES - 1}"
        )
    return first.astype(np.int64)


def assemble(
    path: Path, name: str, parts: Mapping[str, Pair], classes: tuple[str, ...] = (), first: int = 0
) -> StoredDataset:
    """A dataset of what its files hold; UserError where that does not go together.

    parts : "train", "test" or both; classes : if the files tell them; first : the label of the first class.
    """
    classes = classes or CLASSES.get(name, ())
    if not classes:
        classes = tuple(str(label) for label in range(1 + max(int(labels.array.max()) for _, labels in parts.values())))
    white = _white(parts)
    stored = {}
    for part, (images, labels) in parts.items():
        lowest, highest = int(labels.array.min()), int(labels.array.max())
        if lowest < first or highest >= first + len(classes):
            raise UserError(
                f"{labels.name!r} has labels {lowest} to {highest}, those of {name} are {first} to"
                f" {first + len(classes) - 1}: get it again, or give the dataset another name"
            )
        stored[part] = Stored(images.array, labels.array - first, white[part])
    checksums = {part: [content.checksum for content in parts[part]] for part in sorted(parts)}
    return StoredDataset(name, classes, *_both(path, stored), digest=digest([name, checksums]))


def _white(parts: Mapping[str, Pair]) -> dict[str, int]:
    """What a white pixel is in each part: 255, or 1 where numbers go no further in any part, floats or whole ones."""
    floats = {part for part, (images, _) in parts.items() if images.array.dtype.kind in "bf"}
    if all(images.array.max() <= 1 for images, _ in parts.values()):  # whole numbers are silhouettes then
        floats = set(parts)
    highest = 0.0
    for part, (images, _) in parts.items():
        low, high = images.array.min(), images.array.max()
        if not (low >= 0 and high <= 255):  # NaN compares false
            raise UserError(
                f"{images.name!r} has pixels from {low:g} to {high:g}: give numbers from 0 to 255, or floating-point"
                " numbers from 0 to 1"
            )
        highest = max(highest, float(high)) if part in floats else highest
    return {part: 1 if part in floats and highest <= 1 else 255 for part in parts}


def _both(path: Path, parts: dict[str, Stored]) -> tuple[Stored, Stored]:
    """Training and test images, from one part if only one is there."""
    if len(parts) == 2:
        train, test = parts["train"], parts["test"]
        if train.images.shape[1:] != test.images.shape[1:]:
            raise UserError(f"training and test images in {str(path)!r} differ in size: get them from one place")
        return train, test
    (only,) = parts.values()
    count = len(only) // TEST_SHARE
    if not count:
        raise UserError(f"{len(only)} images in {str(path)!r} are too few to train and to test: add the other files")
    order = generator(0, "idx parts").permutation(len(only))  # files may be sorted by class
    return only.take(np.sort(order[count:])), only.take(np.sort(order[:count]))
