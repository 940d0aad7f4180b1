"""Files in the IDX format of MNIST, in folders and archives; none of them is trusted.

An IDX file is a header and an array: two zeros, the type of the entries (see `DTYPES`), the number of dimensions, the
size of each as a 32-bit number, most significant byte first; then all entries, the last dimension first. Images have
three dimensions (N, H, W) or, in colour, four (N, H, W, C); labels one, or two where QMNIST tells more of each image
than its class. Because the header says how much is to come, no more than that and one byte is ever unpacked, however
much an archive could be made to yield.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import re
import struct
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from hlf_np.arrays import Array, Integers
from hlf_np.errors import UserError

LARGEST = 2**30  # bytes; the largest published file, the training images of EMNIST byclass, has half of it
PIECE = 2**20  # bytes that are read at once
ARCHIVE = "gzip.zip"  # as NIST publishes EMNIST
PLACES = (".", "gzip", "raw")  # in a folder: itself, NIST's archive unpacked, what other programs leave
NAME = re.compile(
    r"(?:(?P<dataset>emnist-(?:balanced|byclass|bymerge|digits|letters|mnist)|qmnist)-)?(?P<part>train|test|t10k)"
    r"(?:-(?P<note>.+))?-(?P<kind>images|labels)[-.]idx[1-4]-(?:u?byte|short|int|float|double)(?:\.gz)?"
)
DTYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}  # by their numbers in the header
DIMENSIONS = {"images": (3, 4), "labels": (1, 2)}
MOST_CHANNELS = 4
MOST_CLASSES = 2**16  # a larger label is none
QMNIST = (">i4", 8)  # eight numbers for each image, the first of which is its class
Packed = io.BufferedReader | zipfile.ZipExtFile
GZIP = b"\x1f\x8b"  # how compressed files begin, whatever their names


class Stream(Protocol):
    """Whatever bytes can be read from."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes, none at the end."""


@dataclass(frozen=True)
class IdxFile:
    """An IDX file, compressed or not. place : a folder or zip archive; member : its path therein."""

    place: Path
    member: str

    def __str__(self) -> str:
        return str(self.place / self.member)

    @contextmanager
    def open(self) -> Iterator[Stream]:
        """Its unpacked content."""
        with ExitStack() as stack:
            if self.place.is_dir():
                packed: io.BufferedReader | zipfile.ZipExtFile = stack.enter_context(
                    (self.place / self.member).open("rb")
                )
            else:
                archive = stack.enter_context(zipfile.ZipFile(self.place))
                packed = stack.enter_context(archive.open(self.member))  # type: ignore[assignment]
            compressed = packed.peek(len(GZIP)).startswith(GZIP)
            yield stack.enter_context(gzip.GzipFile(fileobj=packed)) if compressed else packed


@dataclass(frozen=True)
class Content:
    """What an IDX file of this name holds: its array, and the SHA-256 of its unpacked bytes."""

    name: str
    array: Array
    checksum: str


@dataclass(frozen=True)
class Pair:
    """The two files of a part of a dataset."""

    images: IdxFile
    labels: IdxFile

    def read(self) -> tuple[Content, Content]:
        """Images (N, H, W, C) and labels (N,) int64; UserError for damaged files, or of different N."""
        labels = read(self.labels)
        return read(self.images, labels), labels


def find_pairs(path: Path) -> dict[str, dict[str, Pair]]:
    """The datasets in a folder or zip archive, each with "train", "test" or both, by their names.

    Files that are named as MNIST's have the name "".

    Raises
    ------
    UserError : if there are none, images without labels or the reverse, or the archive cannot be read.
    """
    found: dict[tuple[str, str], dict[str, dict[str, IdxFile]]] = {}
    for file in _files(path):
        if match := NAME.fullmatch(file.member.rsplit("/", 1)[-1]):
            part = "train" if match["part"] == "train" else "test"
            notes = found.setdefault((match["dataset"] or "", part), {})
            notes.setdefault(match["note"] or "", {}).setdefault(match["kind"], file)
    if not found:
        raise UserError(
            f"{str(path)!r} holds no IDX files: give the folder of train-images-idx3-ubyte.gz and its companions,"
            f" or NIST's {ARCHIVE}"
        )
    datasets: dict[str, dict[str, Pair]] = {}
    for (dataset, part), notes in found.items():
        complete = [files for _, files in sorted(notes.items()) if len(files) == 2]  # those without a note first
        if not complete:
            (only,) = next(iter(notes.values())).values()
            raise UserError(f"{str(only)!r} is there without its images or labels: put both into the folder")
        datasets.setdefault(dataset, {})[part] = Pair(**complete[0])
    return datasets


