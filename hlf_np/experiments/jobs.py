"""Tasks worked through by several processes of one machine.

Processes are spawned: a fork would inherit a pool of threads that is not there. Each asks for a task whenever it has
none, so that all end at about the same time if the largest come first. They end with the process that started them,
however that ends, and do not hear an interruption at the keyboard: it is for the one that started them.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TypeVar

from hlf_np.errors import UserError

Task = TypeVar("Task")
# Called with what goes on, the name of the task, and which share of it has been done since the last call.
Progress = Callable[[str, str, float], None]
# Called once in a process, returns what does a task there.
Prepare = Callable[[], Callable[[Task, Progress], None]]


def work_through(tasks: Sequence[Task], prepare: Prepare[Task], jobs: int, progress: Progress) -> None:
    """Do all tasks, begun in this order, in up to `jobs` processes.

    Parameters
    ----------
    tasks, prepare : what is to be done, and how; all of it can be pickled.
    progress : hears what is said in any of the processes.

    Raises
    ------
    UserError : if one is raised in a process, or a process dies; then all of them have been stopped.
    """
    waiting = iter(tasks)
    with _started(min(jobs, len(tasks)), prepare) as workers:
        while workers:
            for ready in wait(list(workers)):
                assert isinstance(ready, Connection)
                try:
                    said = ready.recv()
                except (EOFError, OSError):
                    _check_end(workers.pop(ready))
                    continue
                if isinstance(said, UserError):
                    raise said
                if said is not None:
                    progress(*said)
                    continue
                with suppress(BrokenPipeError):  # it has just died, and we are about to hear of it
                    ready.send(next(waiting, None))


def _check_end(process: BaseProcess) -> None:
    process.join()
    code = process.exitcode or 0
    if code:
        how = f"was stopped by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        raise UserError(
            f"one of the processes {how}: what is finished is stored; repeat the command, with fewer jobs if memory is"
            " short"
        )


@contextmanager
def _started(jobs: int, prepare: Prepare[Task]) -> Iterator[dict[Connection, BaseProcess]]:
    """Workers by the connections to them; those that are left at the end are stopped."""
    context = multiprocessing.get_context("spawn")
    resource_tracker.ensure_running()  # or the first process starts it, and that unblocks what is blocked below
    workers: dict[Connection, BaseProcess] = {}
    try:
        for _ in range(jobs):
            ours, theirs = context.Pipe()
            workers[ours] = context.Process(target=_work, args=(theirs, prepare), daemon=True)
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which the new process inherits
            try:
                workers[ours].start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            theirs.close()  # the worker's is now the only one, and closes when it ends
        yield workers
    finally:
        for process in workers.values():
            if process.pid is not None:
                process.terminate()
                process.join()


def _work(connection: Connection, prepare: Prepare[Task]) -> None:
    """A worker: say None to get a task, do it, and again, until there is none."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, BrokenPipeError):  # the parent is gone
        try:
            do = prepare()
            connection.send(None)
            while (task := connection.recv()) is not None:
                do(task, lambda *said: connection.send(said))
                connection.send(None)
        except UserError as error:
            connection.send(error)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
