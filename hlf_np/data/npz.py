"""Archives of NumPy's arrays, named as by Keras, MedMNIST and KMNIST, or plainly `images` and `labels`."""

import re
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from hlf_np.arrays import Array
from hlf_np.data.names import may_be_named, normalised
from hlf_np.data.places import File, Folder, reading
from hlf_np.data.stored import MOST_CHANNELS, PARTS, Found, Request, StoredDataset, assemble, pair_of, with_test
from hlf_np.errors import UserError
from hlf_np.files import read_arrays

PART = "train|test|val|valid|validation"
ARRAY = re.compile(rf"(?:(?P<part>{PART})_)?(?P<kind>images|imgs|x|data|labels|y|targets?)(?:_(?P<end>{PART}))?")
KMNIST = re.compile(r"(?P<dataset>kmnist|k49)-(?P<part>train|test)-(?P<kind>imgs|labels)\.npz")  # one array in each
LABELS = ("labels", "y", "target", "targets")
CLASSES = {  # in the Latin alphabet, as not every font has kana
    "kmnist": "o ki su tsu na ha ma ya re wo",
    "k49": "a i u e o ka ki ku ke ko sa shi su se so ta chi tsu te to na ni nu ne no ha hi fu he ho ma mi mu me mo"
    " ya yu yo ra ri ru re ro wa wi we wo n iteration",
}


def companions(path: Path) -> dict[str, File]:
    """The files that belong to an `.npz` file, itself included, by their names."""
    match = KMNIST.fullmatch(path.name)
    beside = path.parent.glob(f"{match['dataset']}-*.npz") if match else [path]
    return {file.name: File(file) for file in beside if not match or KMNIST.fullmatch(file.name)}


def find(folder: Folder) -> dict[str, Found]:
    """The datasets in a folder on disk, by the names of their files."""
    found: dict[str, Found] = {}
    published: dict[str, list[Path]] = {}
    for name, file in folder.files.items():
        if file.archive:
            continue
        if match := KMNIST.fullmatch(name):
            published.setdefault(match["dataset"], []).append(file.path)
        elif name.endswith(".npz") and (folder.members or _may_be_dataset(file.path)):
            own = normalised(file.path.stem)
            found[own if may_be_named(own) else ""] = Found(partial(_read, [file.path]), unnamed=repr(str(file)))
    return found | {name: Found(partial(_read, paths)) for name, paths in published.items()}


def _may_be_dataset(path: Path) -> bool:
    """Whether an archive has images and labels by the names of its arrays, or is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            return len({_key(path, name.removesuffix(".npy")) for name in archive.namelist()} - {None}) > 1
    except Exception:  # what zipfile raises for damaged bytes is nearly anything; reading tells what is wrong
        return True


def _key(path: Path, name: str) -> tuple[str, str] | None:
    """The part of a dataset that an array belongs to, and whether it holds its "images" or its "labels"."""
    match = ARRAY.fullmatch(name.lower()) or KMNIST.fullmatch(path.name)
    if not match:
        return None
    parts = match.groupdict()
    return PARTS[parts["part"] or parts.get("end") or "train"], "labels" if match["kind"] in LABELS else "images"


def _read(paths: list[Path], request: Request) -> StoredDataset:
    parts: dict[str, dict[str, tuple[Array, str]]] = {}
    for path in paths:
        for name, array in _arrays(path).items():
            if key := _key(path, name):
                parts.setdefault(key[0], {}).setdefault(key[1], (array, f"{path}/{name}"))
    pairs = with_test(parts)
    if not pairs or any(len(pair) < 2 for pair in pairs.values()):
        there = ", ".join(name for pair in parts.values() for _, name in pair.values()) or paths[0]
        raise UserError(
            f"{str(there)!r} is there without images and labels that belong together: name the arrays x_train, y_train,"
            " x_test and y_test, or images and labels"
        )
    contents = {part: pair_of(*_channels_last(*pair["images"]), *pair["labels"]) for part, pair in pairs.items()}
    classes = CLASSES.get(request.name, "").split() if KMNIST.fullmatch(paths[0].name) else ()
    return assemble(request.path, request.name, contents, tuple(classes))


def _arrays(path: Path) -> Mapping[str, Array]:
    with reading(str(path)):
        try:
            return read_arrays(path)
        except ValueError:
            raise UserError(
                f"{str(path)!r} is no archive of numbers of up to 1 GiB, or damaged: save arrays with numpy.savez,"
                " no objects, or get it again"
            ) from None


def _channels_last(images: Array, name: str) -> tuple[Array, str]:
    """Images (N, H, W, C), also if they are (N, C, H, W) beyond doubt, and their name."""
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        return images, name
    if images.shape[3] > MOST_CHANNELS:
        return np.moveaxis(images, 1, 3), name
    if images.shape[1] != images.shape[2] == images.shape[3]:
        raise UserError(f"{name!r} has shape {images.shape}, whose channels may be first or last: put them last")
    return images, name
