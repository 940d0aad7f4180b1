"""EMNIST's files for MATLAB, in versions 5 to 7 of its format.

Such a file is 128 bytes of header, the last two of which tell the order of bytes, and elements: a type, a size and so
many bytes, padded to a multiple of eight; a size of up to four may stand in the upper half of the type. An element of
the type `COMPRESSED` holds another one. A matrix is an element that holds elements: its class, its shape, its name and
its numbers, columns first; or, if it is a structure, the length of its fields' names, the names, and a matrix for each.

EMNIST has one structure: dataset.train.images (N, 784), dataset.train.labels (N, 1), and so on. The bytes of each
image are those of the IDX files: columns first, too. Here only what leads to these arrays is looked at.
"""

import math
import struct
import zlib
from collections.abc import Iterator
from functools import partial

import numpy as np

from hlf_np.arrays import Array
from hlf_np.data.names import CLASSES, EMNIST, FIRST_LABEL
from hlf_np.data.places import LARGEST, File, Folder, reading, take
from hlf_np.data.stored import Found, Request, StoredDataset, assemble, pair_of
from hlf_np.errors import UserError

HEADER = 128
ORDERS = {b"IM": "<", b"MI": ">"}
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}  # by their types
MATRIX, COMPRESSED = 14, 15
STRUCTURE, COMPLEX = 2, 0x800
MOST_NAMES = 2**12  # bytes of the names of a structure's fields


def find(folder: Folder) -> dict[str, Found]:
    """The splits of EMNIST in a folder by their names."""
    names = {name: f"{name}.mat" for name in CLASSES if name.startswith(EMNIST)}
    return {name: Found(partial(_read, folder.files[file])) for name, file in names.items() if file in folder.files}


def _read(file: File, request: Request) -> StoredDataset:
    with file.open() as stream:
        header, content = bytes(take(stream, HEADER)), take(stream, LARGEST + 1)
    if header.startswith(b"MATLAB 7.3"):
        raise UserError(f"{str(file)!r} is of MATLAB's version 7.3: save it with -v7, or get NIST's matlab.zip")
    order = ORDERS.get(header[-2:])
    if len(header) < HEADER or order is None or len(content) > LARGEST:
        raise UserError(f"{str(file)!r} is not a file of MATLAB, or damaged: get it again")
    with reading(str(file)):
        dataset = _fields(_dataset(memoryview(content), order), order)
        del content
        parts = {}
        for part in ("train", "test"):
            fields = _fields(dataset[part], order)
            images, labels = (_array(fields[name], order) for name in ("images", "labels"))
            side = math.isqrt(images.shape[1])
            upright = images.T.reshape(side, side, -1).transpose(2, 1, 0)
            where = f"{file}/dataset.{part}"
            parts[part] = pair_of(np.ascontiguousarray(upright), f"{where}.images", labels, f"{where}.labels")
    return assemble(request.path, request.name, parts, first=FIRST_LABEL.get(request.name, 0))


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """The types of the elements that follow each other in some bytes, and what they hold."""
    at = 0
    while at < len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        start, after = at + 8, at + 8 + size + -size % 8
        if kind == COMPRESSED:  # which is not padded
            after = start + size
        elif kind >> 16:  # a small one
            kind, size, start, after = kind & 0xFFFF, kind >> 16, at + 4, at + 8
        if start + size > min(after, len(data)):
            raise ValueError("an element is longer than what holds it")
        yield kind, data[start : start + size]
        at = after


def _dataset(data: memoryview, order: str) -> memoryview:
    """The variable `dataset`."""
    for kind, element in _elements(data, order):
        if kind == COMPRESSED:
            unpacking = zlib.decompressobj()
            kind, size = struct.unpack(f"{order}II", unpacking.decompress(element, 8))
            if size > LARGEST:
                raise ValueError("a variable is too large")
            element = memoryview(unpacking.decompress(unpacking.unconsumed_tail, size + 1))
            if len(element) != size or not unpacking.eof:
                raise ValueError("a variable is not as long as announced")
        if kind == MATRIX and bytes(_head(element, order)[2]) == b"dataset":
            return element
    raise ValueError("there is no variable `dataset`")


def _head(matrix: memoryview, order: str) -> tuple[int, tuple[int, ...], memoryview, Iterator[tuple[int, memoryview]]]:
    """The class of a matrix, its shape, its name, and the elements that are left."""
    elements = _elements(matrix, order)
    (_, flags), (_, shape), (_, name) = next(elements), next(elements), next(elements)
    (kind,) = struct.unpack_from(f"{order}I", flags)
    return kind & (0xFF | COMPLEX), tuple(np.frombuffer(shape, f"{order}i4").tolist()), name, elements


def _fields(matrix: memoryview, order: str) -> dict[str, memoryview]:
    """The matrices in a structure by their names."""
    kind, shape, _, elements = _head(matrix, order)
    (_, width), (_, names) = next(elements), next(elements)
    (length,) = struct.unpack(f"{order}i", width)
    if kind != STRUCTURE or shape != (1, 1) or length <= 0 or len(names) > MOST_NAMES:
        raise ValueError("it is not made as EMNIST's")
    fields = [bytes(names[at : at + length]).rstrip(b"\0").decode() for at in range(0, len(names), length)]
    return {field: inner for field, (_, inner) in zip(fields, elements, strict=False)}


def _array(matrix: memoryview, order: str) -> Array:
    """A matrix of numbers."""
    kind, shape, _, elements = _head(matrix, order)
    number, content = next(elements)
    if kind == STRUCTURE or kind & COMPLEX or len(shape) != 2 or min(shape) < 1:
        raise ValueError("images or labels are not made as EMNIST's")
    return np.frombuffer(content, f"{order}{NUMBERS[number]}").reshape(shape, order="F")
