"""CIFAR-10 and CIFAR-100 in their binary version: records of one or two labels and the planes of a 32x32 image."""

import re
from functools import partial
from typing import NamedTuple

import numpy as np

from hlf_np.data.formats.file_tree import MAX_ARRAY_BYTES, File, Folder, read_at_most
from hlf_np.data.formats.raw_dataset import (
    FoundDataset,
    ImagesAndLabels,
    RawDataset,
    ReadRequest,
    assemble,
    check_arrays,
)
from hlf_np.support.errors import UserError

PLANES_SHAPE = (3, 32, 32)  # of an image in the files: red, green and blue
IMAGE_BYTES = 3 * 32 * 32
MAX_NAMES_BYTES = 2**16  # of the file of class names
FILE_PATTERNS = {  # of the parts of the datasets
    ("cifar-10",): {"train": r"data_batch_\d+\.bin", "test": r"test_batch\.bin"},
    ("cifar-100", "cifar-100-coarse"): {"train": r"train\.bin", "test": r"test\.bin"},
}


class LabelLayout(NamedTuple):
    """The labels of a record: how many, which of them to use, its number of classes, and the file of their names."""

    columns: int
    column: int
    classes: int
    names_file: str


LABEL_LAYOUTS = {
    "cifar-10": LabelLayout(1, 0, 10, "batches.meta.txt"),
    "cifar-100": LabelLayout(2, 1, 100, "fine_label_names.txt"),
    "cifar-100-coarse": LabelLayout(2, 0, 20, "coarse_label_names.txt"),
}
PICKLE_FILES = ({"data_batch_1", "test_batch"}, {"train", "test", "meta"})  # of the Python version


def find_datasets(folder: Folder) -> dict[str, FoundDataset]:
    """Find the datasets in a folder, by name; raise UserError if it holds the Python version."""
    for names, patterns in FILE_PATTERNS.items():
        parts: dict[str, list[File]] = {}
        for part, pattern in patterns.items():
            if files := [file for name, file in folder.files.items() if re.fullmatch(pattern, name)]:
                parts[part] = files
        if parts:
            return {name: FoundDataset(partial(_read, folder, parts)) for name in names}
    if any(names <= folder.files.keys() for names in PICKLE_FILES):
        raise UserError(
            f"{str(folder.path)!r} holds the Python version of CIFAR, whose pickle files could run arbitrary code: get"
            " the binary version"
        )
    return {}


def _read(folder: Folder, parts: dict[str, list[File]], request: ReadRequest) -> RawDataset:
    layout = LABEL_LAYOUTS[request.name]
    contents = {part: _read_part(files, layout) for part, files in parts.items()}
    names = _class_names(folder.files.get(layout.names_file), layout.classes)
    return assemble(request.path, request.name, contents, names)


def _read_part(files: list[File], layout: LabelLayout) -> ImagesAndLabels:
    content, record_bytes = bytearray(), layout.columns + IMAGE_BYTES
    for file in files:
        with file.open() as stream:
            data = read_at_most(stream, MAX_ARRAY_BYTES + 1 - len(content))
        if not data or len(data) % record_bytes or len(content) + len(data) > MAX_ARRAY_BYTES:
            raise UserError(
                f"{str(file)!r} must hold records of {record_bytes} bytes, up to 1 GiB, but {len(data)} bytes were"
                " read: download it again"
            )
        content += data
    records = np.frombuffer(content, np.uint8).reshape(-1, record_bytes)
    images = records[:, layout.columns :].reshape(-1, *PLANES_SHAPE).transpose(0, 2, 3, 1)
    name = str(files[0])
    return check_arrays(np.ascontiguousarray(images), name, records[:, layout.column].copy(), name)


def _class_names(file: File | None, count: int) -> tuple[str, ...]:
    """Read the names of the classes, one per line; without a file, the names are the labels."""
    if file is None:
        return tuple(map(str, range(count)))
    with file.open() as stream:
        names = tuple(read_at_most(stream, MAX_NAMES_BYTES).decode().split())
    if len(set(names)) != count or not all(name.isprintable() for name in names):
        raise UserError(f"{str(file)!r} does not hold the names of {count} classes: download it again, or remove it")
    return names
