"""One door to all formats of datasets: a reader for each finds what it knows."""

import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from hlf_np.checks import check_count
from hlf_np.data import cifar, idx, image_folders, matlab, npz
from hlf_np.data.dataset import Dataset
from hlf_np.data.names import CLASSES, EMNIST, may_be_named, normalised, origin
from hlf_np.data.places import Folder, open_folder
from hlf_np.data.stored import Found, Request, StoredDataset
from hlf_np.errors import UserError

Find = Callable[[Folder], dict[str, Found]]  # the datasets in a folder, but not below it, by their names
READERS: tuple[Find, ...] = (idx.find, cifar.find, npz.find, matlab.find, image_folders.find)
DEPTH = 2  # of the folders that are searched: below data/, MNIST is in MNIST/raw
PLACES = ("gzip", "raw", "matlab")  # folders whose names say nothing of what they hold
ARCHIVES = ("gzip.zip", "matlab.zip")  # as NIST publishes EMNIST
PREFERRED = ("emnist-digits", "cifar-100")  # of several datasets
UNKNOWN = "idx"  # the name of what has none
LARGEST_SIDE = 1024


def load(path: str | os.PathLike[str], name: str | None = None, image_size: int | None = None) -> Dataset:
    """A dataset of files in any format that is known.

    Parameters
    ----------
    path : one of

        - a folder of images (PNG, JPEG, BMP, GIF, PPM) with a folder for each class, or with `train` and `test` above
          these. Images are grey if all files are, or else all in colour;
        - an `.npz` archive as of Keras (`x_train`, `y_train`, `x_test`, `y_test`), MedMNIST (`train_images`, ...) or
          KMNIST, or of `images` and `labels`;
        - a folder of CIFAR-10 or CIFAR-100 in the binary version;
        - a folder of IDX files, see `load_idx`, or of EMNIST's `.mat` files;
        - a folder or zip archive with such a folder in it.

        Where there is only one part, a fifth of it serves to test; images for validation do where none are to test.
    name : which dataset it is, of several that are there, such as "emnist-letters" or "cifar-100-coarse"; or what to
        call it.
    image_size : the side in pixels of the squares that the images in folders are resized to.

    Returns
    -------
    All images in the order of the files, (N, H, W, C) float32 in [0, 1], upright; labels from 0; no codes.

    Raises
    ------
    UserError : if there is no dataset, or it is damaged, or does not go together.
    """
    return read_files(Path(path), name, image_size).dataset()


def load_idx(path: str | os.PathLike[str], name: str | None = None) -> Dataset:
    """MNIST, EMNIST, QMNIST, Fashion-MNIST, or any other dataset of IDX files.

    Parameters
    ----------
    path : a folder of files, compressed or not, named as published: `train-images-idx3-ubyte`, `t10k-...`,
        `emnist-<split>-{train,test}-{images-idx3,labels-idx1}-ubyte`, `qmnist-...`. Or NIST's `gzip.zip`. Whole
        numbers of any type are pixels from 0 to 255; floating-point numbers too, unless all lie between 0 and 1: those
        are taken as they are. Images may have channels, which come last.
    name : as of `load`. By default the only dataset there, or "emnist-digits", the paper's, of several. MNIST and
        Fashion-MNIST have files of the same names; they are told apart by their content, or if that is not as
        published, by the folder's name. Any other name gets the classes "0", "1", ...

    Returns
    -------
    As `load` does. `classes` are all that the dataset has, also those of which a partial file has no image.

    Raises
    ------
    UserError : if files are missing, damaged or something else, or an official dataset is not as published.
    """
    return read_files(Path(path), name, readers=(idx.find,)).dataset()


