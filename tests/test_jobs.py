"""Several processes: every task is done once, whoever dies takes all others along, and the numbers are the same."""

import functools
import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from helpers import EIGHT_CELLS, TINY, command, compute, numbers, quiet, start, tree, wait_until

from hlf_np import UserError
from hlf_np.experiments.folder import open_store
from hlf_np.experiments.jobs import work_through
from hlf_np.experiments.run import run_grid

# --- what the processes do; they import it from here ---------------------------------------------------------


def note(folder):
    """A task leaves a file with its number and the process; some do worse."""
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
    """Whether there is a process with this number that has not ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


# --- tasks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tasks", "jobs"), [(0, 2), (1, 3), (7, 1), (7, 3)])
def test_every_task_is_done_once_by_at_most_as_many_processes_as_there_are_jobs(tmp_path, tasks, jobs):
    said = []
    numbered = [(number, "") for number in range(tasks)]
    work_through(numbered, functools.partial(note, tmp_path), jobs, lambda what, task, done: said.append((what, done)))
    assert sorted(said) == [(f"task {number}", 1.0) for number in range(tasks)]
    processes = {path.read_text().split()[0] for path in tmp_path.iterdir()}
    assert len(list(tmp_path.iterdir())) == tasks
    assert len(processes) <= min(tasks, jobs)
    assert str(os.getpid()) not in processes
    assert not any(alive(process) for process in processes)


def test_tasks_are_begun_in_their_order(tmp_path):
    work_through([(number, "") for number in range(9)], functools.partial(note, tmp_path), 1, quiet)
    begun = {path.name: int(path.read_text().split()[2]) for path in tmp_path.iterdir()}
    assert sorted(begun, key=begun.__getitem__) == [str(number) for number in range(9)]


@pytest.mark.parametrize(
    ("fate", "message"),
    [
        ("die", r"one of the processes ended with code 3: what is finished is stored"),
        ("killed", r"one of the processes was stopped by SIGKILL: .* fewer jobs if memory is short"),
        ("fail", r"^task 1 cannot be done: mend it$"),
    ],
)
def test_whoever_dies_or_fails_takes_all_others_along(tmp_path, fate, message):
    with pytest.raises(UserError, match=message):
        work_through([(0, "wait"), (1, fate), (2, "")], functools.partial(note, tmp_path), 2, quiet)
    assert not any(alive(path.read_text().split()[0]) for path in tmp_path.iterdir())
    assert not (tmp_path / "2").exists()


def test_a_process_that_cannot_begin_says_why():
    with pytest.raises(UserError, match=r"^cannot begin: mend it$"):
        work_through([1, 2], never_ready, 2, quiet)


# --- cells ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_jobs_end_in_the_same_results_and_say_how_far_they_are(tmp_path):
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


def test_the_largest_cells_are_begun_first(tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr("hlf_np.experiments.run.work_through", lambda cells, *rest: begun.extend(cells))
    with open_store(tmp_path, TINY) as store:
        run_grid(TINY, store, quiet, jobs=2)
    cells = list(TINY.cells())
    sizes = [cells[number].n_train for number in begun]
    assert sizes == sorted(sizes, reverse=True)
    assert sorted(begun) == list(range(len(cells)))


def workers_of(process):
    """The processes of a run, without Python's own tracker of resources."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.mark.slow
def test_a_dead_process_ends_the_run_in_one_line(tmp_path, uninterrupted):
    folder = tmp_path / "results"
    process = start(*EIGHT_CELLS, "--out", folder, "--jobs", 2)
    wait_until(lambda: (folder / "cells").exists(), process)
    process.send_signal(signal.SIGSTOP)  # so that it is still there when the second run has been refused
    second = command(*EIGHT_CELLS, "--out", folder, "--jobs", 2)
    assert (second.returncode, second.stdout) == (2, "")
    assert "another run is writing to" in second.stderr
    process.send_signal(signal.SIGCONT)
    os.kill(int(workers_of(process.pid)[0]), signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == 2
    assert errors.startswith("hlf_np: one of the processes was stopped by SIGKILL")
    assert errors.count("\n") == 1
    assert command(*EIGHT_CELLS, "--out", folder).returncode == 0
    assert numbers(folder) == uninterrupted
