"""Files that are written whole or not at all."""

import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from hlf_np.errors import UserError

# What NumPy and zipfile raise for a file that is damaged or something else.
DAMAGED = (
    OSError, EOFError, KeyError, ValueError, TypeError, AttributeError, MemoryError, NotImplementedError, RuntimeError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


@contextmanager
def replace_file(path: Path) -> Iterator[IO[bytes]]:
    """A stream whose content becomes the file `path` when the block ends without an error.

    The content goes to a temporary neighbour that is flushed to disk and then renamed, which is atomic:
    whoever reads `path`, at whatever instant this process dies, finds the old file or the new one.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    except OSError as error:
        raise UserError(f"cannot write {str(path)!r} ({error.strerror}): choose another place") from None
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise UserError(
                f"cannot write {str(path)!r} ({error.strerror}): free some space or choose another place"
            ) from None
        raise


def read_arrays(path: Path, what: str, hint: str) -> dict[str, NDArray[Any]]:
    """All arrays of an `.npz` file, never pickled objects.

    Raises
    ------
    UserError : if the file is missing, damaged or something else; it names `what` was expected and gives the hint.
    """
    if not path.exists():
        raise UserError(f"there is no {what} {str(path)!r}: {hint}")
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except DAMAGED:
        raise UserError(f"{str(path)!r} is not a {what}, or damaged: {hint}") from None


def write_text(path: Path, text: str) -> None:
    """Replace the file `path` by `text`, whole or not at all."""
    with replace_file(path) as stream:
        stream.write(text.encode())
