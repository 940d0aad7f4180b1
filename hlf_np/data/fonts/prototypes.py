"""The prototypes of FONTS: ten letters of each font, as images."""

import hashlib
import os
from functools import cache
from pathlib import Path

import numpy as np

from hlf_np.support.arrays import Bytes
from hlf_np.support.errors import UserError
from hlf_np.support.files import read_arrays

LETTERS = tuple("ABCDEFGHIJ")
SIDE = 28  # pixels


def prototypes_path() -> Path:
    """Return the path of the shipped prototypes: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parents[2]  # hlf_np
    installed = package / "data" / "prototypes.npz"
    return installed if installed.exists() else package.parent / "fonts" / "prototypes.npz"


@cache
def prototypes_digest() -> str:
    """Return the SHA-256 of the shipped prototypes; results are comparable only if it is the same."""
    try:
        return hashlib.sha256(prototypes_path().read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {str(prototypes_path())!r} ({error.strerror}): reinstall hlf_np") from None


def load_prototypes(path: str | os.PathLike[str] | None = None) -> Bytes:
    """Load font prototypes from a file.

    Parameters
    ----------
    path : str or path-like, optional
        A file made by `python -m hlf_np fonts build`; by default, the shipped prototypes.

    Returns
    -------
    ndarray of uint8, shape (fonts, 10, 28, 28)
        The letters A to J of each font, white on black.

    Raises
    ------
    UserError
        If the file is missing or does not hold prototypes.

    Examples
    --------
    >>> load_prototypes().shape
    (1000, 10, 28, 28)
    """
    path = prototypes_path() if path is None else Path(path)
    hint = "make one with `python -m hlf_np fonts build DIR`"
    try:
        images = read_arrays(path)["images"]
    except FileNotFoundError:
        raise UserError(f"there is no prototypes file {str(path)!r}: {hint}") from None
    except (ValueError, KeyError):
        raise UserError(f"{str(path)!r} is not a file of font prototypes, or is damaged: {hint}") from None
    if (
        images.dtype != np.uint8
        or images.ndim != 4
        or images.shape[1:] != (len(LETTERS), SIDE, SIDE)
        or not len(images)
    ):
        raise UserError(
            f"{str(path)!r} holds {images.dtype} of shape {images.shape}, not uint8 images of the letters A to J in"
            f" 28x28 pixels: {hint}"
        )
    return images
