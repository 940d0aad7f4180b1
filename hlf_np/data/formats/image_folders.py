"""Image files in one folder per class, optionally below the folders `train` and `test` (or `val`)."""

import warnings
from collections.abc import Mapping
from functools import partial
from io import BytesIO
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from hlf_np.data.formats.file_tree import MAX_ARRAY_BYTES, File, Folder, read_at_most
from hlf_np.data.formats.raw_dataset import (
    PARTS,
    FoundDataset,
    RawDataset,
    ReadRequest,
    assemble,
    check_arrays,
    train_and_test,
)
from hlf_np.support.arrays import Array, Bytes
from hlf_np.support.errors import UserError

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM")
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".pbm", ".pnm"}
OTHER_SUFFIXES = {".webp", ".tif", ".tiff", ".jfif", ".jp2", ".heic", ".heif", ".avif"}
MAX_PIXELS = 2**25  # of an image: nearly 6000 x 6000
MAX_FILE_BYTES = 4 * MAX_PIXELS  # four bytes per pixel, uncompressed
MAX_PIXELS_PER_BYTE = 10_000  # of a file; a white image of one bit per pixel comes close
WHITE_16_BIT = 65535
Classes = Mapping[str, list[File]]  # image files by class, in order


def find_datasets(folder: Folder) -> dict[str, FoundDataset]:
    """Find the dataset in a folder, if it has folders of images for at least two classes.

    Raises
    ------
    UserError
        If images in it would be left out without a word.
    """
    named = [(PARTS[name.lower()], sub) for name, sub in folder.folders.items() if name.lower() in PARTS]
    found = {part: classes for part, sub in named if (classes := _classes(sub))}
    parts = train_and_test(found or {"train": _classes(folder)})
    names = {name for classes in parts.values() for name in classes}
    if len(names) < 2 or {name.lower() for name in names} <= PARTS.keys():  # `train` and `test` alone are not classes
        return {}
    for part, sub in named if found else [("train", folder)]:
        if found and sum(part == other for other, _ in named) > 1:
            raise UserError(f"{str(sub.path)!r} is not the only folder of {part} images beside it: remove one")
        _check_all_are_read(sub, is_part=bool(found))
    if found and (others := _classes(folder).keys() - {sub.path.name for _, sub in named}):
        raise UserError(f"{str(folder.path / min(others))!r} holds images beside {'/'.join(found)}: move or remove it")
    return {"": FoundDataset(partial(_read, folder.path, parts), "folders of images", resizes=True)}


def _classes(folder: Folder) -> Classes:
    """Return the image files of each folder that has any; other files are ignored."""
    return {name: files for name, sub in folder.folders.items() if (files := _images(sub))}


def _check_all_are_read(part: Folder, is_part: bool) -> None:
    """Raise UserError if images of a part are of another kind, or not in the folder of a class."""
    for name, sub in part.folders.items():
        if any(map(_images, sub.folders.values())):
            raise UserError(f"images of {str(part.path / name)!r} are in folders inside it: move them up")
    if is_part and _images(part):
        raise UserError(f"images of {str(part.path)!r} are in no folder of a class: move each into one")
    for file in chain.from_iterable(sub.files.values() for sub in part.folders.values()):
        if file.path.suffix.lower() in OTHER_SUFFIXES:
            raise UserError(f"{str(file)!r} is an image of a kind that is not read: convert it to PNG")


def _images(folder: Folder) -> list[File]:
    return [file for file in folder.files.values() if file.path.suffix.lower() in SUFFIXES]


