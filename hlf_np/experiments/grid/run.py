"""Computing the cells of a grid: in this process, in several, or on several machines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, wait
from contextlib import AbstractContextManager
from dataclasses import replace
from queue import SimpleQueue

from hlf_np.data.source import Source
from hlf_np.experiments.configuration.config import RunConfig
from hlf_np.experiments.configuration.plugins import plugin_errors
from hlf_np.experiments.grid.cell import run_cell
from hlf_np.experiments.grid.cluster import Cluster
from hlf_np.experiments.grid.prepare import Progress, assemble, source_of, train_shared
from hlf_np.experiments.grid.processes import LocalProcesses, Message, Submit
from hlf_np.experiments.results import CellResult
from hlf_np.experiments.storage.store import Store
from hlf_np.support.checks import check_count
from hlf_np.support.errors import UserError

MAX_ATTEMPTS = 3  # to compute a cell whose process dies
POLL_SECONDS = 0.2


Workers = LocalProcesses | Cluster  # where cells are computed


def check_grid(config: RunConfig, source: Source | None = None) -> None:
    """Check that the images suffice for a grid and fit its networks, before anything is stored.

    Parameters
    ----------
    config : RunConfig
        The configuration of the run.
    source : Source, optional
        The source of its images, if it is already open.

    Raises
    ------
    UserError
        If there are too few images, or they do not fit the architecture.
    """
    source = source or source_of(config)
    check_count("sizes", max(config.sizes), 1, source.train_size)
    check_count("n_test", config.n_test, 1, source.test_size)
    check_count("n_vae", config.n_vae, 0, source.class_size)
    for name in ("n_oracle", "n_transfer"):
        check_count(name, getattr(config, name), 0, source.train_size)
    replace(config.architecture, classes=len(config.classes), image_shape=source.image_shape)


def run_grid(
    config: RunConfig,
    store: Store,
    progress: Progress,
    workers: Workers | None = None,
    notify: Callable[[str], None] = lambda text: None,
) -> list[CellResult]:
    """Compute the cells that the store does not have yet.

    Parameters
    ----------
    config : RunConfig
        The configuration of the run.
    store : Store
        Its results folder; only this process writes to it.
    progress : callable
        Receives the progress of all tasks.
    workers : Workers, optional
        Where cells are computed; by default, one after the other in this process. The results do not depend on it.
    notify : callable
        Receives lines about the workers themselves.

    Returns
    -------
    list of CellResult
        All cells of the grid.

    Raises
    ------
    UserError
        If cells could not be computed, as every process that did died.
    """
    cells = list(config.cells())
    missing = [index for index, cell in enumerate(cells) if not store.has(cell)]
    source = source_of(config) if missing else None
    if source:
        shared = train_shared(config, source, store, progress)
        if workers is None:
            prepared = assemble(config, source, shared)
            for index in missing:
                with plugin_errors():
                    store.save(*run_cell(config, cells[index], prepared, progress))
        else:
            missing.sort(key=lambda index: cells[index].n_train, reverse=True)  # the largest first

            def start(messages: SimpleQueue[Message]) -> AbstractContextManager[Submit]:
                return workers.start(config, source, shared, store, messages)

            _Rounds(config, store, workers, progress, notify).compute(missing, start)
    return store.results()


class _Rounds:
    """Computing cells by workers of which some may be lost.

    A round submits all cells that are left. If the workers do not give lost cells to others by themselves, it ends with
    the first loss, and the next one begins. The cells that were being computed then come last, in rounds of their own,
    as any of them may be to blame; a cell that is lost for the third time is given up.
    """

    def __init__(
        self, config: RunConfig, store: Store, workers: Workers, progress: Progress, notify: Callable[[str], None]
    ) -> None:
        self.cells, self.store, self.workers = list(config.cells()), store, workers
        self.progress, self.notify = progress, notify
        self.losses: Counter[int] = Counter()
        self.shares: Counter[str] = Counter()  # of the work of unfinished cells that has been reported

    def compute(
        self, indices: Sequence[int], start: Callable[[SimpleQueue[Message]], AbstractContextManager[Submit]]
    ) -> None:
        """Compute and store cells, or raise UserError about those that could not be computed."""
        waiting, given_up, fruitless = list(indices), list[int](), 0
        while waiting:
            submitted = [index for index in waiting if not self.losses[index]] or waiting[:1]
            messages: SimpleQueue[Message] = SimpleQueue()
            with start(messages) as submit:
                lost = self._round(submitted, submit, messages)
            self._report(messages)  # what arrived while the workers ended
            begun = [index for index in lost if self.cells[index].name in self.shares]
            for index in begun:
                cell = self.cells[index]
                self.losses[index] += MAX_ATTEMPTS if self.workers.reassigns else 1
                self.progress(f"{cell}: lost", cell.name, -self.shares.pop(cell.name))
            fruitless = fruitless + 1 if len(lost) == len(submitted) and not begun else 0
            if fruitless == MAX_ATTEMPTS:
                raise UserError(
                    "the processes that compute models end before they begin: repeat the command with fewer jobs, if"
                    " memory is short"
                )
            given_up += [index for index in lost if self.losses[index] >= MAX_ATTEMPTS]
            waiting = [index for index in waiting if index in lost or index not in submitted]
            waiting = [index for index in waiting if self.losses[index] < MAX_ATTEMPTS]
        if given_up:
            names = "; ".join(str(self.cells[index]) for index in given_up)
            raise UserError(
                f"every process that computed one of these models died: {names}; finished models are stored; repeat the"
                " command, with fewer jobs if memory is short"
            )

    def _round(self, indices: Sequence[int], submit: Submit, messages: SimpleQueue[Message]) -> list[int]:
        """Submit cells and store those that are computed; return the others, whose workers were lost."""
        futures, lost = {}, list[int]()
        try:
            for index in indices:
                futures[submit(index)] = index
        except self.workers.lost:  # before all were submitted
            lost += [index for index in indices if index not in futures.values()]
        running = set(futures)
        while running:
            done, running = wait(running, POLL_SECONDS, FIRST_COMPLETED)
            self._report(messages)
            failed = {future for future in done if future.cancelled() or future.exception()}
            for future in done - failed:  # what is finished is stored, whatever else happened
                self.store.write(self.cells[futures[future]], future.result())
                self.shares.pop(self.cells[futures[future]].name, None)
            for future in failed:
                try:
                    future.result()
                except self.workers.lost:
                    lost.append(futures[future])
                except CancelledError:
                    raise UserError(
                        "the connection to the workers is lost: finished models are stored; repeat the command"
                    ) from None
        return lost

    def _report(self, messages: SimpleQueue[Message]) -> None:
        """Pass on what the workers have reported so far."""
        while not messages.empty():
            step, task, share = messages.get()
            if task:
                self.shares[task] += share  # type: ignore[assignment]
                self.progress(step, task, share)
            else:
                self.notify(step)
