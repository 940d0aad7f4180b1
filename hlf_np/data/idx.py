"""Files in the IDX format of MNIST, EMNIST, QMNIST and Fashion-MNIST.

An IDX file is a header and an array: two zeros, the type of the entries (see `DTYPES`), the number of dimensions, the
size of each as a 32-bit number, most significant byte first; then all entries, the last dimension first. Images have
three dimensions (N, H, W) or, in colour, four (N, H, W, C); labels one, or two where QMNIST tells more of each image
than its class. Because the header says how much is to come, no more than that and one byte is ever unpacked, however
much an archive could be made to yield.
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

from hlf_np.data import stored
from hlf_np.data.names import EMNIST, FIRST_LABEL
from hlf_np.data.places import LARGEST, File, Folder, take
from hlf_np.errors import UserError

NAME = re.compile(
    r"(?:(?P<dataset>emnist-(?:balanced|byclass|bymerge|digits|letters|mnist)|qmnist)-)?(?P<part>train|test|t10k)"
    r"(?:-(?P<note>.+))?-(?P<kind>images|labels)[-.]idx[1-4]-(?:u?byte|short|int|float|double)(?:\.gz)?"
)
DTYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}  # by their numbers in the header
DIMENSIONS = {"images": (3, 4), "labels": (1, 2)}
QMNIST = (">i4", 8)  # eight numbers for each image, the first of which is its class
GZIP = b"\x1f\x8b"  # how compressed files begin, whatever their names
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


def find(folder: Folder) -> dict[str, stored.Found]:
    """The datasets in a folder by their names, "" for files that are named as MNIST's; UserError for half of one."""
    found: dict[tuple[str, str], dict[str, dict[str, File]]] = {}
    for name, file in folder.files.items():  # plain ones before compressed ones
        if match := NAME.fullmatch(name):
            part = "train" if match["part"] == "train" else "test"
            notes = found.setdefault((match["dataset"] or "", part), {})
            notes.setdefault(match["note"] or "", {}).setdefault(match["kind"], file)
    datasets: dict[str, dict[str, dict[str, File]]] = {}
    for (dataset, part), notes in found.items():
        complete = [files for _, files in sorted(notes.items()) if len(files) == 2]  # those without a note first
        if not complete:
            (only,) = next(iter(notes.values())).values()
            raise UserError(f"{str(only)!r} is there without its images or labels: put both into the folder")
        datasets.setdefault(dataset, {})[part] = complete[0]
    unnamed = "files named as those of mnist"
    return {
        name: stored.Found(partial(_read_dataset, parts), "" if name else unnamed) for name, parts in datasets.items()
    }


def _read_dataset(files: dict[str, dict[str, File]], request: stored.Request) -> stored.StoredDataset:
    parts: dict[str, stored.Pair] = {}
    for part, pair in files.items():
        labels = _read(pair["labels"])
        parts[part] = _read(pair["images"], labels), labels
    name = request.name
    if not request.chosen:
        checksums = {labels.checksum for _, labels in parts.values()}
        name = next((known for (known, _), (*_, own) in CHECKSUMS.items() if own in checksums), name)
    _verify(name, parts)
    if name.startswith(EMNIST):
        parts = {part: (replace(x, array=x.array.swapaxes(1, 2)), labels) for part, (x, labels) in parts.items()}
    return stored.assemble(request.path, name, parts, first=FIRST_LABEL.get(name, 0))


def _verify(name: str, parts: dict[str, stored.Pair]) -> None:
    """Refuse official datasets of the published size whose content is another; a part of one may be anything."""
    for part, pair in parts.items():
        count, *published = CHECKSUMS.get((name, part), (0,))
        if len(pair[1].array) != count:
            continue
        for content, checksum in zip(pair, published, strict=True):
            if content.checksum != checksum:
                raise UserError(
                    f"{content.name!r} is not that of {name}, its checksum is another: get it again,"
                    " or give the dataset a name of its own"
                )


def _read(file: File, labels: stored.Content | None = None) -> stored.Content:
    """The labels in a file or, if these are given, their images; UserError if it is damaged or something else."""
    with file.open() as packed:
        compressed = packed.read(len(GZIP)) == GZIP
        packed.seek(0)
        return _parse(GzipFile(fileobj=packed) if compressed else packed, str(file), labels)


def _parse(stream: IO[bytes] | GzipFile, name: str, labels: stored.Content | None) -> stored.Content:
    kind = "labels" if labels is None else "images"
    header = take(stream, 4)
    dtype, dimensions = (DTYPES.get(header[2]), header[3]) if len(header) == 4 else (None, 0)
    sizes = take(stream, 4 * dimensions)
    if any(header[:2]) or not dtype or dimensions not in DIMENSIONS[kind] or len(sizes) < 4 * dimensions:
        raise UserError(f"{name!r} is not an IDX file of {kind}, or damaged: get it again")
    shape = struct.unpack(f">{dimensions}I", sizes)
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if not 0 < size <= LARGEST:
        raise UserError(f"{name!r} claims to hold {size} bytes of {kind}, not 1 to {LARGEST}: get it again")
    if labels is not None:
        stored.check_counts(name, shape[0], labels.name, len(labels.array))
    content = take(stream, size + 1)
    if len(content) != size:
        problem = f"ends after {len(content)}" if len(content) < size else "goes on after"
        raise UserError(f"{name!r} {problem} of the {size} bytes that its header announces: get it again")
    checksum = hashlib.sha256(header + sizes)
    checksum.update(content)
    array = np.frombuffer(content, dtype).reshape(shape)
    if labels is None and (dtype, *shape[1:]) == QMNIST:
        array = array[:, :1]
    return stored.Content(
        name, stored.images_of(array, name) if labels else stored.labels_of(array, name), checksum.hexdigest()
    )
