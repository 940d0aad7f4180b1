"""IDX files made by hand, byte by byte."""

import gzip
import struct
import zipfile
from pathlib import Path

import numpy as np

NAMES = {"train": "train", "test": "t10k"}


TYPES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}  # in the format's description


def idx_bytes(array, kind="u1"):
    """A file's content: the header as the format's description has it, then the entries."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, TYPES[kind], array.ndim, *array.shape)
    return header + array.astype(f">{kind}").tobytes()


def part_files(prefix, images, labels, suffix=""):
    """The two files of a part by name; compressed if the suffix is .gz."""
    pack = gzip.compress if suffix == ".gz" else bytes
    return {
        f"{prefix}-images-idx3-ubyte{suffix}": pack(idx_bytes(images)),
        f"{prefix}-labels-idx1-ubyte{suffix}": pack(idx_bytes(labels)),
    }


def random_part(count, classes=10, side=4, seed=0, first_label=0):
    """Random images (count, side, side) of bytes, and labels of which as many occur as can."""
    random = np.random.default_rng([seed, count])
    labels = random.permutation(np.arange(count) % classes) + first_label
    return random.integers(0, 256, (count, side, side), np.uint8), labels.astype(np.uint8)


def write_files(folder: Path, files) -> Path:
    """Files in a folder, by name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def write_zip(path: Path, files) -> Path:
    """The same files in an archive as NIST's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"gzip/{name}", content)
    return path


def write_split(folder: Path, train, test) -> Path:
    """A dataset whose images are numbers (N, H, W, 1) in [0, 1], under MNIST's names."""
    files = {}
    for part, split in (("train", train), ("test", test)):
        images = np.rint(split.images[..., 0] * 255)
        files |= part_files(NAMES[part], images, split.labels, ".gz")
    return write_files(folder, files)
