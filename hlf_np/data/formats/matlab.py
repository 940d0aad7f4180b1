"""EMNIST's MATLAB files, in versions 5 to 7 of the format.

Such a file is a header of 128 bytes, the last two of which tell the byte order, followed by elements. An element is a
type, a size and that many bytes, padded to a multiple of eight; a size of up to four may be in the upper half of the
type instead. An element of type `COMPRESSED` contains another one. A matrix is an element that contains elements: its
class, its shape, its name and its values in column-major order; or, for a structure, the length of the field names,
the names, and a matrix for each field.

EMNIST has one structure: dataset.train.images (N, 784), dataset.train.labels (N, 1), and so on. The bytes of each
image are those of the IDX files, in column-major order, too. This module parses only what leads to these arrays.
"""

import math
import struct
import zlib
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from hlf_np.data.formats.file_tree import MAX_ARRAY_BYTES, File, Folder, read_at_most, read_errors
from hlf_np.data.formats.known_datasets import CLASS_NAMES, EMNIST_PREFIX, FIRST_LABELS
from hlf_np.data.formats.raw_dataset import FoundDataset, RawDataset, ReadRequest, assemble, check_arrays
from hlf_np.support.arrays import Array
from hlf_np.support.errors import UserError

HEADER_BYTES = 128
BYTE_ORDERS = {b"IM": "<", b"MI": ">"}
# NumPy's names of the numeric types of elements
DTYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
MATRIX, COMPRESSED = 14, 15  # types of elements
STRUCTURE, COMPLEX = 2, 0x800  # class of a matrix, and flag of a complex one
MAX_NAMES_BYTES = 2**12  # of the names of a structure's fields

Elements = Iterator[tuple[int, memoryview]]


class Matrix(NamedTuple):
    """The class of a matrix, its shape, its name, and its remaining elements."""

    kind: int
    shape: tuple[int, ...]
    name: memoryview
    elements: Elements


def find_datasets(folder: Folder) -> dict[str, FoundDataset]:
    """Find the splits of EMNIST in a folder, by name."""
    paths = {name: f"{name}.mat" for name in CLASS_NAMES if name.startswith(EMNIST_PREFIX)}
    return {
        name: FoundDataset(partial(_read, folder.files[path])) for name, path in paths.items() if path in folder.files
    }


def _read(file: File, request: ReadRequest) -> RawDataset:
    with file.open() as stream:
        header, content = bytes(read_at_most(stream, HEADER_BYTES)), read_at_most(stream, MAX_ARRAY_BYTES + 1)
    if header.startswith(b"MATLAB 7.3"):
        raise UserError(f"{str(file)!r} is a MATLAB file of version 7.3: save it with -v7, or get NIST's matlab.zip")
    order = BYTE_ORDERS.get(header[-2:])
    if len(header) < HEADER_BYTES or order is None or len(content) > MAX_ARRAY_BYTES:
        raise UserError(f"{str(file)!r} is not a MATLAB file, or is damaged: download it again")
    with read_errors(str(file)):
        dataset = _fields(_find_dataset(memoryview(content), order), order)
        del content
        parts = {}
        for part in ("train", "test"):
            fields = _fields(dataset[part], order)
            images, labels = (_array(fields[name], order) for name in ("images", "labels"))  # (N, H * W), (N, 1)
            side = math.isqrt(images.shape[1])
            upright = images.T.reshape(side, side, -1).transpose(2, 1, 0)  # (N, H, W)
            name = f"{file}/dataset.{part}"
            parts[part] = check_arrays(np.ascontiguousarray(upright), f"{name}.images", labels, f"{name}.labels")
    return assemble(request.path, request.name, parts, first_label=FIRST_LABELS.get(request.name, 0))


def _elements(data: memoryview, order: str) -> Elements:
    """Iterate over the consecutive elements in some bytes: their types and contents."""
    offset = 0
    while offset < len(data):
        kind, size = struct.unpack_from(f"{order}II", data, offset)
        start, end = offset + 8, offset + 8 + size + -size % 8
        if kind == COMPRESSED:  # is not padded
            end = start + size
        elif kind >> 16:  # the size is in the upper half of the type
            kind, size, start, end = kind & 0xFFFF, kind >> 16, offset + 4, offset + 8
        if start + size > min(end, len(data)):
            raise ValueError("an element extends beyond the one that contains it")
        yield kind, data[start : start + size]
        offset = end


def _find_dataset(data: memoryview, order: str) -> memoryview:
    """Find the variable `dataset`; unpack no more of a compressed one than its announced size."""
    for kind, element in _elements(data, order):
        if kind == COMPRESSED:
            decompressor = zlib.decompressobj()
            kind, size = struct.unpack(f"{order}II", decompressor.decompress(element, 8))
            if size > MAX_ARRAY_BYTES:
                raise ValueError("a variable is too large")
            element = memoryview(decompressor.decompress(decompressor.unconsumed_tail, size + 1))
            if len(element) != size or not decompressor.eof:
                raise ValueError("a variable does not have its announced size")
        if kind == MATRIX and bytes(_matrix(element, order).name) == b"dataset":
            return element
    raise ValueError("there is no variable `dataset`")


def _matrix(data: memoryview, order: str) -> Matrix:
    """Parse the first three elements of a matrix."""
    elements = _elements(data, order)
    (_, flags), (_, shape), (_, name) = next(elements), next(elements), next(elements)
    (kind,) = struct.unpack_from(f"{order}I", flags)
    return Matrix(kind & (0xFF | COMPLEX), tuple(np.frombuffer(shape, f"{order}i4").tolist()), name, elements)


def _fields(data: memoryview, order: str) -> dict[str, memoryview]:
    """Parse a structure: return the matrix of each field, by name."""
    kind, shape, _, elements = _matrix(data, order)
    (_, name_bytes), (_, names) = next(elements), next(elements)
    (length,) = struct.unpack(f"{order}i", name_bytes)
    if kind != STRUCTURE or shape != (1, 1) or length <= 0 or len(names) > MAX_NAMES_BYTES:
        raise ValueError("its structure is not that of EMNIST")
    fields = [bytes(names[start : start + length]).rstrip(b"\0").decode() for start in range(0, len(names), length)]
    return {field: matrix for field, (_, matrix) in zip(fields, elements, strict=False)}


def _array(data: memoryview, order: str) -> Array:
    """Parse a numeric matrix."""
    kind, shape, _, elements = _matrix(data, order)
    dtype, content = next(elements)
    if kind == STRUCTURE or kind & COMPLEX or len(shape) != 2 or min(shape) < 1:
        raise ValueError("its images or labels are not real matrices")
    return np.frombuffer(content, f"{order}{DTYPES[dtype]}").reshape(shape, order="F")
