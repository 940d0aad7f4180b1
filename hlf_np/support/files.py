"""Atomic writing of files, and safe reading of `.npz` archives."""

import errno
import hashlib
import json
import math
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from hlf_np.support.errors import UserError

MAX_ARCHIVE_BYTES = 2**30  # of the file, and of its content when unpacked
CHUNK_BYTES = 2**20  # unpacked at a time
# What decoding JSON or arrays raises if the content is damaged, accidentally or on purpose.
DECODING_ERRORS = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)


@contextmanager
def replace_file(path: Path) -> Iterator[IO[bytes]]:
    """Write a file atomically: its new content appears only if the block ends without an error.

    The content goes to a temporary file beside `path` that is flushed to disk and then renamed, which is atomic. If
    this process dies at any point, `path` has either its old or its new content.

    Parameters
    ----------
    path : Path
        The file; missing folders are created.

    Yields
    ------
    binary stream
        Receives the content.

    Raises
    ------
    UserError
        If the file cannot be written.
    """
    handle, temporary = _temporary_beside(path)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise UserError(
                f"cannot write {str(path)!r} ({error.strerror}): free some space or choose another path"
            ) from None
        raise


def _umask() -> int:
    """Return the permissions that new files shall not have; they cannot be read without being set."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def _temporary_beside(path: Path) -> tuple[int, str]:
    """Create a temporary file in the folder of `path`, and return its handle and name."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if path.exists() and not path.is_file():  # a device or a pipe, which must not be replaced
            raise OSError(errno.EINVAL, "not a regular file")
        return tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    except OSError as error:
        raise UserError(f"cannot write {str(path)!r} ({error.strerror}): choose another path") from None


def check_writable(path: Path) -> None:
    """Raise UserError if `replace_file` could not write a file, before time is spent on its content."""
    handle, temporary = _temporary_beside(path)
    os.close(handle)
    os.unlink(temporary)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically, see `replace_file`."""
    with replace_file(path) as stream:
        stream.write(content)


def write_text(path: Path, text: str) -> None:
    """Write text to a file atomically; characters that UTF-8 cannot encode are escaped."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def json_text(content: Any) -> str:
    """Return indented JSON."""
    return json.dumps(content, indent=2) + "\n"


def digest(settings: Any, *arrays: NDArray[Any]) -> str:
    """Compute a fingerprint of settings and arrays.

    Parameters
    ----------
    settings : object
        Anything that JSON supports.
    *arrays : ndarray
        Arrays of any type and shape.

    Returns
    -------
    str
        The first 16 hexadecimal digits of a SHA-256 hash.
    """
    content = hashlib.sha256(json.dumps([settings, [array.shape for array in arrays]]).encode())
    for array in arrays:
        content.update(np.ascontiguousarray(array).data)
    return content.hexdigest()[:16]


def stored_as(name: str, folder: Path | None, origin: Callable[[], str], reuse: bool) -> Path | None:
    """Return the path of a network that is stored once: `name` and a digest of its origin.

    Parameters
    ----------
    name : str
        What the network is.
    folder : Path, optional
        The folder; None if it is not stored.
    origin : callable
        Returns a digest of all that determines the network; called only if there is a folder.
    reuse : bool
        Whether another file of this name is as good.
    """
    if not folder:
        return None
    folder = Path(folder)
    others = sorted(folder.glob(f"{name}-*.npz")) if reuse else []
    exact = folder / f"{name}-{origin()}.npz"
    return others[0] if others and exact not in others else exact


def only_stored(name: str, folder: Path) -> Path | None:
    """Return the path of the only network of a name that `stored_as` has put into a folder; None if there is none.

    Raises
    ------
    UserError
        If there are several.
    """
    paths = sorted(folder.glob(f"{name}-*.npz"))
    if len(paths) > 1:
        raise UserError(f"{str(folder)!r} holds {len(paths)} files {name}-*.npz: remove all but one")
    return paths[0] if paths else None


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read all arrays of an `.npz` file, which need not be trusted.

    Sizes are checked before memory is allocated, and nothing is unpickled.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    dict of str to ndarray
        Arrays of numbers or strings by their names.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    PermissionError
        If the file is not readable.
    ValueError
        If the file is damaged, larger than `MAX_ARCHIVE_BYTES`, or not an archive of such arrays.
    """
    try:
        if not path.is_file():  # reading a pipe or a device might never end
            raise ValueError("not a regular file") if path.exists() else FileNotFoundError(path)
        if path.stat().st_size > MAX_ARCHIVE_BYTES:
            raise ValueError("too large")
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > MAX_ARCHIVE_BYTES:
                raise ValueError("too large when unpacked")
            arrays = {member.filename.removesuffix(".npy"): _read_array(archive, member) for member in members}
            if len(arrays) < len(members):
                raise ValueError("two arrays have the same name")
            return arrays
    except (FileNotFoundError, PermissionError):
        raise
    # zipfile, zlib and NumPy do not document what they raise for damaged files, and it can be almost anything
    except Exception as error:
        raise ValueError(f"{str(path)!r} is not an archive of arrays") from error


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    """Read one member of an `.npz` file, which must have exactly the size that its header declares."""
    with archive.open(member) as stream:
        if not member.filename.endswith(".npy") or np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError("not an array in version 1.0 of the .npy format, whose headers are below 64 KiB")
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
        size = math.prod(shape) * dtype.itemsize
        if dtype.kind not in "biufU" or not dtype.itemsize or size != member.file_size - stream.tell():
            raise ValueError("neither numbers nor strings, or not as many as the header declares")
        content, position = bytearray(size), 0
        while position < size:  # zipfile verifies the checksum when it returns the last chunk
            if not (chunk := stream.read(CHUNK_BYTES)):
                raise EOFError
            content[position : position + len(chunk)] = chunk
            position += len(chunk)
    return np.ndarray(shape, dtype, content, order="F" if fortran_order else "C")
