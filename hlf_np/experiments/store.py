"""The results folder: one file per finished cell, written whole, so that a run can stop at any instant
and go on.

::

    DIR/config.json      everything that made the run
    DIR/cells/*.npz      a cell's measurements and some adversarial examples
    DIR/models/*.npz     its trained model; the surrogate of transfer attacks
    DIR/manifolds/*.npz  the VAEs of the learned manifold, and the oracle that judges labels
    DIR/results.csv      all cells; made from cells/, as are claims.json, report.html and figures/
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import math
import platform
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from hlf_np import __version__
from hlf_np.arrays import Floats, Integers
from hlf_np.checks import check_images, check_labels
from hlf_np.errors import UserError
from hlf_np.experiments.config import Cell, RunConfig
from hlf_np.files import DAMAGED, read_arrays, replace_file, write_text
from hlf_np.models import Model

LARGEST_SETTINGS = 2**20  # bytes of config.json
COLUMNS = (
    "dataset",
    "training",
    "n_train",
    "seed",
    "test_error",
    "regular_success",
    "on_true_manifold_success",
    "on_learned_manifold_success",
    "regular_success_worst",
    "on_true_manifold_success_worst",
    "on_learned_manifold_success_worst",
    "learned_labels_kept",
    "regular_distance",
    "on_true_manifold_distance",
    "clean_distance",
    "regular_subspace_distance",
    "on_learned_manifold_subspace_distance",
    "clean_subspace_distance",
    "train_loss",
    "seconds",
    "carlini_wagner_success",
    "carlini_wagner_norm",
    "regular_transfer_success",
    "on_true_manifold_transfer_success",
)


@dataclass(frozen=True)
class Measurements:
    """The numbers of a cell; NaN where one was not or cannot be measured, as of a model that failed.

    test_error : of all test images.
    regular_success : of attacks in image space, averaged over restarts; `_worst`: any restart.
    on_true_manifold_success, on_learned_manifold_success : likewise on the manifold, with `_worst`.
    learned_labels_kept : the share of all images attacked on the learned manifold that the oracle still
        assigns to their class after the attack.
    regular_distance, on_true_manifold_distance : mean L2 distance of successful adversarial examples to the
        true manifold of their font and class; clean_distance : of test images.
    regular_subspace_distance, on_learned_manifold_subspace_distance, clean_subspace_distance : where there is no true
        manifold, likewise to the subspace that the nearest training images span around the image that the attack
        started from: the original, or its reconstruction. So that of clean images is 0.
    train_loss : mean cross-entropy of the last epoch.
    seconds : training and attacks together.
    carlini_wagner_success, carlini_wagner_norm : of the attack for the smallest perturbations of the image,
        within L2 1.5; mean L2 norm of the successful ones.
    regular_transfer_success, on_true_manifold_transfer_success : of adversarial examples made on another model,
        on images that both classify correctly, averaged over restarts.
    """

    test_error: float
    regular_success: float = math.nan
    on_true_manifold_success: float = math.nan
    on_learned_manifold_success: float = math.nan
    regular_success_worst: float = math.nan
    on_true_manifold_success_worst: float = math.nan
    on_learned_manifold_success_worst: float = math.nan
    learned_labels_kept: float = math.nan
    regular_distance: float = math.nan
    on_true_manifold_distance: float = math.nan
    clean_distance: float = math.nan
    regular_subspace_distance: float = math.nan
    on_learned_manifold_subspace_distance: float = math.nan
    clean_subspace_distance: float = math.nan
    train_loss: float = math.nan
    seconds: float = math.nan
    carlini_wagner_success: float = math.nan
    carlini_wagner_norm: float = math.nan
    regular_transfer_success: float = math.nan
    on_true_manifold_transfer_success: float = math.nan


@dataclass(frozen=True)
class Examples:
    """Successful adversarial examples: images (N, H, W, C) before and after, true and predicted labels (N,)."""

    originals: Floats
    adversarial: Floats
    labels: Integers
    predictions: Integers


@dataclass(frozen=True)
class CellResult:
    """What is known of a finished cell.

    measurements : of a failed cell, nothing but the seconds.
    examples : for the gallery, by where they were sought: "regular", "on_true_manifold", "on_learned_manifold".
    distances : behind the means in `measurements`, one of each image, by the names of those without `_distance`.
    failure : why there is no model, if its training diverged.
    """

    cell: Cell
    measurements: Measurements
    examples: Mapping[str, Examples]
    distances: Mapping[str, Floats]
    failure: str = ""


def failures(results: Sequence[CellResult]) -> str:
    """A sentence about all cells that failed; empty if none did."""
    failed = [f"{result.cell} ({result.failure})" for result in results if result.failure]
    return f"{len(failed)} of {len(results)} models failed and have no numbers: {'; '.join(failed)}." if failed else ""


class Store:
    """A results folder. Open it with `open_store`."""

    def __init__(self, folder: Path, config: RunConfig) -> None:
        self.folder, self.config = folder, config

    @property
    def manifolds(self) -> Path:
        """The folder of the VAEs and the oracle."""
        return self.folder / "manifolds"

    @property
    def models(self) -> Path:
        """The folder of the trained models and of the surrogate of transfer attacks."""
        return self.folder / "models"

    def model_path(self, cell: Cell) -> Path:
        return self.models / f"{cell.name}.npz"

    def _cell_path(self, cell: Cell) -> Path:
        return self.folder / "cells" / f"{cell.name}.npz"

    def has(self, cell: Cell) -> bool:
        return self._cell_path(cell).exists()

    def save(self, result: CellResult, model: Model | None) -> None:
        """Store a finished cell; the model first, if there is one, so that a cell that is there is complete."""
        if model is not None:
            model.save(self.model_path(result.cell))
        content = {
            "measurements": asdict(result.measurements),
            "failure": result.failure,
            "examples": list(result.examples),
            "distances": list(result.distances),
        }
        entries: dict[str, Any] = {f"distances/{kind}": distances for kind, distances in result.distances.items()}
        for kind, examples in result.examples.items():
            entries |= {f"examples/{kind}/{name}": array for name, array in asdict(examples).items()}
        with replace_file(self._cell_path(result.cell)) as stream:
            np.savez_compressed(stream, content=np.array(json.dumps(content)), **entries)

    def load(self, cell: Cell) -> CellResult:
        """A finished cell.

        Raises
        ------
        UserError : if its file is damaged.
        """
        path = self._cell_path(cell)
        try:
            arrays = read_arrays(path)
            content = json.loads(str(arrays.pop("content")))
            examples = {
                kind: _checked(Examples(*(arrays[f"examples/{kind}/{entry.name}"] for entry in fields(Examples))))
                for kind in content["examples"]
            }
            distances = {kind: arrays[f"distances/{kind}"] for kind in content["distances"]}
            measurements = {name: float(value) for name, value in content["measurements"].items()}
            if any(found.ndim != 1 or found.dtype.kind != "f" for found in distances.values()):
                raise ValueError("distances are one number for each image")
            failure = str(content.get("failure", ""))
            return CellResult(cell, Measurements(**measurements), examples, distances, failure)
        except DAMAGED:
            raise UserError(f"{str(path)!r} is damaged: delete it and repeat the command to compute it again") from None

    def results(self) -> list[CellResult]:
        """All finished cells, in the order of the grid."""
        return [self.load(cell) for cell in self.config.cells() if self.has(cell)]

    def write_csv(self, results: Sequence[CellResult]) -> None:
        """`results.csv`, one row per finished cell."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for result in results:
            values = asdict(result.cell) | asdict(result.measurements) | {"dataset": self.config.dataset}
            writer.writerow([_csv_value(values[column]) for column in COLUMNS])
        write_text(self.folder / "results.csv", text.getvalue())

    def write_json(self, name: str, content: Any) -> None:
        """A JSON file that people can read."""
        write_text(self.folder / name, _json(content))


