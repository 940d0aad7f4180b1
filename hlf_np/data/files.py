"""Load datasets from files of any supported format."""

import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from hlf_np.data.dataset import Dataset
from hlf_np.data.formats import cifar, idx, image_folders, matlab, npz
from hlf_np.data.formats.file_tree import Folder, open_folder
from hlf_np.data.formats.known_datasets import (
    CLASS_NAMES,
    EMNIST_PREFIX,
    download_hint,
    is_valid_name,
    normalised_name,
)
from hlf_np.data.formats.raw_dataset import FoundDataset, RawDataset, ReadRequest
from hlf_np.support.checks import check_count
from hlf_np.support.errors import UserError

Finder = Callable[[Folder], dict[str, FoundDataset]]  # the datasets in a folder, but not below it, by name
FINDERS: tuple[Finder, ...] = (
    idx.find_datasets,
    cifar.find_datasets,
    npz.find_datasets,
    matlab.find_datasets,
    image_folders.find_datasets,
)
MAX_DEPTH = 2  # of the folders that are searched: below data/, MNIST is in MNIST/raw
GENERIC_FOLDERS = ("gzip", "raw", "matlab")  # folders whose names do not name the dataset
EMNIST_ARCHIVES = ("gzip.zip", "matlab.zip")  # as published by NIST
DEFAULT_NAMES = ("emnist-digits", "cifar-100")  # of several datasets
FALLBACK_NAME = "idx"  # of a dataset without a name
MAX_IMAGE_SIZE = 1024


def load(path: str | os.PathLike[str], name: str | None = None, image_size: int | None = None) -> Dataset:
    """Load a dataset from files of any supported format.

    If there is only one part, one fifth of it is held out for testing. If there are validation images but no test
    images, the former are used for testing.

    Parameters
    ----------
    path : str or path-like
        One of

        - a folder of images (PNG, JPEG, BMP, GIF, PPM) with one folder per class, optionally below the folders `train`
          and `test`. The images are grey if all files are, else all are in colour;
        - an `.npz` archive with the array names of Keras (`x_train`, `y_train`, `x_test`, `y_test`), MedMNIST
          (`train_images`, ...) or KMNIST, or with `images` and `labels`;
        - a folder with the binary version of CIFAR-10 or CIFAR-100;
        - a folder of IDX files, see `load_idx`, or of EMNIST's `.mat` files;
        - a folder or zip archive that contains such a folder.
    name : str, optional
        Which of several datasets to load, such as "emnist-letters" or "cifar-100-coarse", or a name for a dataset
        whose files do not reveal it.
    image_size : int, optional
        Side in pixels of the squares to which images in folders are resized.

    Returns
    -------
    Dataset
        All images in the order of the files, upright, (N, H, W, C) float32 in [0, 1], with labels from 0 and without
        codes.

    Raises
    ------
    UserError
        If there is no dataset, or it is damaged or inconsistent.
    """
    return read_files(Path(path), name, image_size).dataset()


def load_idx(path: str | os.PathLike[str], name: str | None = None) -> Dataset:
    """Load MNIST, EMNIST, QMNIST, Fashion-MNIST, or any other dataset of IDX files.

    Parameters
    ----------
    path : str or path-like
        A folder of files, compressed or not, with their published names: `train-images-idx3-ubyte`, `t10k-...`,
        `emnist-<split>-{train,test}-{images-idx3,labels-idx1}-ubyte`, `qmnist-...`; or NIST's `gzip.zip`. Pixels are
        numbers of any type from 0 to 255, or floating-point numbers from 0 to 1, which are not rescaled. Images may
        have channels, which come last.
    name : str, optional
        See `load`. The default is the only dataset found or, of several, the paper's "emnist-digits". MNIST and
        Fashion-MNIST use the same file names; their content distinguishes them or, if it is not the published one, the
        name of the folder. Any other name has the classes "0", "1", ...

    Returns
    -------
    Dataset
        See `load`. Its `classes` are all classes of a known dataset, even if the files have no image of some.

    Raises
    ------
    UserError
        If files are missing, damaged or of another format, or a known dataset is not as published.
    """
    return read_files(Path(path), name, finders=(idx.find_datasets,)).dataset()


