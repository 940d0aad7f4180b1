"""NumPy `.npz` archives with the array names of Keras, MedMNIST and KMNIST, or simply `images` and `labels`."""

import re
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from hlf_np.data.formats.file_tree import File, Folder, read_errors
from hlf_np.data.formats.known_datasets import FIRST_LABELS, is_valid_name, normalised_name
from hlf_np.data.formats.raw_dataset import (
    MAX_CHANNELS,
    PARTS,
    FoundDataset,
    RawDataset,
    ReadRequest,
    assemble,
    check_arrays,
    train_and_test,
)
from hlf_np.support.arrays import Array
from hlf_np.support.errors import UserError
from hlf_np.support.files import read_arrays

PART = "train|test|val|valid|validation"
ARRAY_NAME = re.compile(
    rf"(?:(?P<prefix>{PART})_)?(?P<kind>images|imgs|x|data|labels|y|targets?)(?:_(?P<suffix>{PART}))?"
)
# Each of these files holds one array.
KMNIST_FILE = re.compile(r"(?P<dataset>kmnist|k49)-(?P<prefix>train|test)-(?P<kind>imgs|labels)\.npz")
LABEL_NAMES = ("labels", "y", "target", "targets")
KMNIST_CLASSES = {  # in the Latin alphabet, as not every font has kana
    "kmnist": "o ki su tsu na ha ma ya re wo",
    "k49": "a i u e o ka ki ku ke ko sa shi su se so ta chi tsu te to na ni nu ne no ha hi fu he ho ma mi mu me mo"
    " ya yu yo ra ri ru re ro wa wi we wo n iteration",
}


def companions(path: Path) -> dict[str, File]:
    """Return the files that form a dataset together with an `.npz` file, including that file, by name."""
    match = KMNIST_FILE.fullmatch(path.name)
    candidates = path.parent.glob(f"{match['dataset']}-*.npz") if match else [path]
    return {file.name: File(file) for file in candidates if not match or KMNIST_FILE.fullmatch(file.name)}


def find_datasets(folder: Folder) -> dict[str, FoundDataset]:
    """Find the datasets in a folder on disk, by file name; archives inside zip archives are ignored."""
    datasets: dict[str, FoundDataset] = {}
    kmnist: dict[str, list[Path]] = {}
    for name, file in folder.files.items():
        if file.archive:
            continue
        if match := KMNIST_FILE.fullmatch(name):
            kmnist.setdefault(match["dataset"], []).append(file.path)
        elif name.endswith(".npz") and (folder.members or _may_be_dataset(file.path)):
            stem = normalised_name(file.path.stem)
            dataset = stem if is_valid_name(stem) else ""
            if other := datasets.get(dataset):
                raise UserError(f"{other.unnamed} and {str(file)!r} have the same name: give the path of one")
            datasets[dataset] = FoundDataset(partial(_read, [file.path]), unnamed=repr(str(file)))
    return datasets | {name: FoundDataset(partial(_read, paths)) for name, paths in kmnist.items()}


def _may_be_dataset(path: Path) -> bool:
    """Return whether the names of an archive's arrays include images and labels; True if it is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            return len({_part_and_kind(path, name.removesuffix(".npy")) for name in archive.namelist()} - {None}) > 1
    except Exception:  # zipfile raises nearly anything for damaged bytes; reading the file reports what is wrong
        return True


def _part_and_kind(path: Path, name: str) -> tuple[str, str] | None:
    """Return the part to which an array belongs and its kind, "images" or "labels"; None for any other array."""
    match = ARRAY_NAME.fullmatch(name.lower()) or KMNIST_FILE.fullmatch(path.name)
    if not match:
        return None
    groups = match.groupdict()
    part = groups["prefix"] or groups.get("suffix") or "train"
    return PARTS[part], "labels" if match["kind"] in LABEL_NAMES else "images"


def _read(paths: list[Path], request: ReadRequest) -> RawDataset:
    parts: dict[str, dict[str, tuple[Array, str]]] = {}  # array and name, by part and kind
    for path in paths:
        for name, array in _arrays(path).items():
            if key := _part_and_kind(path, name):
                part, kind = key
                found = (array, f"{path}/{name}")
                if (first := parts.setdefault(part, {}).setdefault(kind, found)) is not found:
                    raise UserError(f"{first[1]!r} and {found[1]!r} are both {kind}: leave one out of the archive")
    used = train_and_test(parts)
    if not used or any(len(arrays) < 2 for arrays in used.values()):
        names = ", ".join(name for arrays in parts.values() for _, name in arrays.values()) or paths[0]
        raise UserError(
            f"{str(names)!r} is not a complete set of images and labels: name the arrays x_train, y_train, x_test and"
            " y_test, or images and labels"
        )
    contents = {
        part: check_arrays(*_channels_last(*arrays["images"]), *arrays["labels"]) for part, arrays in used.items()
    }
    classes = KMNIST_CLASSES.get(request.name, "").split() if KMNIST_FILE.fullmatch(paths[0].name) else ()
    lowest = min(labels.array.min() for _, labels in contents.values())
    first_label = FIRST_LABELS.get(request.name, 0) if lowest > 0 else 0  # in arrays, labels often count from 0
    return assemble(request.path, request.name, contents, tuple(classes), first_label)


def _arrays(path: Path) -> Mapping[str, Array]:
    with read_errors(str(path)):
        try:
            return read_arrays(path)
        except ValueError:
            raise UserError(
                f"{str(path)!r} is not an .npz archive of numeric arrays of up to 1 GiB, or is damaged: save arrays"
                " with numpy.savez, no objects, or download it again"
            ) from None


def _channels_last(images: Array, name: str) -> tuple[Array, str]:
    """Move the channels of images to the last axis if they clearly come first; return the images and their name."""
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        return images, name
    if images.shape[3] > MAX_CHANNELS:
        return np.moveaxis(images, 1, 3), name
    if images.shape[1] != images.shape[2] == images.shape[3]:
        raise UserError(f"{name!r} has shape {images.shape}, whose channels may be first or last: put them last")
    return images, name
