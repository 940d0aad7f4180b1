"""The cells of a results folder: one file for each, written whole, so that a run can stop at any instant and go on."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from hlf_np.checks import check_images, check_labels
from hlf_np.errors import UserError
from hlf_np.experiments.config import RunConfig
from hlf_np.experiments.measurements import KEYS
from hlf_np.experiments.results import Cell, CellResult, Examples
from hlf_np.files import DAMAGED, read_arrays, replace_file, write_text
from hlf_np.models import Model


class Store:
    """A results folder. Open it with `open_store`.

    manifolds : the folder of the VAEs and the oracle; models : that of the trained models and of the surrogate.
    """

    def __init__(self, folder: Path, config: RunConfig) -> None:
        self.folder, self.config = folder, config
        self.manifolds, self.models = folder / "manifolds", folder / "models"

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
            "measurements": dict(result.measurements),
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
            return CellResult(cell, measurements, examples, distances, failure)
        except DAMAGED:
            raise UserError(f"{str(path)!r} is damaged: delete it and repeat the command to compute it again") from None

    def results(self) -> list[CellResult]:
        """All finished cells, in the order of the grid."""
        return [self.load(cell) for cell in self.config.cells() if self.has(cell)]

    def write_csv(self, results: Sequence[CellResult]) -> None:
        """`results.csv`, one row per finished cell."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        columns = [measurement.column for measurement in self.config.measurements]
        writer.writerow([*KEYS, *columns])
        for result in results:
            keys = [self.config.dataset, result.cell.training, result.cell.n_train, result.cell.seed]
            values = map(result.value, columns)
            writer.writerow([*keys, *("" if math.isnan(value) else f"{value:.6f}" for value in values)])
        write_text(self.folder / "results.csv", text.getvalue())


def _checked(examples: Examples) -> Examples:
    """Examples from a file, if they are what they should be; ValueError or UserError otherwise."""
    for images in (examples.originals, examples.adversarial):
        check_images(images)
    for labels in (examples.labels, examples.predictions):
        check_labels(labels, np.iinfo(np.int64).max, len(examples.originals))
    if examples.adversarial.shape != examples.originals.shape:
        raise ValueError("images before and after are of different shapes")
    return examples
