"""CIFAR-10 and CIFAR-100 in their binary version: records of one or two labels and the planes of a 32x32 image."""

import re
from functools import partial

import numpy as np

from hlf_np.data.places import LARGEST, File, Folder, take
from hlf_np.data.stored import Found, Pair, Request, StoredDataset, assemble, pair_of
from hlf_np.errors import UserError

SHAPE = (3, 32, 32)  # of an image in the files: planes of red, green and blue
PIXELS = 3 * 32 * 32
FILES = {  # of the parts, by the names of the datasets therein
    ("cifar-10",): {"train": r"data_batch_\d+\.bin", "test": r"test_batch\.bin"},
    ("cifar-100", "cifar-100-coarse"): {"train": r"train\.bin", "test": r"test\.bin"},
}
LABELS = {  # by the datasets' names: how many labels a record has, which one counts, of how many classes, named where
    "cifar-10": (1, 0, 10, "batches.meta.txt"),
    "cifar-100": (2, 1, 100, "fine_label_names.txt"),
    "cifar-100-coarse": (2, 0, 20, "coarse_label_names.txt"),
}
PICKLED = ({"data_batch_1", "test_batch"}, {"train", "test", "meta"})  # files of the version for Python


def find(folder: Folder) -> dict[str, Found]:
    """The datasets in a folder by their names, of which CIFAR-100 has two; UserError for the version for Python."""
    for names, patterns in FILES.items():
        parts: dict[str, list[File]] = {}
        for part, pattern in patterns.items():
            if files := [file for name, file in folder.files.items() if re.fullmatch(pattern, name)]:
                parts[part] = files
        if parts:
            return {name: Found(partial(_read, folder, parts)) for name in names}
    if any(names <= folder.files.keys() for names in PICKLED):
        raise UserError(
            f"{str(folder.path)!r} holds CIFAR for Python, whose pickles could run any code: get the binary version"
        )
    return {}


def _read(folder: Folder, parts: dict[str, list[File]], request: Request) -> StoredDataset:
    width, place, classes, names = LABELS[request.name]
    read = {part: _read_part(files, width, place) for part, files in parts.items()}
    return assemble(request.path, request.name, read, _class_names(folder.files.get(names), classes))


def _read_part(files: list[File], width: int, place: int) -> Pair:
    content, size = bytearray(), width + PIXELS
    for file in files:
        with file.open() as stream:
            piece = take(stream, LARGEST + 1 - len(content))
        if not piece or len(piece) % size or len(content) + len(piece) > LARGEST:
            raise UserError(
                f"{str(file)!r} has {len(piece)} bytes or more, not a number of images of {size} bytes: get it again"
            )
        content += piece
    records = np.frombuffer(content, np.uint8).reshape(-1, size)
    images = records[:, width:].reshape(-1, *SHAPE).transpose(0, 2, 3, 1)
    where = str(files[0])
    return pair_of(np.ascontiguousarray(images), where, records[:, place].copy(), where)


def _class_names(file: File | None, count: int) -> tuple[str, ...]:
    """The names of classes, a line for each; numbers where there is no file of names."""
    if file is None:
        return tuple(map(str, range(count)))
    with file.open() as stream:
        names = tuple(take(stream, 2**16).decode().split())
    if len(set(names)) != count or not all(name.isprintable() for name in names):
        raise UserError(f"{str(file)!r} does not hold the names of {count} classes: get it again, or remove it")
    return names
