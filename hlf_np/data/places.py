"""Folders of files, on disk or in a zip archive; none of the files is trusted."""

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

from hlf_np.errors import UserError

LARGEST = 2**30  # bytes of an array; the largest published one, the training images of EMNIST byclass, has half of it
PIECE = 2**20  # bytes that are read at once
HIDDEN = (".", "__")  # how the names begin of what is there for other programs, such as __MACOSX


def take(stream: IO[bytes] | GzipFile, most: int) -> bytearray:
    """As many bytes as there are, up to a number; memory grows with what there is, not with what is asked for."""
    content = bytearray()
    while len(content) < most and (piece := stream.read(min(PIECE, most - len(content)))):
        content += piece
    return content


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Whatever goes wrong in the block becomes one line about the file of this name."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"there is no file {name!r}: put it there") from None
    except Exception as error:  # what zipfile, zlib, Pillow and NumPy raise for damaged bytes is nearly anything
        told = shorten(str(error), 120) or type(error).__name__
        raise UserError(f"{name!r} cannot be read or is damaged ({told}): get it again") from None


@dataclass(frozen=True)
class File:
    """A file. path : its place, in an archive as if that were a folder; member : its name in the archive."""

    path: Path
    archive: zipfile.ZipFile | None = None
    member: str = ""

    def __str__(self) -> str:
        return str(self.path)

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Its content; whatever goes wrong with it becomes one line."""
        with reading(str(self)), self.archive.open(self.member) if self.archive else self.path.open("rb") as stream:
            yield stream


@dataclass(frozen=True)
class Folder:
    """A folder. members : all files below it, by their names relative to it; None for what is on disk."""

    path: Path
    members: Mapping[str, File] | None = None

    @cached_property
    def files(self) -> dict[str, File]:
        """The files directly in it, by their names, in order."""
        if self.members is None:
            return {path.name: File(path) for path in self._on_disk() if path.is_file()}
        return {name: self.members[name] for name in sorted(self.members) if "/" not in name and _visible(name)}

    @cached_property
    def folders(self) -> dict[str, Folder]:
        """The folders directly in it, by their names, in order."""
        if self.members is None:
            return {path.name: Folder(path) for path in self._on_disk() if path.is_dir()}
        below: dict[str, dict[str, File]] = {}
        for member in sorted(self.members):
            name, slash, rest = member.partition("/")
            if slash and rest and _visible(name):
                below.setdefault(name, {})[rest] = self.members[member]
        return {name: Folder(self.path / name, members) for name, members in below.items()}

    def _on_disk(self) -> list[Path]:
        try:
            return sorted(path for path in self.path.iterdir() if _visible(path.name))
        except OSError as error:
            raise _unreadable(self.path, error) from None


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot read {str(path)!r} ({error.strerror or error}): give another folder")


def _visible(name: str) -> bool:
    return not name.startswith(HIDDEN)


@contextmanager
def open_folder(path: Path) -> Iterator[Folder]:
    """A folder or zip archive; UserError for anything else."""
    if path.is_dir():
        yield Folder(path)
        return
    try:
        if not path.is_file():  # a pipe or a device might never end
            raise ValueError
        archive = zipfile.ZipFile(path)
    except OSError as error:
        raise _unreadable(path, error) from None
    except Exception:  # as above
        raise UserError(f"{str(path)!r} is neither a folder nor a zip archive, or damaged: get it again") from None
    with archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        yield Folder(path, {name: File(path.joinpath(*name.split("/")), archive, name) for name in names})