def _read(path: Path, parts: Mapping[str, Classes], request: ReadRequest) -> RawDataset:
    names = list(next(iter(parts.values())))
    if unknown := [name for classes in parts.values() for name in classes if name not in names]:
        raise UserError(
            f"{str(path)!r} has test images of class {unknown[0]!r}, but no training images: add some, or remove these"
        )
    files = [file for classes in parts.values() for file in chain.from_iterable(classes.values())]
    images, contents, start = _load(path, files, request.image_size), {}, 0
    for part, classes in parts.items():
        labels = np.repeat([names.index(name) for name in classes], [len(files) for files in classes.values()])
        part_path = str(path / part)
        contents[part] = check_arrays(images[start : start + len(labels)], part_path, labels, part_path)
        start += len(labels)
    printable = (name if name.isprintable() else ascii(name)[1:-1] for name in names)
    return assemble(request.path, request.name, contents, tuple(printable))


def _load(path: Path, files: list[File], side: int | None) -> Bytes:
    """Load all images, (N, H, W, 1) if all of them are grey, else (N, H, W, 3)."""
    images: Bytes = np.empty((0, 0, 0, 0), np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about sizes, which are checked here, and odd metadata
        for index, file in enumerate(files):
            pixels = _pixels(file, side)
            size, first_size = "{1}x{0}".format(*pixels.shape), "{2}x{1}".format(*images.shape)
            if index and size != first_size:
                raise UserError(
                    f"{str(file)!r} has {size} pixels, others {first_size}: give --image-size (image_size in Python)"
                    " to resize all images"
                )
            if len(files) * pixels.size > MAX_ARRAY_BYTES:
                raise UserError(
                    f"{str(path)!r} has {len(files)} images of {size} pixels, more than 1 GiB: give a smaller"
                    " --image-size (image_size in Python)"
                )
            if not index:
                images = np.empty((len(files), *pixels.shape), np.uint8)
            if pixels.shape[2] > images.shape[3]:
                images = images.repeat(3, axis=3)
            images[index] = pixels
    return images


def _pixels(file: File, side: int | None) -> Array:
    """Load an image of one or three channels, (H, W, C) uint8."""
    with file.open() as stream:
        # Pillow would allocate as much memory as the header announces.
        content = read_at_most(stream, MAX_FILE_BYTES)
        try:
            image: Image.Image = Image.open(BytesIO(content), formats=FORMATS)
        except UnidentifiedImageError:
            formats = ", ".join(FORMATS)
            raise UserError(
                f"{str(file)!r} is not an image ({formats}), or is damaged: download it again, or remove it"
            ) from None
        if image.width * image.height > min(MAX_PIXELS, len(content) * MAX_PIXELS_PER_BYTE):
            raise UserError(
                f"{str(file)!r} claims {image.width}x{image.height} pixels in {len(content)} bytes: give images of up"
                f" to {MAX_PIXELS} pixels"
            )
        image = ImageOps.exif_transpose(image)  # cameras store how they were held
        if image.mode.startswith("I") and 0 < (highest := np.asarray(image).max()) <= 255:
            raise UserError(
                f"{str(file)!r} has 16 bits, but no value above {highest}, which is black: store it with 8 bits"
            )
        converted = _grey_or_colour(image)
        if side is not None:
            converted = converted.resize((side, side), Image.Resampling.BILINEAR)
        return np.asarray(converted).reshape(converted.height, converted.width, -1)


def _grey_or_colour(image: Image.Image) -> Image.Image:
    """Convert an image to mode L or RGB; transparent parts become white, as on paper."""
    if image.mode.startswith("I"):  # 16 bits
        values = np.asarray(image, np.float32).clip(0, WHITE_16_BIT)
        values[values == image.info.get("transparency")] = WHITE_16_BIT  # one value may stand for transparent pixels
        return Image.fromarray(np.rint(values * np.float32(255 / WHITE_16_BIT)).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers")
    grey = image.mode in ("1", "L", "LA")
    palette = image.mode == "P"
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    converted = image.convert("L" if grey else "RGB")
    if palette:  # all of its colours may be grey
        pixels = np.asarray(converted)
        grey = bool((pixels == pixels[..., :1]).all())
    return converted.convert("L") if grey else converted
