"""The results folder: whose it is, and that nobody else writes to it.

::

    DIR/config.json      everything that made the run
    DIR/plugins/*.py     the plugins among it
    DIR/cells/*.npz      a cell's measurements and some adversarial examples
    DIR/models/*.npz     its trained model; the surrogate of transfer attacks
    DIR/manifolds/*.npz  the VAEs of the learned manifold, and the oracle that judges labels
    DIR/results.csv      all cells; made from cells/, as are claims.json, report.html and figures/
"""

from __future__ import annotations

import fcntl
import json
import platform
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path

import numba
import numpy as np

from hlf_np import __version__
from hlf_np.errors import UserError
from hlf_np.experiments.config import RunConfig
from hlf_np.experiments.plugins import Plugin, PluginError
from hlf_np.experiments.store import Store
from hlf_np.files import DAMAGED, json_text, write_text

LARGEST_SETTINGS = 2**20  # bytes of config.json


def versions() -> dict[str, str]:
    """What the numbers were made with."""
    return {
        "hlf_np": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": numba.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
    }


@contextmanager
def open_store(folder: Path, config: RunConfig) -> Iterator[Store]:
    """The results folder of a configuration, new or to be continued, locked against a second run.

    Raises
    ------
    UserError : if the folder cannot be written, holds something else, or the results of another
        configuration.
    """
    settings = folder / "config.json"
    names = _names_in(folder)
    begun = (".lock", f".{settings.name}.")  # all there is of a run that was stopped at its very beginning
    if settings.name not in names and not all(name.startswith(begun) for name in names):
        raise UserError(f"{str(folder)!r} holds other files: give a new or empty folder")
    with _locked(folder):
        for leftover in folder.rglob(".*.tmp"):  # of a run that was killed while it wrote
            with suppress(OSError):
                leftover.unlink()
        if settings.exists() and not _is_only_mended(folder, config):
            found = stored_config(folder, config.plugins)
            names = [each.name for each in fields(config) if getattr(found, each.name) != getattr(config, each.name)]
            if names:
                raise UserError(
                    f"{str(folder)!r} holds results of another configuration (other {', '.join(sorted(names))}):"
                    " repeat that command, or give another folder"
                )
        else:
            command = f"python -m hlf_np {shlex.join(sys.argv[1:])}"
            content = {"run": config.as_json(), "command": command, "versions": versions()}
            write_text(settings, json_text(content))
        for plugin in config.plugins:
            write_text(folder / "plugins" / plugin.name, plugin.text)
        yield Store(folder, config)


def _names_in(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"cannot use {str(folder)!r} ({error.strerror}): give another folder") from None


def _is_only_mended(folder: Path, config: RunConfig) -> bool:
    """Whether the run of a folder has finished no model, and differs in the text of its plugins alone."""
    if any(folder.glob("cells/*.npz")):
        return False
    with suppress(*DAMAGED):
        begun, now = json.loads((folder / "config.json").read_text())["run"], json.loads(json.dumps(config.as_json()))
        return bool(begun.pop("plugins") != now.pop("plugins") and begun == now)
    return False


def stored_config(folder: Path, plugins: tuple[Plugin, ...] = ()) -> RunConfig:
    """The configuration of a results folder.

    plugins : those that the run was made with. What lies in the folder is never run.

    Raises
    ------
    UserError : if the folder has none, or for other plugins.
    """
    settings = folder / "config.json"
    try:
        if not settings.is_file() or settings.stat().st_size > LARGEST_SETTINGS:
            raise ValueError
        content = json.loads(settings.read_text())
        run, command = content["run"], content["command"]
        if not isinstance(run, dict) or not isinstance(command, str):
            raise TypeError
        return RunConfig.from_json(run, plugins)
    except PluginError:
        raise
    except DAMAGED:
        problem = "is not from this program" if settings.exists() else "is missing"
        raise UserError(f"{str(settings)!r} {problem}: give a folder that `run` wrote") from None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the operating system releases it however this process ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("a")  # whatever it is, its content stays
    except OSError as error:
        raise UserError(f"cannot write to {str(folder)!r} ({error.strerror}): give another folder") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another run is writing to {str(folder)!r}: wait for it, or give another folder") from None
        yield
