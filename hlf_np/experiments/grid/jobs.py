"""Parallel execution of tasks in several processes of one machine.

Processes are spawned: a fork would inherit a thread pool without its threads. Each requests a task whenever it is idle,
so that all end at about the same time if the largest tasks come first. Workers end with their parent process, however
it ends, and ignore keyboard interrupts, which the parent handles.
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

from hlf_np.support.errors import UserError

Task = TypeVar("Task")
# Called with a description of the current step, the name of the task, and the share of it done since the last call.
Progress = Callable[[str, str, float], None]
# Called once in each process; returns the function that executes a task there.
Prepare = Callable[[], Callable[[Task, Progress], None]]


def work_through(tasks: Sequence[Task], prepare: Prepare[Task], jobs: int, progress: Progress) -> None:
    """Execute tasks in several processes.

    Parameters
    ----------
    tasks : sequence
        The tasks, started in this order; must support pickling.
    prepare : callable
        Called once in each process; returns a function of a task and a `Progress`. Must support pickling.
    jobs : int
        Maximum number of processes.
    progress : callable
        Receives the progress of all processes.

    Raises
    ------
    UserError
        If a process raises it or dies. All processes are stopped first.
    """
    queue = iter(tasks)
    with _started(min(jobs, len(tasks)), prepare) as workers:
        while workers:
            for ready in wait(list(workers)):
                assert isinstance(ready, Connection)
                try:
                    message = ready.recv()
                except (EOFError, OSError):
                    _check_end(workers.pop(ready))
                    continue
                if isinstance(message, UserError):
                    raise message
                if message is not None:
                    progress(*message)
                    continue
                with suppress(BrokenPipeError):  # the worker has just died; its EOFError follows
                    ready.send(next(queue, None))


def _check_end(process: BaseProcess) -> None:
    """Raise UserError if a process did not end normally."""
    process.join()
    code = process.exitcode or 0
    if code:
        event = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
        raise UserError(
            f"one of the processes {event}: finished models are stored; repeat the command, with fewer jobs if memory"
            " is short"
        )


@contextmanager
def _started(jobs: int, prepare: Prepare[Task]) -> Iterator[dict[Connection, BaseProcess]]:
    """Start workers, by the connections to them, and stop those that are still running at the end."""
    context = multiprocessing.get_context("spawn")
    resource_tracker.ensure_running()  # otherwise the first worker starts it, which unblocks SIGINT below
    workers: dict[Connection, BaseProcess] = {}
    try:
        for _ in range(jobs):
            ours, theirs = context.Pipe()
            workers[ours] = context.Process(target=_work, args=(theirs, prepare), daemon=True)
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited by the new process
            try:
                workers[ours].start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            theirs.close()  # so that the connection closes when the worker ends
        yield workers
    finally:
        for process in workers.values():
            if process.pid is not None:
                process.terminate()
                process.join()


def _work(connection: Connection, prepare: Prepare[Task]) -> None:
    """Run a worker: send None to request a task and execute it, until None is received."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, BrokenPipeError):  # the parent is gone
        try:
            execute = prepare()
            connection.send(None)
            while (task := connection.recv()) is not None:
                execute(task, lambda *message: connection.send(message))
                connection.send(None)
        except UserError as error:
            connection.send(error)


def _end_with_parent() -> None:
    """End this process as soon as its parent has ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