def read_files(
    path: Path, name: str | None = None, image_size: int | None = None, finders: tuple[Finder, ...] = FINDERS
) -> RawDataset:
    """Read the dataset that `load` loads, with images as stored in the files.

    Parameters
    ----------
    path : Path
        See `load`.
    name : str, optional
        See `load`.
    image_size : int, optional
        See `load`.
    finders : tuple of callable
        The formats to look for.

    Returns
    -------
    RawDataset
        All images and labels.

    Raises
    ------
    UserError
        See `load`.
    """
    if not os.path.exists(path):
        raise UserError(f"there is no {str(path)!r}: {download_hint(f'{name} {path}')}")
    if image_size is not None:
        check_count("image_size", image_size, maximum=MAX_IMAGE_SIZE)
    wanted = None if name is None else name.lower().replace("_", "-")
    if wanted is not None and not is_valid_name(wanted):
        splits = ", ".join(known for known in CLASS_NAMES if known.startswith(EMNIST_PREFIX))
        raise UserError(
            f"a dataset of files cannot be named {wanted!r}: use letters, digits and hyphens; the splits of EMNIST are"
            f" {splits}"
        )
    single_file = path.suffix.lower() in (".npz", ".mat") and path.is_file() and finders is FINDERS
    with nullcontext(Folder(path.parent, npz.companions(path))) if single_file else open_folder(path) as root:
        match = _search(root, wanted, finders)
        if match is None:
            return read_files(_emnist_archive(path, root, finders), name, image_size, finders)
        folder, datasets = match
        key = _choose(path, wanted, datasets)
        if image_size is not None and not datasets[key].resizes:
            raise UserError(f"{str(path)!r}: only folders of images can be resized: leave --image-size out")
        known_name = wanted or key
        return datasets[key].read(
            ReadRequest(path, known_name or _name_from_path(path, folder), bool(known_name), image_size)
        )


def _search(
    root: Folder, wanted: str | None, finders: tuple[Finder, ...]
) -> tuple[Folder, dict[str, FoundDataset]] | None:
    """Search level by level for the only folder with datasets, or the only one with the wanted name."""
    level, wanted_letters = [root], (wanted or "").replace("-", "")  # FashionMNIST matches fashion-mnist
    for _ in range(1 + MAX_DEPTH):
        searched = [(folder, _datasets(folder, finders)) for folder in level]
        matches = [(folder, datasets) for folder, datasets in searched if datasets]
        named = [
            (folder, datasets)
            for folder, datasets in matches
            if wanted in datasets or _name_from_path(root.path, folder).replace("-", "") == wanted_letters
        ]
        if len(matches) == 1 or len(named) == 1:
            return (named or matches)[0]
        if matches:
            paths = ", ".join(str(folder.path.relative_to(root.path)) for folder, _ in matches)
            raise UserError(f"{str(root.path)!r} holds datasets in {paths!r}: give the path of one, or its name")
        level = [subfolder for folder in level for subfolder in folder.folders.values()]
    return None


def _datasets(folder: Folder, finders: tuple[Finder, ...]) -> dict[str, FoundDataset]:
    """Find all datasets in a folder; folders of images, which may show anything, count only if there is no other."""
    datasets: dict[str, FoundDataset] = {}
    for find in finders:
        if find is not image_folders.find_datasets or not datasets:
            datasets = find(folder) | datasets
    return datasets


def _emnist_archive(path: Path, root: Folder, finders: tuple[Finder, ...]) -> Path:
    """Return the path of NIST's archive in a folder without datasets; raise UserError if it is not there."""
    for folder in (root, *root.folders.values()):
        for name in EMNIST_ARCHIVES:
            if name in folder.files and not folder.files[name].archive:
                return folder.files[name].path
    if finders is FINDERS:
        raise UserError(
            f"{str(path)!r} holds no dataset in a supported format: give a folder of images with one folder per class,"
            " an .npz archive of arrays, or the files of MNIST, EMNIST or CIFAR"
        )
    raise UserError(
        f"{str(path)!r} holds no IDX files: give the folder of train-images-idx3-ubyte.gz and its companions, or NIST's"
        " gzip.zip"
    )


def _choose(path: Path, wanted: str | None, datasets: dict[str, FoundDataset]) -> str:
    """Return the key of the wanted dataset; one whose files do not reveal its name matches any."""
    if wanted is None:
        candidates = list(datasets) if len(datasets) == 1 else [name for name in DEFAULT_NAMES if name in datasets][:1]
    elif wanted in datasets:
        return wanted
    else:
        unnamed = [name for name, found in datasets.items() if found.unnamed and (not name or "" not in datasets)]
        candidates = [] if wanted.startswith(EMNIST_PREFIX) else unnamed
    if len(candidates) != 1:
        has_emnist = any(name.startswith(EMNIST_PREFIX) for name in datasets)
        missing = wanted or (DEFAULT_NAMES[0] if has_emnist else "a single dataset")
        present = ", ".join(sorted(name or found.unnamed for name, found in datasets.items()))
        raise UserError(f"{str(path)!r} contains {present} instead of {missing}: name one of these")
    return candidates[0]


def _name_from_path(path: Path, folder: Folder) -> str:
    """Name a dataset after its folder, or after the given folder or archive that contains it."""
    resolved = path.resolve()
    own = resolved.name if resolved.is_dir() else resolved.stem
    if resolved.is_dir():
        parts = folder.path.relative_to(path).parts
        own = next((part for part in reversed(parts) if part not in GENERIC_FOLDERS), own)
    name = normalised_name(own)
    return name if is_valid_name(name) and not name.startswith(EMNIST_PREFIX) else FALLBACK_NAME