def _files(path: Path) -> list[IdxFile]:
    """All files that might be, plain ones before compressed ones."""
    try:
        if not path.is_dir():
            with zipfile.ZipFile(path) as archive:
                return [IdxFile(path, name) for name in sorted(archive.namelist())]
        places = [path / place for place in PLACES if (path / place).is_dir()]
        names = sorted(str(file.relative_to(path)) for place in places for file in place.iterdir() if file.is_file())
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r} ({error.strerror or error}): give another folder") from None
    except Exception:  # what zipfile raises for damaged bytes is not documented, and nearly anything
        raise UserError(f"{str(path)!r} is neither a folder nor a zip archive, or damaged: get it again") from None
    if ARCHIVE in names and not any(NAME.fullmatch(name.rsplit("/", 1)[-1]) for name in names):
        return _files(path / ARCHIVE)
    return [IdxFile(path, name) for name in names]


def read(file: IdxFile, labels: Content | None = None) -> Content:
    """The labels in a file or, if these are given, their images.

    Raises
    ------
    UserError : if the file cannot be read, is damaged, or something else.
    """
    try:
        with file.open() as stream:
            return _read(stream, str(file), labels)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"there is no file {str(file)!r}: put it there") from None
    except Exception as error:  # as above; truncated gzip, wrong checksums inside of it, encrypted archives
        raise UserError(f"{str(file)!r} cannot be read or is damaged ({error}): get it again") from None


def _read(stream: Stream, name: str, labels: Content | None) -> Content:
    kind = "labels" if labels is None else "images"
    header = _take(stream, 4)
    dtype, dimensions = (DTYPES.get(header[2]), header[3]) if len(header) == 4 else (None, 0)
    sizes = _take(stream, 4 * dimensions)
    if any(header[:2]) or not dtype or dimensions not in DIMENSIONS[kind] or len(sizes) < 4 * dimensions:
        raise UserError(f"{name!r} is not an IDX file of {kind}, or damaged: get it again")
    shape = struct.unpack(f">{dimensions}I", sizes)
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if not 0 < size <= LARGEST:
        raise UserError(f"{name!r} claims to hold {size} bytes of {kind}, not 1 to {LARGEST}: get it again")
    if labels is not None and shape[0] != len(labels.array):
        holds = f"{name!r} holds {shape[0]} images, but {labels.name!r} {len(labels.array)} labels"
        raise UserError(f"{holds}: get both files again")
    content = _take(stream, size + 1)
    if len(content) != size:
        problem = f"ends after {len(content)}" if len(content) < size else "goes on after"
        raise UserError(f"{name!r} {problem} of the {size} bytes that its header announces: get it again")
    checksum = hashlib.sha256(header + sizes)
    checksum.update(content)
    array = np.frombuffer(content, dtype).reshape(shape)
    return Content(name, _images(array, name) if labels else _labels(array, name), checksum.hexdigest())


def _images(array: Array, name: str) -> Array:
    """Images (N, H, W, C), of one channel where the file has none."""
    images = array.reshape(*array.shape[:3], -1)
    if images.shape[3] > MOST_CHANNELS:
        raise UserError(
            f"{name!r} holds images of shape {array.shape[1:]}: give height, width and up to {MOST_CHANNELS} channels,"
            " in this order"
        )
    return images


def _labels(array: Array, name: str) -> Integers:
    """The class of each image, (N,)."""
    if array.ndim == 2 and array.shape[1] != 1 and (array.dtype.str, array.shape[1]) != QMNIST:
        raise UserError(f"{name!r} holds {array.shape[1]} numbers for each image: give one, the number of its class")
    first = array.reshape(len(array), -1)[:, 0]
    if not (first.min() >= 0 and first.max() < MOST_CLASSES and (first == np.rint(first)).all()):  # NaN compares false
        raise UserError(
            f"{name!r} holds labels from {first.min()} to {first.max()}: give whole numbers from 0 to"
            f" {MOST_CLASSES - 1}"
        )
    return first.astype(np.int64)


def _take(stream: Stream, most: int) -> bytearray:
    """As many bytes as there are, up to a number; memory grows with what there is, not with what is asked for."""
    content = bytearray()
    while len(content) < most:
        piece = stream.read(min(PIECE, most - len(content)))
        if not piece:
            break
        content += piece
    return content
