"""Numba's cache of compiled kernels, stored wherever possible and valid only while no source file has changed.

Numba compares a cached function only with the file that defines it. But a kernel contains the functions of other files
that it calls, and reads tables that yet other files build: after an upgrade, old machine code would be used with new
tables. So here the stamp of every kernel is a digest of the sources of all kernels. (Numba itself keeps apart what it
has compiled for different processors.)

The cache is stored in the first of these folders that is writable: the one that NUMBA_CACHE_DIR names, `__pycache__`
beside the source, the user's cache folder. If there is none, or the disk is full, every process compiles its kernels
again, and one warning says so.

Internals of Numba (0.60 to 0.68) that this uses: `numba.core.caching` with `_CacheLocator`, `CompileResultCacheImpl`
and `FunctionCache`, the attribute `_cache` of a dispatcher, and `numba.misc.appdirs`.
"""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from numba import njit
from numba.core import config
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator
from numba.misc.appdirs import AppDirs

KERNELS_FOLDER = Path(__file__).parents[1]


@cache
def stamp(folder: Path = KERNELS_FOLDER) -> str:
    """Return a digest of all sources in a folder and its subfolders. (Numba itself tells processors apart.)"""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder)} {len(content)} ".encode() + content)
    return digest.hexdigest()


@cache
def warn_once(problem: str) -> None:
    """Warn that compiled kernels are not stored; once for each problem."""
    warnings.warn(
        f"compiled kernels cannot be stored ({problem}), so every process compiles them again: set NUMBA_CACHE_DIR to a"
        " writable folder",
        stacklevel=2,
    )


class _Locator(_CacheLocator):
    """Where the compiled form of a function is stored, and the stamp that it must have."""

    def __init__(self, function: Any, folder: Path) -> None:
        self._line, self._folder = function.__code__.co_firstlineno, folder

    def get_cache_path(self) -> str:
        return str(self._folder)

    def get_source_stamp(self) -> str:
        return stamp()

    def get_disambiguator(self) -> str:
        return str(self._line)

    @classmethod
    def from_function(cls, function: Any, file: str) -> _Locator | None:
        folder = _writable(file)
        return folder and cls(function, folder)  # type: ignore[return-value]


@cache
def _writable(file: str) -> Path | None:
    """Return the first writable folder for the kernels of a source file, or None."""
    for folder in _folders(Path(file).absolute()):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError:
            continue
        return folder
    return None


def _folders(file: Path) -> Iterator[Path]:
    """Yield the folders to try, in order."""
    subfolder = _CacheLocator.get_suitable_cache_subpath(str(file))
    if config.CACHE_DIR:  # type: ignore[attr-defined]
        yield Path(config.CACHE_DIR) / subfolder  # type: ignore[attr-defined]
    yield file.parent / "__pycache__"
    yield Path(AppDirs(appname="numba", appauthor=False).user_cache_dir) / subfolder


class _Files(CompileResultCacheImpl):
    """Numba's reader and writer of cached functions, with the locator above."""

    _locator_classes = [_Locator]  # noqa: RUF012, as in Numba


class _Cache(FunctionCache):
    """A cache that ignores a full disk, with a warning."""

    _impl_class = _Files

    def save_overload(self, signature: Any, data: Any) -> None:
        try:
            super().save_overload(signature, data)
        except OSError as error:
            warn_once(error.strerror or type(error).__name__)


def kernel(function: Any = None, /, **options: Any) -> Any:
    """Compile a function with `numba.njit` and this cache; a decorator with or without options."""
    if function is None:
        return lambda function: kernel(function, **options)
    compiled = njit(**options)(function)
    if not config.DISABLE_JIT:  # type: ignore[attr-defined]
        if _writable(function.__code__.co_filename):
            compiled._cache = _Cache(function)
        else:
            warn_once("no folder is writable")
    return compiled
