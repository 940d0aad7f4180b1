"""Old machine code is not used with new sources."""

import os

import pytest

from hlf_np.kernels.cache import discard_stale


@pytest.fixture
def folder(tmp_path):
    """Two sources, and the cache that was begun with them."""
    for name in ("tile.py", "executor.py"):
        (tmp_path / name).write_text("1")
    discard_stale(tmp_path)
    compile_into(tmp_path)
    return tmp_path


def compile_into(folder):
    (folder / "__pycache__" / "executor.run-1.py311.nbi").write_text("index")


def cached(folder):
    return list((folder / "__pycache__").glob("*.nbi"))


def test_what_fits_is_kept(folder):
    discard_stale(folder)
    assert cached(folder)


@pytest.mark.parametrize("change", ["text", "time", "new", "gone"])
def test_any_other_source_empties_it_once(folder, change):
    source = folder / "tile.py"
    if change == "text":
        stat = source.stat()
        source.write_text("12")
        os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    elif change == "time":
        os.utime(source, ns=(1, 1))
    elif change == "new":
        (folder / "winograd.py").write_text("")
    else:
        source.unlink()
    discard_stale(folder)
    assert not cached(folder)
    compile_into(folder)
    discard_stale(folder)
    assert cached(folder)


def test_a_cache_from_before_there_was_a_note_is_emptied(folder):
    (folder / "__pycache__" / "sources.txt").unlink()
    discard_stale(folder)
    assert not cached(folder)


def test_a_folder_that_must_not_be_written_to_is_left_alone(tmp_path):
    (tmp_path / "tile.py").write_text("1")
    (tmp_path / "__pycache__").write_text("not a folder: nothing can be written into it")
    discard_stale(tmp_path)
    assert (tmp_path / "__pycache__").is_file()
