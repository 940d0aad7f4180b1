"""Computing cells in another process: what it must know, and what it returns.

All cells of a run share images and networks. A process opens them once (`Work`) and computes any number of cells with
them. It returns the contents of files (`CellFiles`) and never writes to the results folder: only the process that holds
the lock does.
"""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from hlf_np.data.source import Source
from hlf_np.experiments.configuration.config import RunConfig
from hlf_np.experiments.configuration.plugins import Plugin, plugin_errors
from hlf_np.experiments.grid.cell import run_cell
from hlf_np.experiments.grid.prepare import Prepared, Progress, SharedModels, assemble, prepare, source_of
from hlf_np.experiments.storage.store import CellFiles, Store
from hlf_np.support.errors import UserError


@dataclass(frozen=True)
class StoredWork:
    """A run in a results folder that the process can read, after `train_shared`.

    Parameters
    ----------
    folder : Path
        The folder.
    settings : str
        The configuration, as JSON.
    plugins : tuple of Plugin
        Its plugins.
    """

    folder: Path
    settings: str
    plugins: tuple[Plugin, ...]

    @classmethod
    def of(cls, config: RunConfig, folder: Path) -> StoredWork:
        """Return the work of a run."""
        return cls(folder, json.dumps(config.as_json()), config.plugins)

    def open(self) -> tuple[RunConfig, Prepared]:
        """Return the configuration of the run, and what its cells share, with the networks in the folder."""
        config = RunConfig.from_json(json.loads(self.settings), self.plugins)
        return config, prepare(config, Store(self.folder, config), lambda *progress: None)


@dataclass(frozen=True)
class SentWork:
    """A run with all that its cells share, for a process that cannot read its folder.

    Parameters
    ----------
    content : bytes
        Configuration and plugins, and the images (unless they can be generated) and networks, which may be of classes
        that the plugins declare; pickled.
    """

    content: bytes

    @classmethod
    def of(cls, config: RunConfig, source: Source, shared: SharedModels) -> SentWork:
        """Return the work of a run. FONTS is not sent, but generated where it is needed."""
        images = None if source.manifold else source
        return cls(pickle.dumps((config.as_json(), config.plugins, pickle.dumps((images, shared)))))

    def open(self) -> tuple[RunConfig, Prepared]:
        """Return the configuration of the run, and what its cells share."""
        settings, plugins, content = pickle.loads(self.content)
        config = RunConfig.from_json(settings, plugins)  # executes the plugins
        images, shared = pickle.loads(content)
        return config, assemble(config, images or source_of(config), shared)


Work = StoredWork | SentWork  # hashable, so that a process opens it only once


@lru_cache(maxsize=1)
def _opened(work: Work) -> tuple[RunConfig, Prepared]:
    return work.open()


def compute_cell(work: Work, index: int, progress: Progress) -> CellFiles:
    """Compute a cell of a run.

    Parameters
    ----------
    work : Work
        The run.
    index : int
        The index of the cell in `RunConfig.cells`.
    progress : callable
        Receives the progress of the cell.

    Returns
    -------
    CellFiles
        What is to be stored.

    Raises
    ------
    UserError
        If a plugin fails or the images are not those of the run.
    """
    try:
        with plugin_errors():
            config, prepared = _opened(work)
            cell = list(config.cells())[index]
            progress(f"{cell}: begins", cell.name, 0)
            return CellFiles.of(*run_cell(config, cell, prepared, progress), config)
    except UserError as error:
        raise UserError(str(error)) from None  # subclasses need not survive the way back
