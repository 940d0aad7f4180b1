"""Images in a folder for each class, with or without folders `train` and `test` (or `val`) above these."""

import warnings
from collections.abc import Mapping
from functools import partial
from io import BytesIO
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from hlf_np.arrays import Array, Bytes
from hlf_np.data.places import LARGEST, File, Folder, take
from hlf_np.data.stored import PARTS, Found, Request, StoredDataset, assemble, pair_of, with_test
from hlf_np.errors import UserError

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM")
ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".pbm", ".pnm"}
MOST_PIXELS = 2**25  # of an image: nearly six thousand a side
LARGEST_FILE = 4 * MOST_PIXELS  # bytes; without any compression
DENSEST = 10_000  # pixels of an image for each byte of its file; one bit for each, all of them white, comes near it
WHITE_16 = 65535  # of images of 16 bits
Classes = Mapping[str, list[File]]  # images by the names of their classes, in order


def find(folder: Folder) -> dict[str, Found]:
    """The dataset in a folder if it has folders of images for two classes or more."""
    known = {PARTS[name.lower()]: below for name, below in folder.folders.items() if name.lower() in PARTS}
    parts = {part: classes for part, below in known.items() if (classes := _classes(below))}
    parts = with_test(parts or {"train": _classes(folder)})
    names = {name for classes in parts.values() for name in classes}
    if len(names) < 2 or {name.lower() for name in names} <= PARTS.keys():  # `train` and `test` alone are no classes
        return {}
    return {"": Found(partial(_read, folder.path, parts), "folders of images", resizes=True)}


def _classes(folder: Folder) -> Classes:
    """Those folders in one that have images; other files are not looked at."""
    classes = {
        name: [file for file in below.files.values() if file.path.suffix.lower() in ENDINGS]
        for name, below in folder.folders.items()
    }
    return {name: files for name, files in classes.items() if files}


def _read(path: Path, parts: Mapping[str, Classes], request: Request) -> StoredDataset:
    classes = list(next(iter(parts.values())))
    if strange := [name for folders in parts.values() for name in folders if name not in classes]:
        raise UserError(
            f"{str(path)!r} has images of {strange[0]!r} to test, but none to train: add some, or remove these"
        )
    files = [file for folders in parts.values() for file in chain.from_iterable(folders.values())]
    images, contents, start = _load(path, files, request.image_size), {}, 0
    for part, folders in parts.items():
        labels = np.repeat([classes.index(name) for name in folders], [len(files) for files in folders.values()])
        where = str(path / part)
        contents[part] = pair_of(images[start : start + len(labels)], where, labels, where)
        start += len(labels)
    shown = (name if name.isprintable() else ascii(name)[1:-1] for name in classes)  # in one line of text
    return assemble(request.path, request.name, contents, tuple(shown))


def _load(path: Path, files: list[File], side: int | None) -> Bytes:
    """All images, (N, H, W, 1) if all are grey or else (N, H, W, 3)."""
    images: Bytes = np.empty((0, 0, 0, 0), np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes, which are looked at here, and of oddities in files
        for number, file in enumerate(files):
            pixels = _pixels(file, side)
            size, first = "{1}x{0}".format(*pixels.shape), "{2}x{1}".format(*images.shape)
            if number and size != first:
                raise UserError(
                    f"{str(file)!r} has {size} pixels, others {first}: give --image-size (image_size in Python) to have"
                    " all resized"
                )
            if len(files) * pixels.size > LARGEST:
                raise UserError(
                    f"{str(path)!r} has {len(files)} images, in {size} pixels more than 1 GiB: give a smaller"
                    " --image-size (image_size in Python)"
                )
            if not number:
                images = np.empty((len(files), *pixels.shape), np.uint8)
            if pixels.shape[2] > images.shape[3]:
                images = images.repeat(3, axis=3)
            images[number] = pixels
    return images


def _pixels(file: File, side: int | None) -> Array:
    """An image of one or three channels, (H, W, C) uint8."""
    with file.open() as stream:
        content = take(stream, LARGEST_FILE)  # not by Pillow, which asks for as much as the file says that it has
        try:
            image = Image.open(BytesIO(content), formats=FORMATS)
        except UnidentifiedImageError:
            known = ", ".join(FORMATS)
            raise UserError(f"{str(file)!r} is no {known}, or damaged: get it again, or remove it") from None
        if image.width * image.height > min(MOST_PIXELS, len(content) * DENSEST):
            raise UserError(
                f"{str(file)!r} claims {image.width}x{image.height} pixels in {len(content)} bytes: give images of up"
                f" to {MOST_PIXELS} pixels"
            )
        plain = _grey_or_colour(image)
        if side is not None:
            plain = plain.resize((side, side), Image.Resampling.BILINEAR)
        return np.asarray(plain).reshape(plain.height, plain.width, -1)


def _grey_or_colour(image: Image.Image) -> Image.Image:
    """The image in mode L or RGB; transparent parts become white, as on paper."""
    if image.mode.startswith("I"):  # of 16 bits
        numbers = np.asarray(image, np.float32).clip(0, WHITE_16) * np.float32(255 / WHITE_16)
        return Image.fromarray(np.rint(numbers).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers")
    grey = image.mode in ("1", "L", "LA")
    palette = image.mode == "P"
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    colour = image.convert("L" if grey else "RGB")
    if palette:  # which may be one of greys
        pixels = np.asarray(colour)
        grey = bool((pixels == pixels[..., :1]).all())
    return colour.convert("L") if grey else colour
