"""The cells of a results folder (what is known of each trained model), one file each; and `results.csv`.

Files are written atomically, so that an interrupted run can be resumed.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np

from hlf_np.experiments.configuration.config import RunConfig
from hlf_np.experiments.configuration.plugins import PluginError
from hlf_np.experiments.measurements.measurement import KEY_COLUMNS
from hlf_np.experiments.results import Cell, CellResult, Examples
from hlf_np.models import Model
from hlf_np.support.checks import check_images, check_labels
from hlf_np.support.errors import UserError
from hlf_np.support.files import DECODING_ERRORS, read_arrays, write_bytes, write_text


@dataclass(frozen=True)
class CellFiles:
    """The files of a finished cell, which a process may compute that cannot write to the results folder.

    Parameters
    ----------
    result : bytes
        Its results.
    model : bytes or None
        Its trained model, if it did not fail.
    """

    result: bytes
    model: bytes | None

    @classmethod
    def of(cls, result: CellResult, model: Model | None, config: RunConfig) -> Self:
        """Return the files of results and of a model."""
        content = {
            "cell": result.cell.name,
            "run": config.settings_of(result.cell).as_json(),
            "measurements": dict(result.measurements),
            "failure": result.failure,
            "computed_by": result.computed_by,
            "examples": list(result.examples),
            "distances": list(result.distances),
            "series": list(result.series),
        }
        entries: dict[str, Any] = {f"distances/{kind}": distances for kind, distances in result.distances.items()}
        entries |= {f"series/{name}": values for name, values in result.series.items()}
        for kind, examples in result.examples.items():
            entries |= {f"examples/{kind}/{name}": array for name, array in asdict(examples).items()}
        stream = io.BytesIO()
        np.savez_compressed(stream, content=np.array(json.dumps(content)), **entries)
        return cls(stream.getvalue(), model.as_bytes() if model else None)


class Store:
    """A results folder; `open_store` opens one.

    Parameters
    ----------
    folder : Path
        The results folder.
    config : RunConfig
        Its configuration.

    Attributes
    ----------
    manifolds : Path
        Folder of the VAEs and the oracle.
    models : Path
        Folder of the trained models and the surrogate.
    """

    def __init__(self, folder: Path, config: RunConfig) -> None:
        self.folder, self.config = folder, config
        self.manifolds, self.models = folder / "manifolds", folder / "models"

    def model_path(self, cell: Cell) -> Path:
        """Return the path of a cell's trained model."""
        return self.models / f"{cell.name}.npz"

    def _cell_path(self, cell: Cell) -> Path:
        return self.folder / "cells" / f"{cell.name}.npz"

    def has(self, cell: Cell) -> bool:
        """Return whether a cell is finished."""
        return self._cell_path(cell).exists()

    def save(self, result: CellResult, model: Model | None) -> None:
        """Store a finished cell, with its trained model if it did not fail."""
        self.write(result.cell, CellFiles.of(result, model, self.config))

    def write(self, cell: Cell, files: CellFiles) -> None:
        """Write the files of a finished cell, the model first, so that a stored cell is always complete."""
        for path, content in ((self.model_path(cell), files.model), (self._cell_path(cell), files.result)):
            if content is not None:
                write_bytes(path, content)

    def load(self, cell: Cell) -> CellResult:
        """Load a finished cell.

        Parameters
        ----------
        cell : Cell
            The cell.

        Returns
        -------
        CellResult
            Its results.

        Raises
        ------
        UserError
            If its file is damaged, or that of another cell or of a run with other settings.
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
            series = {name: arrays[f"series/{name}"] for name in content.get("series", [])}
            measurements = {name: float(value) for name, value in content["measurements"].items()}
            if any(v.ndim != 1 or v.dtype.kind != "f" for v in (*distances.values(), *series.values())):
                raise ValueError("distances and series must be floating-point arrays of shape (N,)")
            failure = str(content.get("failure", ""))
            computed_by = str(content.get("computed_by", ""))
            stored = str(content.get("cell", cell.name))
            run = content.get("run") and RunConfig.from_json(content["run"], self.config.plugins)
        except PluginError:
            raise
        except DECODING_ERRORS:
            raise UserError(f"{str(path)!r} is damaged: delete it and repeat the command to recompute it") from None
        if stored != cell.name:
            raise UserError(f"{str(path)!r} holds the results of {stored}: rename it, or delete it to compute them")
        expected = self.config.settings_of(cell)
        if run and not expected.extends(run):
            raise UserError(
                f"{str(path)!r} was computed with other settings (different {expected.differences(run)}): move it to"
                " the folder of its run"
            )
        return CellResult(cell, measurements, examples, distances, failure, series, computed_by)

    def results(self) -> list[CellResult]:
        """Load all finished cells, in the order of the grid."""
        return [self.load(cell) for cell in self.config.cells() if self.has(cell)]

    def write_csv(self, results: Sequence[CellResult]) -> None:
        """Write `results.csv`, with one row for each result."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        columns = [measurement.column for measurement in self.config.measurements]
        writer.writerow([*KEY_COLUMNS, *columns, "computed_by"])
        for result in results:
            keys = [self.config.dataset, result.cell.training, result.cell.n_train, result.cell.seed]
            values = map(result.value, columns)
            writer.writerow([*keys, *map(_number, values), result.computed_by])
        write_text(self.folder / "results.csv", text.getvalue())


def _number(value: float) -> str:
    """Format a number with six decimals, or six digits if it is small; NaN is empty."""
    if math.isnan(value):
        return ""
    return f"{value:.6f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.6g}"


def _checked(examples: Examples) -> Examples:
    """Return examples read from a file; raise ValueError if they are invalid."""
    for images in (examples.originals, examples.adversarial):
        check_images(images)
    for labels in (examples.labels, examples.predictions):
        check_labels(labels, np.iinfo(np.int64).max, len(examples.originals))
    if examples.adversarial.shape != examples.originals.shape:
        raise ValueError("originals and adversarial images must have the same shape")
    return examples
