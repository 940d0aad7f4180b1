"""Several processes: each task is executed once, a dead process ends all others, and the results are the same."""

import functools
import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from helpers import EIGHT_CELLS, TINY, command, compute, numbers, quiet, start, tree, wait_until

from hlf_np import UserError
from hlf_np.experiments.grid.jobs import work_through
from hlf_np.experiments.grid.run import run_grid
from hlf_np.experiments.storage.folder import open_store

# --- what the processes execute; imported from here ---------------------------------------------------------


def note(folder):
    """Return a function that writes a file with the process of a task, and then fails if the task says so."""
    started = time.monotonic_ns()

    def do(task, progress):
        number, fate = task
        (folder / f"{number}").write_text(f"{os.getpid()} {started} {time.monotonic_ns()}")
        if fate == "die":
            os._exit(3)
        if fate == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if fate == "fail":
            raise UserError(f"task {number} cannot be done: mend it")
        if fate == "wait":
            time.sleep(600)
        progress(f"task {number}", str(number), 1.0)

    return do


def never_ready():
    raise UserError("cannot begin: mend it")


def alive(process):
    """Return whether a process with this id is running."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


# --- tasks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tasks", "jobs"), [(0, 2), (1, 3), (7, 1), (7, 3)])
def test_every_task_is_executed_once_by_at_most_as_many_processes_as_there_are_jobs(tmp_path, tasks, jobs):
    reports = []
    numbered = [(number, "") for number in range(tasks)]
    work_through(
        numbered, functools.partial(note, tmp_path), jobs, lambda step, task, share: reports.append((step, share))
    )
    assert sorted(reports) == [(f"task {number}", 1.0) for number in range(tasks)]
    processes = {path.read_text().split()[0] for path in tmp_path.iterdir()}
    assert len(list(tmp_path.iterdir())) == tasks
    assert len(processes) <= min(tasks, jobs)
    assert str(os.getpid()) not in processes
    assert not any(alive(process) for process in processes)


def test_tasks_are_started_in_order(tmp_path):
    work_through([(number, "") for number in range(9)], functools.partial(note, tmp_path), 1, quiet)
    begun = {path.name: int(path.read_text().split()[2]) for path in tmp_path.iterdir()}
    assert sorted(begun, key=begun.__getitem__) == [str(number) for number in range(9)]


@pytest.mark.parametrize(
    ("fate", "message"),
    [
        ("die", r"one of the processes exited with code 3: finished models are stored"),
        ("killed", r"one of the processes was killed by SIGKILL: .* fewer jobs if memory is short"),
        ("fail", r"^task 1 cannot be done: mend it$"),
    ],
)
def test_a_process_that_dies_or_fails_ends_all_others(tmp_path, fate, message):
    with pytest.raises(UserError, match=message):
        work_through([(0, "wait"), (1, fate), (2, "")], functools.partial(note, tmp_path), 2, quiet)
    assert not any(alive(path.read_text().split()[0]) for path in tmp_path.iterdir())
    assert not (tmp_path / "2").exists()


def test_a_process_that_cannot_start_says_why():
    with pytest.raises(UserError, match=r"^cannot begin: mend it$"):
        work_through([1, 2], never_ready, 2, quiet)


# --- cells ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_jobs_give_the_same_results_and_report_progress(tmp_path):
    done = Counter()
    compute(tmp_path / "one")
    with open_store(tmp_path / "two", TINY) as store:
        store.write_csv(run_grid(TINY, store, lambda what, task, share: done.update({task: share}), jobs=2))
    for cell in TINY.cells():
        assert done[cell.name] == pytest.approx(1)
    assert numbers(tmp_path / "two") == numbers(tmp_path / "one")
    for folder in ("models", "manifolds"):
        assert tree(tmp_path / "two" / folder) == tree(tmp_path / "one" / folder)
    assert tree(tmp_path / "two").keys() == tree(tmp_path / "one").keys()


def test_the_largest_cells_are_started_first(tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr("hlf_np.experiments.grid.run.work_through", lambda cells, *rest: begun.extend(cells))
    with open_store(tmp_path, TINY) as store:
        run_grid(TINY, store, quiet, jobs=2)
    cells = list(TINY.cells())
    sizes = [cells[number].n_train for number in begun]
    assert sizes == sorted(sizes, reverse=True)
    assert sorted(begun) == list(range(len(cells)))


def workers_of(process):
    """Return the worker processes of a run, without Python's resource tracker."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.mark.slow
def test_a_dead_process_ends_the_run_in_one_line(tmp_path, uninterrupted):
    folder = tmp_path / "results"
    process = start(*EIGHT_CELLS, "--out", folder, "--jobs", 2)
    wait_until(lambda: (folder / "cells").exists(), process)
    process.send_signal(signal.SIGSTOP)  # so that it is still running when the second run has been refused
    second = command(*EIGHT_CELLS, "--out", folder, "--jobs", 2)
    assert (second.returncode, second.stdout) == (2, "")
    assert "another run is writing to" in second.stderr
    process.send_signal(signal.SIGCONT)
    os.kill(int(workers_of(process.pid)[0]), signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == 2
    assert errors.startswith("hlf_np: one of the processes was killed by SIGKILL")
    assert errors.count("\n") == 1
    assert command(*EIGHT_CELLS, "--out", folder).returncode == 0
    assert numbers(folder) == uninterrupted