def read_files(
    path: Path, name: str | None = None, image_size: int | None = None, readers: tuple[Find, ...] = READERS
) -> StoredDataset:
    """What `load` loads, with images still as the files have them."""
    if not os.path.exists(path):
        raise UserError(f"there is no {str(path)!r}: {origin(f'{name} {path}')}")
    if image_size is not None:
        check_count("image_size", image_size, most=LARGEST_SIDE)
    wanted = None if name is None else name.lower().replace("_", "-")
    if wanted is not None and not may_be_named(wanted):
        splits = ", ".join(known for known in CLASSES if known.startswith(EMNIST))
        raise UserError(
            f"a dataset of files cannot be named {wanted!r}: use letters, digits and hyphens; of EMNIST there are"
            f" {splits}"
        )
    alone = path.suffix.lower() in (".npz", ".mat") and path.is_file() and readers is READERS
    with nullcontext(Folder(path.parent, npz.companions(path))) if alone else open_folder(path) as root:
        found = _search(root, wanted, readers)
        if found is None:
            return read_files(_archive(path, root, readers), name, image_size, readers)
        folder, datasets = found
        group = _choose(path, wanted, datasets)
        if image_size is not None and not datasets[group].resizes:
            raise UserError(f"{str(path)!r} holds no folders of images, others are not resized: leave --image-size out")
        chosen = wanted or group
        return datasets[group].read(Request(path, chosen or _own_name(path, folder), bool(chosen), image_size))


def _search(root: Folder, wanted: str | None, readers: tuple[Find, ...]) -> tuple[Folder, dict[str, Found]] | None:
    """Where datasets are: the folder itself, or else the only one in it that has any, or that goes by a name."""
    level, letters = [root], (wanted or "").replace("-", "")  # FashionMNIST goes by fashion-mnist
    for _ in range(1 + DEPTH):
        every = [(folder, _datasets(folder, readers)) for folder in level]
        found = [(folder, datasets) for folder, datasets in every if datasets]
        named = [
            (folder, datasets)
            for folder, datasets in found
            if wanted in datasets or _own_name(root.path, folder).replace("-", "") == letters
        ]
        if len(found) == 1 or len(named) == 1:
            return (named or found)[0]
        if found:
            there = ", ".join(str(folder.path.relative_to(root.path)) for folder, _ in found)
            raise UserError(f"{str(root.path)!r} holds datasets in {there!r}: give the path of one, or its name")
        level = [below for folder in level for below in folder.folders.values()]
    return None


def _datasets(folder: Folder, readers: tuple[Find, ...]) -> dict[str, Found]:
    """All datasets in a folder; images in folders count only where nothing else is, as they may be of anything."""
    datasets: dict[str, Found] = {}
    for find in readers:
        if find is not image_folders.find or not datasets:
            datasets = find(folder) | datasets
    return datasets


def _archive(path: Path, root: Folder, readers: tuple[Find, ...]) -> Path:
    """An archive in a folder without anything else."""
    for folder in (root, *root.folders.values()):
        for name in ARCHIVES:
            if name in folder.files and not folder.files[name].archive:
                return folder.files[name].path
    if readers is READERS:
        hint = (
            ", nor any other dataset that is known: give a folder of images in a folder for each class, an .npz archive"
            " of arrays, or the files of MNIST, EMNIST or CIFAR"
        )
    else:
        hint = ": give the folder of train-images-idx3-ubyte.gz and its companions, or NIST's gzip.zip"
    raise UserError(f"{str(path)!r} holds no IDX files{hint}")


def _choose(path: Path, wanted: str | None, datasets: dict[str, Found]) -> str:
    """Which dataset is meant; one that its publisher did not name can have any name."""
    if wanted is None:
        candidates = list(datasets) if len(datasets) == 1 else [name for name in PREFERRED if name in datasets][:1]
    elif wanted in datasets:
        return wanted
    else:
        unnamed = [name for name, found in datasets.items() if found.unnamed and (not name or "" not in datasets)]
        candidates = [] if wanted.startswith(EMNIST) else unnamed
    if len(candidates) != 1:
        missing = wanted or (PREFERRED[0] if any(name.startswith(EMNIST) for name in datasets) else "a single dataset")
        there = ", ".join(sorted(name or found.unnamed for name, found in datasets.items()))
        raise UserError(f"{str(path)!r} does not hold {missing} but {there}: name one of these")
    return candidates[0]


def _own_name(path: Path, folder: Folder) -> str:
    """A name for what is in a folder, or below a folder or archive that was given."""
    place = path.resolve()
    own = place.name if place.is_dir() else place.stem
    if place.is_dir():
        own = next((part for part in reversed(folder.path.relative_to(path).parts) if part not in PLACES), own)
    name = normalised(own)
    return name if may_be_named(name) and not name.startswith(EMNIST) else UNKNOWN
