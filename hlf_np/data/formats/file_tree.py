"""Folders and files, on disk or in a zip archive; no file is trusted."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from gzip import GzipFile
from pathlib import Path
from textwrap import shorten
from typing import IO

from hlf_np.support.errors import UserError

MAX_ARRAY_BYTES = 2**30  # twice the largest published array, the training images of EMNIST byclass
CHUNK_BYTES = 2**20  # bytes read at a time
HIDDEN_PREFIXES = (".", "__")  # of files that belong to other programs, such as __MACOSX


def read_at_most(stream: IO[bytes] | GzipFile, max_bytes: int) -> bytearray:
    """Read up to `max_bytes` bytes; memory grows with the bytes that are there, not with the limit."""
    content = bytearray()
    while len(content) < max_bytes and (chunk := stream.read(min(CHUNK_BYTES, max_bytes - len(content)))):
        content += chunk
    return content


@contextmanager
def read_errors(name: str) -> Iterator[None]:
    """Turn any exception in the block into a one-line UserError about the file of this name."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"there is no file {name!r}: put it there") from None
    except Exception as error:  # zipfile, zlib, Pillow and NumPy raise nearly anything for damaged bytes
        reason = shorten(str(error), 120) or type(error).__name__
        raise UserError(f"{name!r} cannot be read or is damaged ({reason}): download it again") from None


@dataclass(frozen=True)
class File:
    """A file on disk or in a zip archive.

    Parameters
    ----------
    path : Path
        Its path; in an archive, as if the archive were a folder.
    archive : ZipFile, optional
        The archive that contains it.
    member : str
        Its name in the archive.
    """

    path: Path
    archive: zipfile.ZipFile | None = None
    member: str = ""

    def __str__(self) -> str:
        return str(self.path)

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Open the file for reading; any exception in the block becomes a one-line UserError."""
        with read_errors(str(self)), self.archive.open(self.member) if self.archive else self.path.open("rb") as stream:
            yield stream


@dataclass(frozen=True)
class Folder:
    """A folder on disk or in a zip archive.

    Parameters
    ----------
    path : Path
        Its path; in an archive, as if the archive were a folder.
    members : mapping of str to File, optional
        All files below a folder in an archive, by their paths relative to it; None for a folder on disk.
    """

    path: Path
    members: Mapping[str, File] | None = None

    @cached_property
    def files(self) -> dict[str, File]:
        """The files directly in the folder, by name, sorted."""
        if self.members is None:
            return {path.name: File(path) for path in self._visible_paths() if path.is_file()}
        return {name: self.members[name] for name in sorted(self.members) if "/" not in name and _is_visible(name)}

    @cached_property
    def folders(self) -> dict[str, Folder]:
        """The folders directly in the folder, by name, sorted."""
        if self.members is None:
            return {path.name: Folder(path) for path in self._visible_paths() if path.is_dir()}
        subfolders: dict[str, dict[str, File]] = {}
        for member, file in self.members.items():
            name, slash, rest = member.partition("/")
            if slash and rest and _is_visible(name):
                subfolders.setdefault(name, {})[rest] = file
        return {name: Folder(self.path / name, members) for name, members in sorted(subfolders.items())}

    def _visible_paths(self) -> list[Path]:
        try:
            return sorted(path for path in self.path.iterdir() if _is_visible(path.name))
        except OSError as error:
            raise _unreadable(self.path, error) from None


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot read {str(path)!r} ({error.strerror or error}): give another folder")


def _is_visible(name: str) -> bool:
    return not name.startswith(HIDDEN_PREFIXES)


@contextmanager
def open_folder(path: Path) -> Iterator[Folder]:
    """Open a folder, or a zip archive as one; raise UserError if the path is neither."""
    if path.is_dir():
        yield Folder(path)
        return
    try:
        if not path.is_file():  # reading a pipe or a device might never end
            raise ValueError
        archive = zipfile.ZipFile(path)
    except OSError as error:
        raise _unreadable(path, error) from None
    except Exception:  # zipfile raises nearly anything for damaged bytes
        raise UserError(
            f"{str(path)!r} is neither a folder nor a zip archive, or is damaged: download it again"
        ) from None
    with archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        yield Folder(path, {name: File(path.joinpath(*name.split("/")), archive, name) for name in names})
