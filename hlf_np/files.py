"""Files that are written whole or not at all, and archives of arrays that are read whole or not at all."""

import errno
import hashlib
import json
import math
import os
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from hlf_np.errors import UserError

LARGEST_ARCHIVE = 2**30  # bytes, packed or not
PIECE = 2**20  # bytes that are unpacked at a time
# What comes up where JSON or arrays are not what they should be, be it by intent.
DAMAGED = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)


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
        if path.exists() and not path.is_file():  # a device or a pipe, which a file must not replace
            raise OSError(errno.EINVAL, "not a file")
        return tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    except OSError as error:
        raise UserError(f"cannot write {str(path)!r} ({error.strerror}): choose another place") from None


def check_writable(path: Path) -> None:
    """Refuse a place where `replace_file` could not write, before time is spent on the content."""
    handle, temporary = _temporary_beside(path)
    os.close(handle)
    os.unlink(temporary)


def write_text(path: Path, text: str) -> None:
    """Replace the file `path` by `text`, whole or not at all; what is no text in the names of files becomes escapes."""
    with replace_file(path) as stream:
        stream.write(text.encode(errors="backslashreplace"))


def json_text(content: Any) -> str:
    """JSON that people can read."""
    return json.dumps(content, indent=2) + "\n"


def digest(settings: Any, *arrays: NDArray[Any]) -> str:
    """Sixteen letters that tell apart what something was made from: settings that JSON can write, and arrays."""
    content = hashlib.sha256(json.dumps([settings, [array.shape for array in arrays]]).encode())
    for array in arrays:
        content.update(np.ascontiguousarray(array).data)
    return content.hexdigest()[:16]


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an `.npz` file of plain numbers and texts.

    Nothing is trusted: sizes are checked before memory is taken, and nothing is ever unpickled. FileNotFoundError or
    PermissionError if there is none, or none to be read; ValueError if it is damaged, larger than `LARGEST_ARCHIVE`
    bytes, or something else.
    """
    try:
        if not path.is_file():  # a pipe or a device might never end
            raise ValueError("not a file") if path.exists() else FileNotFoundError(path)
        if path.stat().st_size > LARGEST_ARCHIVE:
            raise ValueError("too large")
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > LARGEST_ARCHIVE:
                raise ValueError("too large when unpacked")
            arrays = {member.filename.removesuffix(".npy"): _read_array(archive, member) for member in members}
            if len(arrays) < len(members):
                raise ValueError("two arrays of one name")
            return arrays
    except (FileNotFoundError, PermissionError):
        raise
    # what zipfile, zlib and NumPy raise for damaged bytes is not documented, and nearly anything
    except Exception as error:
        raise ValueError(f"{str(path)!r} is not an archive of arrays") from error


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    """One member of an `.npz` file, which must hold exactly what its header says."""
    with archive.open(member) as stream:
        if not member.filename.endswith(".npy") or np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError("not an array, or one with a header of any length")
        shape, columns_first, dtype = np.lib.format.read_array_header_1_0(stream)
        size = math.prod(shape) * dtype.itemsize
        if dtype.kind not in "biufU" or not dtype.itemsize or size != member.file_size - stream.tell():
            raise ValueError("not numbers or texts, or not as many as the header says")
        content, at = bytearray(size), 0
        while at < size:  # the last piece is not given unless the checksum is right
            if not (piece := stream.read(PIECE)):
                raise EOFError
            content[at : at + len(piece)] = piece
            at += len(piece)
    return np.ndarray(shape, dtype, content, order="F" if columns_first else "C")
