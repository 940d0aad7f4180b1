"""Computing cells in several processes of this machine, by the standard library's `ProcessPoolExecutor`.

Processes are spawned: a fork would inherit a thread pool without its threads. Any of them may be killed at any instant.
The executor survives that only if no message through its pipes is cut in two, so all messages are shorter than what the
operating system writes at once (`PIPE_BUF`, 4096 bytes on Linux): tasks are indices of cells, and results are names of
temporary files. Two more pipes connect all processes with this one. Through one they report their progress, in short
messages, too. Nothing is ever sent through the other one: it closes when this process ends, however it ends, and then
they end.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import ClassVar

import numba

from hlf_np.data.source import Source
from hlf_np.experiments.configuration.config import RunConfig
from hlf_np.experiments.grid.prepare import SharedModels
from hlf_np.experiments.grid.work import StoredWork, compute_cell
from hlf_np.experiments.storage.store import CellFiles, Store
from hlf_np.support.files import write_bytes
from hlf_np.support.threads import use_threads

Message = tuple[str, str, float]  # the arguments of `Progress`
Submit = Callable[[int], Future[CellFiles]]
MAX_STEP_LENGTH = 300  # characters of a step's description


@dataclass(frozen=True)
class LocalProcesses:
    """Several processes on this machine, which share its threads.

    Parameters
    ----------
    jobs : int
        Number of processes.

    Attributes
    ----------
    lost : tuple of exception classes
        What a future raises whose process has died; all futures do, as the executor ends then.
    reassigns : bool
        Whether it gives the cells of a process that died to others by itself.
    """

    lost: ClassVar[tuple[type[BaseException], ...]] = (BrokenExecutor,)
    reassigns: ClassVar[bool] = False

    jobs: int

    @contextmanager
    def start(
        self, config: RunConfig, source: Source, shared: SharedModels, store: Store, messages: SimpleQueue[Message]
    ) -> Iterator[Submit]:
        """Start the processes, and end them after the block, whatever they do.

        Parameters
        ----------
        config, source, shared, store
            The run: its configuration, images, networks and folder.
        messages : SimpleQueue
            Receives the progress.

        Yields
        ------
        callable
            Takes the index of a cell and returns the future of its files.
        """
        context = multiprocessing.get_context("spawn")
        resource_tracker.ensure_running()  # otherwise the first process starts it, which unblocks SIGINT below
        lifeline, end_of_lifeline = context.Pipe(duplex=False)
        reports, end_of_reports = context.Pipe(duplex=False)
        threads = max(1, numba.get_num_threads() // self.jobs)
        process = _Process(StoredWork.of(config, store.folder), end_of_reports)
        executor = ProcessPoolExecutor(self.jobs, context, _begin, (process, lifeline, threads))
        reader = threading.Thread(target=_forward, args=(reports, messages), daemon=True)
        reader.start()

        def submit(index: int) -> Future[CellFiles]:
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited by new processes
            try:
                written = executor.submit(_compute, index)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            files: Future[CellFiles] = Future()
            written.add_done_callback(lambda written: _read(written, files))
            return files

        try:
            yield submit
        finally:
            end_of_lifeline.close()
            executor.shutdown(wait=True, cancel_futures=True)
            end_of_reports.close()
            reader.join()


def _forward(reports: Connection, messages: SimpleQueue[Message]) -> None:
    """Pass on the reports of the processes until the last one has ended."""
    with suppress(EOFError, OSError):
        while True:
            messages.put(reports.recv())


def _read(written: Future[str], files: Future[CellFiles]) -> None:
    """Set the result of a future to the content of the file whose name another one has, and delete the file."""
    try:
        path = Path(written.result())
        content = pickle.loads(path.read_bytes())
        path.unlink()
    except BaseException as error:  # whatever it is, it belongs to whoever asks for the result
        files.set_exception(error)
    else:
        files.set_result(content)


# --- in the processes -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Process:
    """What a process needs for its tasks.

    Parameters
    ----------
    work : StoredWork
        The run.
    reports : Connection
        Takes the progress.
    """

    work: StoredWork
    reports: Connection

    def report(self, step: str, task: str, share: float) -> None:
        """Report progress."""
        self.reports.send((step[:MAX_STEP_LENGTH], task, share))


_process: _Process | None = None  # set once, at the start of a process


def _begin(process: _Process, lifeline: Connection, threads: int) -> None:
    """Prepare a new process."""
    global _process
    _process = process
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    use_threads(threads)
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()


def _end_with(lifeline: Connection) -> None:
    """End this process as soon as the other end of a pipe is closed."""
    with suppress(EOFError, OSError):
        lifeline.recv_bytes()
    os._exit(1)


def _compute(index: int) -> str:
    """Compute a cell in this process, and return the name of a temporary file with the files to be stored."""
    assert _process is not None
    files = compute_cell(_process.work, index, _process.report)
    path = _process.work.folder / f".{index}-{os.getpid()}.tmp"  # if it remains, the next run deletes it
    write_bytes(path, pickle.dumps(files))
    return str(path)
