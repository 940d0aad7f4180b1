"""The results folder: which run it belongs to, and a lock against a second run.

::

    DIR/config.json      the configuration, the command and the versions of the run
    DIR/plugins/*.py     its plugins
    DIR/cells/*.npz      measurements, distances and some adversarial examples of each cell
    DIR/models/*.npz     the trained model of each cell; the surrogate of transfer attacks
    DIR/manifolds/*.npz  the VAEs of the learned manifold, and the oracle that judges labels
    DIR/results.csv      all cells; derived from cells/, as are claims.json, report.html, explore.html and figures/
"""

from __future__ import annotations

import fcntl
import json
import platform
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import numba
import numpy as np
import scipy

from hlf_np.experiments.configuration.config import RunConfig
from hlf_np.experiments.configuration.plugins import Plugin, PluginError
from hlf_np.experiments.storage.store import Store
from hlf_np.support.errors import UserError
from hlf_np.support.files import DECODING_ERRORS, json_text, write_text
from hlf_np.support.version import code_version

# Temporary files of a run that was killed while writing.
LEFTOVERS = tuple(f"{place}.*.tmp" for place in ("", "cells/", "models/", "manifolds/", "figures/", "plugins/"))
MAX_CONFIG_BYTES = 2**20  # of config.json


def versions() -> dict[str, str]:
    """Return the versions of the software, and the machine, that results are computed with."""
    return {
        "hlf_np": code_version(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "numba": numba.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
    }


@contextmanager
def open_store(folder: Path, config: RunConfig) -> Iterator[Store]:
    """Open the results folder of a configuration, new or to be resumed, with a lock against a second run.

    A grid can grow: it can be resumed with more seeds and trainings, and with more sizes below the largest.

    Parameters
    ----------
    folder : Path
        The results folder; created if it does not exist.
    config : RunConfig
        The configuration of the run.

    Yields
    ------
    Store
        The opened folder.

    Raises
    ------
    UserError
        If the folder cannot be written, is in use, or contains other files or results of another configuration.
    """
    settings = folder / "config.json"
    names = _names_in(folder)
    initial = (".lock", f".{settings.name}.")  # all that exists if a run is stopped at its very beginning
    if settings.name not in names and not all(name.startswith(initial) for name in names):
        raise UserError(f"{str(folder)!r} contains other files: give a new or empty folder")
    with _locked(folder):
        if not settings.exists() or _differs_in_plugins_only(folder, config) or _is_extended(folder, config):
            command = f"python -m hlf_np {shlex.join(sys.argv[1:])}"
            content = {"run": config.as_json(), "command": command, "versions": versions()}
            write_text(settings, json_text(content))
        for leftover in chain.from_iterable(map(folder.glob, LEFTOVERS)):
            with suppress(OSError):
                leftover.unlink()
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


def _differs_in_plugins_only(folder: Path, config: RunConfig) -> bool:
    """Return whether no model is finished and only the text of plugins differs, so that the run can start again."""
    if any(folder.glob("cells/*.npz")):
        return False
    stored, new = described_run(folder), json.loads(json.dumps(config.as_json()))
    return "plugins" in stored and stored.pop("plugins") != new.pop("plugins") and stored == new


def stored_config(folder: Path, plugins: tuple[Plugin, ...] = ()) -> RunConfig:
    """Read the configuration of a results folder.

    Parameters
    ----------
    folder : Path
        The results folder.
    plugins : tuple of Plugin
        The plugins of the run; those stored in the folder are never executed.

    Returns
    -------
    RunConfig
        The configuration.

    Raises
    ------
    UserError
        If the folder has no valid configuration, or its plugins differ from the given ones.
    """
    settings = folder / "config.json"
    try:
        if not settings.is_file() or settings.stat().st_size > MAX_CONFIG_BYTES:
            raise ValueError
        content = json.loads(settings.read_text())
        run, command = content["run"], content["command"]
        if not isinstance(run, dict) or not isinstance(command, str):
            raise TypeError
        return RunConfig.from_json(run, plugins)
    except PluginError:
        raise
    except DECODING_ERRORS:
        problem = "was not written by this program" if settings.exists() else "is missing"
        raise UserError(f"{str(settings)!r} {problem}: give a folder that `run` created") from None


def described_run(folder: Path) -> dict[str, Any]:
    """Return the settings that `config.json` of a folder lists, whatever they are; none if there is no such file."""
    with suppress(*DECODING_ERRORS):
        run = json.loads((folder / "config.json").read_text())["run"]
        return run if isinstance(run, dict) else {}
    return {}


def _is_extended(folder: Path, config: RunConfig) -> bool:
    """Return whether a configuration adds models to a folder's grid; raise UserError if it is another configuration."""
    stored = stored_config(folder, config.plugins)
    if not config.extends(stored):
        raise UserError(
            f"{str(folder)!r} contains results of another configuration (different {config.differences(stored)}):"
            " repeat the command that created it (it may add seeds, trainings and smaller sizes) or give another folder"
        )
    return config != stored


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder; the operating system releases it when the process ends, for whatever reason."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("a")  # appending leaves the content as it is
    except OSError as error:
        raise UserError(f"cannot write to {str(folder)!r} ({error.strerror}): give another folder") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another run is writing to {str(folder)!r}: wait for it or give another folder") from None
        yield