def _checked(examples: Examples) -> Examples:
    """Examples from a file, if they are what they should be; ValueError or UserError otherwise."""
    for images in (examples.originals, examples.adversarial):
        check_images(images)
    for labels in (examples.labels, examples.predictions):
        check_labels(labels, np.iinfo(np.int64).max, len(examples.originals))
    if examples.adversarial.shape != examples.originals.shape:
        raise ValueError("images before and after are of different shapes")
    return examples


def _csv_value(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6f}"
    return str(value)


def _json(content: Any) -> str:
    return json.dumps(content, indent=2) + "\n"


def versions() -> dict[str, str]:
    """What the numbers were made with."""
    import numba

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
        raise UserError(f"{str(folder)!r} holds other files: give a new or empty folder with --out")
    with _locked(folder):
        for leftover in folder.rglob(".*.tmp"):  # of a run that was killed while it wrote
            with suppress(OSError):
                leftover.unlink()
        expected = _plain(config)
        if settings.exists():
            found = _read_settings(settings)
            if found != expected:
                names = sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))
                raise UserError(
                    f"{str(folder)!r} holds results of another configuration (other {', '.join(names)}):"
                    " repeat that command, or give another folder with --out"
                )
        else:
            content = {
                "run": expected,
                "command": f"python -m hlf_np {shlex.join(sys.argv[1:])}",
                "versions": versions(),
            }
            write_text(settings, _json(content))
        yield Store(folder, config)


def _names_in(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"cannot use {str(folder)!r} ({error.strerror}): give another folder with --out") from None


def _plain(config: RunConfig) -> dict[str, Any]:
    """A configuration as it comes back from a file."""
    plain: dict[str, Any] = json.loads(_json(config.as_json()))
    return plain


def _read_settings(path: Path) -> dict[str, Any]:
    """What a folder says of its run; a setting that an older version did not have was at its default."""
    try:
        if not path.is_file() or path.stat().st_size > LARGEST_SETTINGS:
            raise ValueError
        content = json.loads(path.read_text())
        run, command = content["run"], content["command"]
        if not isinstance(run, dict) or not isinstance(command, str):
            raise TypeError
        return _plain(RunConfig()) | run
    except DAMAGED:
        raise UserError(f"{str(path)!r} is missing or not from this program: give a folder that `run` wrote") from None


def stored_config(folder: Path) -> RunConfig:
    """The configuration of a results folder.

    Raises
    ------
    UserError : if the folder has none.
    """
    settings = folder / "config.json"
    values = _read_settings(settings)
    try:
        return RunConfig.from_json(values)
    except DAMAGED:
        raise UserError(f"{str(settings)!r} is not from this program: give a folder that `run` wrote") from None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the operating system releases it however this process ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("a")  # whatever it is, its content stays
    except OSError as error:
        raise UserError(f"cannot write to {str(folder)!r} ({error.strerror}): give another folder with --out") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another run is writing to {str(folder)!r}: wait for it, or give another --out") from None
        yield
