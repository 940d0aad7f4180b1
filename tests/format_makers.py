"""Datasets in the layouts in which they are published, made independently of the readers: files by their names.

All makers take the parts of a dataset, images (N, H, W) or (N, H, W, C) of bytes, upright, and labels (N,) from 0.
"""

import io
import zipfile

import numpy as np
from idx_makers import NAMES, part_files
from PIL import Image
from scipy.io import savemat


def random_parts(random, counts=None, shape=(4, 4), classes=10):
    """Random images and labels of the parts."""
    counts = {"train": 12, "test": 7} if counts is None else counts
    return {
        part: (random.integers(0, 256, (count, *shape), np.uint8), random.permutation(np.arange(count) % classes))
        for part, count in counts.items()
    }


def npz(compressed=False, **arrays):
    """The bytes of an archive."""
    stream = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(stream, **arrays)
    return stream.getvalue()


def keras(parts, compressed=True, name="mnist"):
    """As `keras.datasets` leaves it: labels of bytes."""
    arrays = {}
    for part, (images, labels) in parts.items():
        arrays |= {f"x_{part}": images, f"y_{part}": labels.astype(np.uint8)}
    return {f"{name}.npz": npz(compressed, **arrays)}


def medmnist(parts, compressed=True, name="pathmnist"):
    """As MedMNIST has it: labels in a column."""
    arrays = {}
    for part, (images, labels) in parts.items():
        arrays |= {f"{part}_images": images, f"{part}_labels": labels[:, None].astype(np.uint8)}
    return {f"{name}.npz": npz(compressed, **arrays)}


def kmnist(parts, name="kmnist"):
    """As KMNIST has it: one array in each file."""
    files = {}
    for part, (images, labels) in parts.items():
        files[f"{name}-{part}-imgs.npz"] = npz(True, arr_0=images)
        files[f"{name}-{part}-labels.npz"] = npz(True, arr_0=labels.astype(np.uint8))
    return files


def plain(parts, name="own"):
    """Images and labels without parts: the training images."""
    images, labels = parts["train"]
    return {f"{name}.npz": npz(images=images, labels=labels)}


TEN = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def records(images, *labels):
    """CIFAR's: bytes of labels, then planes of red, green and blue."""
    return b"".join(
        bytes(int(each[number]) for each in labels) + b"".join(image[..., channel].tobytes() for channel in range(3))
        for number, image in enumerate(images)
    )


def cifar10(parts, batches=2):
    """The binary version, of images (N, 32, 32, 3)."""
    files = {"batches.meta.txt": ("\n".join(TEN) + "\n\n").encode(), "readme.html": b"<html>"}
    for part, (images, labels) in parts.items():
        pieces = np.array_split(np.arange(len(labels)), batches if part == "train" else 1)
        for number, rows in enumerate(pieces, 1):
            name = f"data_batch_{number}.bin" if part == "train" else "test_batch.bin"
            files[name] = records(images[rows], labels[rows])
    return files


def cifar100(parts):
    """The binary version; each of the 20 coarse classes has five of the fine ones."""
    files = {f"{part}.bin": records(images, labels // 5, labels) for part, (images, labels) in parts.items()}
    for kind, count in (("fine", 100), ("coarse", 20)):
        files[f"{kind}_label_names.txt"] = "".join(f"{kind}_{number}\n" for number in range(count)).encode()
    return files


def emnist_matlab(parts, split="digits", compressed=True, first_label=0):
    """NIST's file for MATLAB: a row for each image, whose columns come one after the other."""

    def structure(images, labels):
        rows = np.stack([image.flatten(order="F") for image in images])
        writers = np.arange(len(labels), dtype=float)[:, None]
        return {"images": rows, "labels": (labels[:, None] + first_label).astype(np.uint8), "writers": writers}

    mapping = np.stack([np.arange(10), np.arange(48, 58)], axis=1).astype(float)
    stream = io.BytesIO()
    dataset = {part: structure(*made) for part, made in parts.items()} | {"mapping": mapping}
    savemat(stream, {"dataset": dataset}, do_compression=compressed)
    return {f"emnist-{split}.mat": stream.getvalue()}


def emnist_idx(parts, split="digits", first_label=0):
    """NIST's files in the IDX format: transposed."""
    files = {}
    for part, (images, labels) in parts.items():
        files |= part_files(f"emnist-{split}-{part}", images.swapaxes(1, 2), labels + first_label)
    return files


def mnist_idx(parts, suffix=".gz"):
    """Four files as MNIST has them."""
    files = {}
    for part, made in parts.items():
        files |= part_files(NAMES[part], *made, suffix)
    return files


def picture(image, kind="png", **options):
    """An image file; `image` is an array or of Pillow."""
    stream = io.BytesIO()
    made = image if isinstance(image, Image.Image) else Image.fromarray(image)
    made.save(stream, {"jpg": "jpeg", "pgm": "ppm"}.get(kind, kind), **options)
    return stream.getvalue()


def pictures(parts, kinds=("png",), classes="abcdefghij"):
    """Images in a folder for each class; a part that is called "" has no folder."""
    files = {}
    for part, (images, labels) in parts.items():
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            kind = kinds[number % len(kinds)]
            name = "/".join(filter(None, [part, classes[label], f"{number:03}.{kind}"]))
            files[name] = picture(image, kind)
    return files


def zipped(files, folder=""):
    """The bytes of a zip archive of files."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(folder + name, content)
    return stream.getvalue()
