"""MNIST, EMNIST, QMNIST and Fashion-MNIST: datasets of IDX files, whose manifold nobody knows.

EMNIST (Cohen et al., 2017) has six splits, all of 28x28 images that are stored transposed: `digits`, which the paper
uses; `letters`, whose labels start from 1, with upper and lower case together; `byclass`, all 62 of 0-9, A-Z, a-z;
`bymerge` and `balanced`, 47 classes without those lower case letters that look like their capitals; and `mnist`.
"""

from __future__ import annotations

import os
import re
import string
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hlf_np.arrays import Array, Integers
from hlf_np.data.dataset import Dataset, Split
from hlf_np.data.idx_files import Content, Pair, find_pairs
from hlf_np.errors import UserError
from hlf_np.files import digest
from hlf_np.random import generator

DIGITS, CAPITALS = tuple(string.digits), tuple(string.ascii_uppercase)
MERGED = (*DIGITS, *CAPITALS, *"abdefghnqrt")
CLASSES = {  # by the datasets' names
    "mnist": DIGITS,
    "fashion-mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    "emnist-balanced": MERGED,
    "emnist-byclass": (*DIGITS, *CAPITALS, *string.ascii_lowercase),
    "emnist-bymerge": MERGED,
    "emnist-digits": DIGITS,
    "emnist-letters": CAPITALS,
    "emnist-mnist": DIGITS,
    "qmnist": DIGITS,
}
FIRST_LABEL = {"emnist-letters": 1}  # 0 for all others
EMNIST, PREFERRED, UNKNOWN = "emnist-", "emnist-digits", "idx"
TEST_SHARE = 5  # where one part is missing, a fifth of the other serves to test
CHECKSUMS = {  # SHA-256 of the published files, unpacked: number of images, images, labels
    ("mnist", "train"): (
        60_000,
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    ("mnist", "test"): (
        10_000,
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    ("fashion-mnist", "train"): (
        60_000,
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    ),
    ("fashion-mnist", "test"): (
        10_000,
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
}
ORIGINS = {  # by a word in the name of what is missing
    "emnist": "get gzip.zip from https://www.nist.gov/itl/products-and-services/emnist-dataset and give its path",
    "fashion": (
        "install Debian's package dataset-fashion-mnist and give /usr/share/datasets/fashion-mnist,"
        " or a folder with the four files of https://github.com/zalandoresearch/fashion-mnist"
    ),
    "qmnist": "put the four files of https://github.com/facebookresearch/qmnist into a folder and give that",
    "mnist": "put the four files of MNIST, train-images-idx3-ubyte.gz and so on, into a folder and give that",
}


def origin(name: str) -> str:
    """Where to get a dataset whose name or path is given, and where to put it."""
    known = [place for word, place in ORIGINS.items() if word in name.lower()]
    return known[0] if known else f"{ORIGINS['mnist']}; for EMNIST, {ORIGINS['emnist']}"


@dataclass(frozen=True)
class Stored:
    """Images (N, H, W, C) as their files have them, but upright, and labels (N,) from 0. white : of a white pixel."""

    images: Array
    labels: Integers
    white: int = 255

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Integers) -> Stored:
        return Stored(self.images[rows], self.labels[rows], self.white)

    def split(self, rows: Integers | slice = slice(None)) -> Split:
        """Some of them, as numbers from 0 to 1."""
        images = np.divide(self.images[rows], np.float32(self.white), dtype=np.float32, order="C")
        return Split(images, self.labels[rows])


@dataclass(frozen=True)
class IdxImages:
    """A dataset as its files have it. digest : tells it apart from all others."""

    name: str
    classes: tuple[str, ...]
    train: Stored
    test: Stored
    digest: str


def load_idx(path: str | os.PathLike[str], name: str | None = None) -> Dataset:
    """MNIST, EMNIST, QMNIST, Fashion-MNIST, or any other dataset of IDX files.

    Parameters
    ----------
    path : a folder of files, compressed or not, named as published: `train-images-idx3-ubyte`, `t10k-...`,
        `emnist-<split>-{train,test}-{images-idx3,labels-idx1}-ubyte`, `qmnist-...`. Or NIST's `gzip.zip`. Whole
        numbers of any type are pixels from 0 to 255; floating-point numbers too, unless all lie between 0 and 1: those
        are taken as they are. Images may have channels, which come last. Where there is only one part, training or
        test, a fifth of it serves to test and the rest to train, always the same images.
    name : which dataset it is, such as "emnist-digits"; hyphens and underscores are the same. By default the only one
        there, or "emnist-digits", the paper's, of several. MNIST and Fashion-MNIST have files of the same names; they
        are told apart by their content, or if that is not as published, by the folder's name. Any other name gets
        the classes "0", "1", ...

    Returns
    -------
    All images in the order of the files, (N, H, W, C), upright; labels from 0; no codes. `classes` are all that the
    dataset has, also those of which a partial file has no image.

    Raises
    ------
    UserError : if files are missing, damaged or something else, or an official dataset is not as published.
    """
    found = read_idx(Path(path), name)
    return Dataset(found.name, found.classes, found.train.split(), found.test.split())


def read_idx(path: Path, name: str | None = None) -> IdxImages:
    """What `load_idx` loads, with images still as the files have them; bytes take a quarter of the memory."""
    if not os.path.exists(path):
        raise UserError(f"there is no {str(path)!r}: {origin(f'{name} {path}')}")
    wanted = None if name is None else name.lower().replace("_", "-")
    group, pairs = _choose(path, wanted, find_pairs(path))
    contents = {part: pair.read() for part, pair in pairs.items()}
    found = wanted or group or _recognise(path, contents)
    _verify(found, pairs, contents)
    classes = CLASSES.get(found) or tuple(
        str(label) for label in range(1 + max(int(labels.array.max()) for _, labels in contents.values()))
    )
    white = _white(contents)
    parts = {part: _stored(found, len(classes), pairs[part], *contents[part], white[part]) for part in contents}
    checksums = {part: [content.checksum for content in contents[part]] for part in sorted(contents)}
    return IdxImages(found, classes, *_both(path, parts), digest=digest([found, checksums]))


def _choose(path: Path, wanted: str | None, datasets: dict[str, dict[str, Pair]]) -> tuple[str, dict[str, Pair]]:
    """The dataset that is meant: its name, "" if the files' names do not say, and its files."""
    if wanted is not None and not _may_be_named(wanted):
        splits = ", ".join(known for known in CLASSES if known.startswith(EMNIST))
        raise UserError(
            f"a dataset of IDX files cannot be named {wanted!r}: use letters, digits and hyphens; of EMNIST there are"
            f" {splits}"
        )
    if wanted is None:
        group = next(iter(datasets)) if len(datasets) == 1 else PREFERRED
    else:
        group = wanted if wanted in datasets or wanted.startswith(EMNIST) else ""
    if group not in datasets:
        there = ", ".join(sorted(known or "files named as those of mnist" for known in datasets))
        raise UserError(f"{str(path)!r} does not hold {group or wanted} but {there}: name one of these")
    return group, datasets[group]


def _may_be_named(name: str) -> bool:
    known = name in CLASSES or not name.startswith(EMNIST)
    return known and name != "fonts" and re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", name) is not None


def _recognise(path: Path, contents: dict[str, tuple[Content, Content]]) -> str:
    """A name for files that are named as MNIST's."""
    checksums = {labels.checksum for _, labels in contents.values()}
    for (name, _), (*_, labels) in CHECKSUMS.items():
        if labels in checksums:
            return name
    place = path.resolve()
    own = re.sub("[^a-z0-9]+", "-", (place.name if place.is_dir() else place.stem).lower()).strip("-")
    return own if _may_be_named(own) and not own.startswith(EMNIST) else UNKNOWN


def _verify(name: str, pairs: dict[str, Pair], contents: dict[str, tuple[Content, Content]]) -> None:
    """Refuse official datasets of the published size whose content is another; a part of one may be anything."""
    for part, (images, labels) in contents.items():
        count, *published = CHECKSUMS.get((name, part), (0,))
        if len(labels.array) != count:
            continue
        pair = pairs[part]
        for file, content, checksum in zip((pair.images, pair.labels), (images, labels), published, strict=True):
            if content.checksum != checksum:
                raise UserError(
                    f"{str(file)!r} is not that of {name}, its checksum is another: get it again,"
                    " or give the dataset a name of its own"
                )


def _white(contents: dict[str, tuple[Content, Content]]) -> dict[str, int]:
    """What a white pixel is in each part: 255, or 1 where floating-point numbers go no further in any part."""
    floats = {part for part, (images, _) in contents.items() if images.array.dtype.kind == "f"}
    highest = 0.0
    for part, (images, _) in contents.items():
        low, high = images.array.min(), images.array.max()
        if not (low >= 0 and high <= 255):  # NaN compares false
            raise UserError(
                f"{images.name!r} has pixels from {low:g} to {high:g}: give numbers from 0 to 255, or floating-point"
                " numbers from 0 to 1"
            )
        highest = max(highest, float(high)) if part in floats else highest
    return {part: 1 if part in floats and highest <= 1 else 255 for part in contents}


def _stored(name: str, classes: int, pair: Pair, images: Content, labels: Content, white: int) -> Stored:
    first = FIRST_LABEL.get(name, 0)
    lowest, highest = int(labels.array.min()), int(labels.array.max())
    if lowest < first or highest >= first + classes:
        raise UserError(
            f"{str(pair.labels)!r} has labels {lowest} to {highest}, those of {name} are {first} to"
            f" {first + classes - 1}: get it again, or give the dataset another name"
        )
    upright = images.array.swapaxes(1, 2) if name.startswith(EMNIST) else images.array
    return Stored(upright, labels.array - first, white)


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
