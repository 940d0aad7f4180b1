"""Compiled kernels are stored wherever possible, and old machine code is not used with new sources."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hlf_np.kernels.numba_internals import cache

PACKAGE = Path(cache.__file__).parents[2]
CODE = """
import numpy, hlf_np
from hlf_np.kernels.operations.adam import adam_update
arrays = [numpy.full(3, k, numpy.float32) for k in (1, 1, 0, 0)]
adam_update(*arrays, numpy.array([0, 0, 0, 1, 1, 0], numpy.float32))
print(arrays[0].tolist(), sum(adam_update.stats.cache_hits.values()))
"""


@pytest.fixture
def package(tmp_path):
    """Make a copy of the sources that a test may change."""
    ignored = shutil.ignore_patterns("__pycache__", "data", "cli", "report", "experiments")
    (tmp_path / "package").mkdir()
    shutil.copytree(PACKAGE, tmp_path / "package" / "hlf_np", ignore=ignored)
    (tmp_path / "package" / "hlf_np" / "__init__.py").write_text("")
    return tmp_path / "package"


def run(package, **environment):
    """Run the kernel in a new process; return what it prints and its warnings."""
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env={**os.environ, "PYTHONPATH": str(package), **environment},
        cwd=package,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip(), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("place", ["package", "NUMBA_CACHE_DIR", "home"])
def test_a_kernel_is_compiled_once_and_again_when_any_source_has_changed(package, tmp_path, place):
    environment = {"NUMBA_CACHE_DIR": str(tmp_path / "elsewhere")} if place == "NUMBA_CACHE_DIR" else {}
    if place == "home":  # a file in place of the cache folder
        (package / "hlf_np" / "kernels" / "operations" / "__pycache__").write_text("")
        environment = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    assert run(package, **environment) == ("[0.0, 0.0, 0.0] 0", "")
    assert run(package, **environment) == ("[0.0, 0.0, 0.0] 1", "")
    with (package / "hlf_np" / "kernels" / "products" / "tile.py").open("a") as other:
        other.write("# something else\n")
    assert run(package, **environment) == ("[0.0, 0.0, 0.0] 0", "")


@pytest.mark.slow
def test_without_a_writable_folder_everything_works_with_one_warning(package):
    (package / "hlf_np" / "kernels" / "operations" / "__pycache__").write_text("")
    nowhere = {"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null/cache", "PYTHONDONTWRITEBYTECODE": "1"}
    for environment in (nowhere, nowhere | {"NUMBA_CACHE_DIR": "/dev/null/cache"}):
        printed, warnings = run(package, **environment)
        assert printed == "[0.0, 0.0, 0.0] 0"
        assert warnings.count("compiled kernels cannot be stored") == 1
        assert "NUMBA_CACHE_DIR" in warnings


@pytest.mark.slow
def test_a_full_disk_is_ignored_with_a_warning(package):
    full = "def full(*arguments): raise OSError(28, 'No space left on device')\n"
    code = f"import hlf_np.kernels.numba_internals.cache as c\nc.FunctionCache.save_overload = full\n{CODE}"
    done = subprocess.run(
        [sys.executable, "-c", full + code],
        env={**os.environ, "PYTHONPATH": str(package)},
        cwd=package,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("[0.0, 0.0, 0.0]")
    assert done.stderr.count("No space left on device") == 1


def test_the_stamp_tells_sources_apart(tmp_path):
    def of(**texts):
        for path in tmp_path.glob("*.py"):
            path.unlink()
        for name, text in texts.items():
            (tmp_path / f"{name}.py").write_text(text)
        cache.stamp.cache_clear()
        return cache.stamp(tmp_path)

    stamps = [of(a="1", b="2"), of(a="1", b="3"), of(a="1", c="2"), of(a="12"), of(a="1", b="2", c="")]
    assert len(set(stamps)) == len(stamps)
    assert of(a="1", b="2") == stamps[0]
    cache.stamp.cache_clear()
