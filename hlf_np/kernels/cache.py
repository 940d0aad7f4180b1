"""Numba's cache of compiled kernels, kept where it can be and trusted only while every source is what it was.

Numba compares a cached function with the file that the function stands in. But functions of one file are compiled into
those of another, and where an upgrade changes the one alone, old machine code would meet new tables. So here the stamp
of every kernel is a digest of all their sources, and of what the processor can do, which decides the size of tiles.

The cache lies in the first of these folders that can be written: the one that NUMBA_CACHE_DIR names, the package's own,
the user's. Where there is none, or it cannot take any more, kernels are compiled anew in every process, and one warning
says so.

This rests on internals of Numba (0.60 to 0.68): `numba.core.caching` with `_CacheLocator`, `CompileResultCacheImpl` and
`FunctionCache`, and the dispatcher's attribute `_cache`.
"""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
from numba import njit
from numba.core import config
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator
from numba.misc.appdirs import AppDirs

KERNELS = Path(__file__).parent


@cache
def stamp(folder: Path = KERNELS) -> str:
    """A digest of all sources in a folder, and of the processor's features."""
    digest = hashlib.sha256(llvm.get_host_cpu_features().flatten().encode())
    for path in sorted(folder.glob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)} ".encode() + content)
    return digest.hexdigest()


@cache
def warn_once(problem: str) -> None:
    warnings.warn(
        f"compiled kernels cannot be kept ({problem}), and every process compiles them anew: set NUMBA_CACHE_DIR to a"
        " folder that can be written to",
        stacklevel=2,
    )


class _Locator(_CacheLocator):
    """A folder for the compiled functions of a source file."""

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
    """The first folder that can be written to."""
    for folder in _folders(Path(file).absolute()):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError:
            continue
        return folder
    return None


def _folders(file: Path) -> Iterator[Path]:
    below = _CacheLocator.get_suitable_cache_subpath(str(file))
    if config.CACHE_DIR:  # type: ignore[attr-defined]
        yield Path(config.CACHE_DIR) / below  # type: ignore[attr-defined]
    yield file.parent / "__pycache__"
    yield Path(AppDirs(appname="numba", appauthor=False).user_cache_dir) / below


class _Files(CompileResultCacheImpl):
    _locator_classes = [_Locator]  # noqa: RUF012, as Numba has it


class _Cache(FunctionCache):
    """A cache that a full disk does not stop."""

    _impl_class = _Files

    def save_overload(self, signature: Any, data: Any) -> None:
        try:
            super().save_overload(signature, data)
        except OSError as error:
            warn_once(error.strerror or type(error).__name__)


def kernel(function: Any = None, /, **options: Any) -> Any:
    """`numba.njit` with this cache, as a decorator with or without options."""
    if function is None:
        return lambda function: kernel(function, **options)
    compiled = njit(**options)(function)
    if not config.DISABLE_JIT:  # type: ignore[attr-defined]
        if _writable(function.__code__.co_filename):
            compiled._cache = _Cache(function)
        else:
            warn_once("no folder can be written to")
    return compiled
