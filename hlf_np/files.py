"""Files that are written whole or not at all, and archives of arrays that are read whole or not at all."""

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from hlf_np.errors import UserError


@contextmanager
def replace_file(path: Path) -> Iterator[IO[bytes]]:
    """A stream whose content becomes the file `path` when the block ends without an error.

    The content goes to a temporary neighbour that is flushed to disk and then renamed, which is atomic:
    whoever reads `path`, at whatever instant this process dies, finds the old file or the new one.
    """
    handle, temporary = _temporary_beside(path)
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


def _temporary_beside(path: Path) -> tuple[int, str]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        return tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    except OSError as error:
        raise UserError(f"cannot write {str(path)!r} ({error.strerror}): choose another place") from None


def check_writable(path: Path) -> None:
    """Refuse a place where `replace_file` could not write, before time is spent on the content."""
    handle, temporary = _temporary_beside(path)
    os.close(handle)
    os.unlink(temporary)


def write_text(path: Path, text: str) -> None:
    """Replace the file `path` by `text`, whole or not at all."""
    with replace_file(path) as stream:
        stream.write(text.encode())


def digest(settings: Any, *arrays: NDArray[Any]) -> str:
    """Sixteen letters that tell apart what something was made from: settings that JSON can write, and arrays."""
    content = hashlib.sha256(json.dumps([settings, [array.shape for array in arrays]]).encode())
    for array in arrays:
        content.update(np.ascontiguousarray(array).data)
    return content.hexdigest()[:16]


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an `.npz` file.

    Raises
    ------
    FileNotFoundError : if there is none.
    ValueError : if it is damaged or something else. What NumPy, zipfile and zlib raise for damaged bytes
        is not documented, and nearly anything.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{str(path)!r} is not an archive of arrays") from error
