"""Files in the IDX format of MNIST, EMNIST, QMNIST and Fashion-MNIST.

An IDX file is a header and an array. The header is two zero bytes, the type of the entries (see `DTYPES`), the number
of dimensions, and the size of each dimension as a 32-bit integer, most significant byte first. The entries follow in
row-major order. Images have three dimensions (N, H, W) or, in colour, four (N, H, W, C). Labels have one, or two in
QMNIST, which has eight integers for each image. As the header announces the size of the array, no more than that and
one byte is ever unpacked, however much a compressed file would yield.
"""

import hashlib
import math
import re
import struct
from dataclasses import replace
from functools import partial
from gzip import GzipFile
from typing import IO

import numpy as np

from hlf_np.data.formats.file_tree import MAX_ARRAY_BYTES, File, Folder, read_at_most
from hlf_np.data.formats.known_datasets import EMNIST_PREFIX, FIRST_LABELS
from hlf_np.data.formats.raw_dataset import (
    FoundDataset,
    ImagesAndLabels,
    RawArray,
    RawDataset,
    ReadRequest,
    as_images,
    as_labels,
    assemble,
    check_counts,
)
from hlf_np.support.errors import UserError

FILE_NAME = re.compile(
    r"(?:(?P<dataset>emnist-(?:balanced|byclass|bymerge|digits|letters|mnist)|qmnist)-)?(?P<part>train|test|t10k)"
    r"(?:-(?P<note>.+))?-(?P<kind>images|labels)[-.]idx[1-4]-(?:u?byte|short|int|float|double)(?:\.gz)?"
)
DTYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}  # by their codes in the header
DIMENSIONS = {"images": (3, 4), "labels": (1, 2)}
QMNIST_LABELS = (">i4", 8)  # dtype and columns, the first of which is the class
GZIP_MAGIC = b"\x1f\x8b"  # the first bytes of a compressed file, which its name may not reveal
CHECKSUMS = {  # of the published files: number of images, SHA-256 of the unpacked images and labels
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


def find_datasets(folder: Folder) -> dict[str, FoundDataset]:
    """Find the datasets in a folder, by name: "" for files with the names of MNIST's.

    Raise UserError if there are images without labels, or labels without images.
    """
    # files by (dataset, part), by the note in their names, and by kind
    groups: dict[tuple[str, str], dict[str, dict[str, File]]] = {}
    for name, file in folder.files.items():  # uncompressed files before compressed ones
        if match := FILE_NAME.fullmatch(name):
            part = "train" if match["part"] == "train" else "test"
            notes = groups.setdefault((match["dataset"] or "", part), {})
            notes.setdefault(match["note"] or "", {}).setdefault(match["kind"], file)
    datasets: dict[str, dict[str, dict[str, File]]] = {}
    for (dataset, part), notes in groups.items():
        complete = [files for _, files in sorted(notes.items()) if len(files) == 2]  # those without a note first
        if not complete:
            (only,) = next(iter(notes.values())).values()
            raise UserError(f"{str(only)!r} was found without its images or labels: put both files into the folder")
        datasets.setdefault(dataset, {})[part] = complete[0]
    unnamed = "files named as those of mnist"
    return {
        name: FoundDataset(partial(_read_dataset, parts), "" if name else unnamed) for name, parts in datasets.items()
    }


def _read_dataset(files: dict[str, dict[str, File]], request: ReadRequest) -> RawDataset:
    parts: dict[str, ImagesAndLabels] = {}
    for part, pair in files.items():
        labels = _read(pair["labels"])
        parts[part] = _read(pair["images"], labels), labels
    name = request.name
    if not request.is_named:
        checksums = {labels.checksum for _, labels in parts.values()}
        name = next((known for (known, _), (*_, published) in CHECKSUMS.items() if published in checksums), name)
    _verify(name, parts)
    if name.startswith(EMNIST_PREFIX):  # stored transposed
        parts = {part: (replace(x, array=x.array.swapaxes(1, 2)), labels) for part, (x, labels) in parts.items()}
    return assemble(request.path, name, parts, first_label=FIRST_LABELS.get(name, 0))


def _verify(name: str, parts: dict[str, ImagesAndLabels]) -> None:
    """Raise UserError if a known dataset has the published number of images, but not the published content."""
    for part, arrays in parts.items():
        count, *published = CHECKSUMS.get((name, part), (0,))
        if len(arrays[1].array) != count:
            continue
        for content, checksum in zip(arrays, published, strict=True):
            if content.checksum != checksum:
                raise UserError(
                    f"{content.name!r} is not the published file of {name}, as its checksum differs: download it again,"
                    " or give the dataset another name"
                )


def _read(file: File, labels: RawArray | None = None) -> RawArray:
    """Read a file of labels or, if these are given, of their images; raise UserError if it is not one."""
    with file.open() as stream:
        compressed = stream.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        stream.seek(0)
        return _parse(GzipFile(fileobj=stream) if compressed else stream, str(file), labels)


def _parse(stream: IO[bytes] | GzipFile, name: str, labels: RawArray | None) -> RawArray:
    kind = "labels" if labels is None else "images"
    header = read_at_most(stream, 4)
    dtype, dimensions = (DTYPES.get(header[2]), header[3]) if len(header) == 4 else (None, 0)
    sizes = read_at_most(stream, 4 * dimensions)
    if any(header[:2]) or not dtype or dimensions not in DIMENSIONS[kind] or len(sizes) < 4 * dimensions:
        raise UserError(f"{name!r} is not an IDX file of {kind}, or is damaged: download it again")
    shape = struct.unpack(f">{dimensions}I", sizes)
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if not 0 < size <= MAX_ARRAY_BYTES:
        raise UserError(
            f"{name!r} claims to hold {size} bytes of {kind}, not 1 to {MAX_ARRAY_BYTES}: download it again"
        )
    if labels is not None:
        check_counts(name, shape[0], labels.name, len(labels.array))
    content = read_at_most(stream, size + 1)
    if len(content) != size:
        problem = f"ends after {len(content)} of" if len(content) < size else "holds more than"
        raise UserError(f"{name!r} {problem} the {size} bytes that its header announces: download it again")
    checksum = hashlib.sha256(header + sizes)
    checksum.update(content)
    array = np.frombuffer(content, dtype).reshape(shape)
    if labels is None and (dtype, *shape[1:]) == QMNIST_LABELS:
        array = array[:, :1]
    array = as_images(array, name) if labels else as_labels(array, name)
    return RawArray(name, array, checksum.hexdigest())
