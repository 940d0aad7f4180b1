"""Numba's cache of compiled kernels, beside their sources.

Numba notices a change in a function's own file only. But functions of one file are compiled into those of another, and
where an upgrade changes the one alone, old machine code would meet new tables.
"""

from contextlib import suppress
from pathlib import Path

NOTE = "sources.txt"


def discard_stale(folder: Path) -> None:
    """Empty the cache if any source in the folder is not what it was when the cache was begun."""
    found = [(path.name, path.stat()) for path in sorted(folder.glob("*.py"))]
    present = "".join(f"{name} {stat.st_mtime_ns} {stat.st_size}\n" for name, stat in found)
    note = folder / "__pycache__" / NOTE
    with suppress(OSError):  # where we must not write, Numba keeps its cache elsewhere
        if note.is_file() and note.read_text() == present:
            return
        for index in note.parent.glob("*.nbi"):
            index.unlink(missing_ok=True)
        note.parent.mkdir(exist_ok=True)
        note.write_text(present)
