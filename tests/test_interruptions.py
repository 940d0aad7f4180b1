"""Interrupted runs: whenever and however a run is stopped, repeating the command gives the same results."""

import errno
import os
import shutil
import signal
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from helpers import (
    EIGHT_CELLS,
    TINY,
    Killed,
    alive,
    command,
    compute,
    listen,
    numbers,
    start,
    tree,
    wait_until,
    workers_of,
)

from hlf_np import UserError
from hlf_np.experiments.results import Cell
from hlf_np.trainings import NORMAL, ON_LEARNED_MANIFOLD

ONE_TRAINING = replace(TINY, trainings=(ON_LEARNED_MANIFOLD,), n_projected=0)
WRITES = 1 + 10 + 2 * 2 + 1  # config.json, the VAEs, a model and a cell for each, results.csv


@pytest.fixture(scope="module")
def seconds(tmp_path_factory, uninterrupted):
    """The seconds that such a run takes once its kernels are compiled."""
    started = time.monotonic()
    assert command(*EIGHT_CELLS, "--out", tmp_path_factory.mktemp("timed") / "results").returncode == 0
    return time.monotonic() - started


def test_finished_cells_are_not_computed_again(copy, monkeypatch):
    before = tree(copy)
    monkeypatch.setattr("hlf_np.experiments.grid.run.run_cell", None)
    compute(copy)
    assert tree(copy) == before


def test_a_run_stopped_at_the_first_write_of_each_file_can_be_resumed(tmp_path, monkeypatch):
    compute(tmp_path / "whole", ONE_TRAINING)
    replace, folder, begun = os.replace, tmp_path / "stopped", []

    def stop(source, target):
        if target not in begun:
            begun.append(target)
            raise Killed
        replace(source, target)

    monkeypatch.setattr("os.replace", stop)
    for _ in range(WRITES):
        with pytest.raises(Killed):
            compute(folder, ONE_TRAINING)
    compute(folder, ONE_TRAINING)
    assert numbers(folder) == numbers(tmp_path / "whole")


def full(make, **place):
    """Create a file on a full disk."""
    handle, path = make(**place)
    os.close(handle)
    return os.open("/dev/full", os.O_WRONLY), path


def read_only(make, **place):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


@pytest.mark.parametrize(("fault", "reason"), [(full, "No space left on device"), (read_only, "Read-only file system")])
def test_a_run_that_cannot_write_says_so_in_one_line_and_can_be_resumed(tmp_path, monkeypatch, fault, reason):
    compute(tmp_path / "whole", ONE_TRAINING)
    make, folder, begun = tempfile.mkstemp, tmp_path / "failed", []

    def fail(**place):
        if place not in begun:  # the first attempt to write this file
            begun.append(place)
            return fault(make, **place)
        return make(**place)

    monkeypatch.setattr("tempfile.mkstemp", fail)
    for written in range(WRITES):
        with pytest.raises(UserError, match=rf"^cannot write '.*' \({reason}\): [a-z ]*$"):
            compute(folder, ONE_TRAINING)
        assert len(tree(folder)) == written
    compute(folder, ONE_TRAINING)
    assert numbers(folder) == numbers(tmp_path / "whole")


@pytest.mark.stress
def test_temporary_files_of_killed_runs_are_harmless_and_removed(tmp_path, finished):
    leftovers = [".config.json.abc.tmp", ".results.csv.x.tmp", "cells/.normal-10-0.npz.y.tmp", "models/.m.npz.z.tmp"]
    for place in ("new", "begun"):
        folder = tmp_path / place
        if place == "begun":
            shutil.copytree(finished, folder)
            (folder / "cells" / f"{Cell(NORMAL, 10, 0).name}.npz").unlink()
        for name in leftovers if place == "begun" else leftovers[:1]:
            folder.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"half")
        compute(folder)
        assert numbers(folder) == numbers(finished)
        assert tree(folder).keys() == tree(finished).keys()


def killed_again_and_again(parent, random, kills, seconds):
    """Kill runs at random instants and repeat them until they end; return their folders.

    The last folder is completed by an undisturbed run.
    """
    folders, kept = [parent / "0"], {}
    while kills:
        process = start(*EIGHT_CELLS, "--threads", 1, "--out", folders[-1])
        try:
            _, errors = process.communicate(timeout=random.uniform(0, seconds))
        except subprocess.TimeoutExpired:
            process.kill()
            _, errors = process.communicate()
        if process.returncode == -signal.SIGKILL:
            for path in folders[-1].glob("cells/*.npz"):
                kept.setdefault(path, path.read_bytes())
            kills -= 1
        else:  # it has ended by itself, perhaps while it was about to be killed
            assert (process.returncode, errors) == (0, "")
            folders.append(parent / str(len(folders)))
    done = command(*EIGHT_CELLS, "--out", folders[-1])
    assert (done.returncode, done.stderr) == (0, "")
    assert kept
    assert {path: path.read_bytes() for path in kept} == kept  # including their seconds
    return folders


@pytest.mark.stress
def test_runs_killed_at_twenty_random_instants_give_the_same_results(tmp_path, uninterrupted, seconds):
    with ThreadPoolExecutor(2) as pool:
        several = [
            pool.submit(killed_again_and_again, tmp_path / str(seed), np.random.default_rng(seed), 10, seconds)
            for seed in range(2)
        ]
        folders = [folder for future in several for folder in future.result()]
    for folder in folders:
        assert numbers(folder) == uninterrupted
        assert not [name for name in tree(folder) if name.endswith(".tmp")]


@pytest.mark.stress
@pytest.mark.parametrize(
    ("number", "jobs"),
    [*((number, jobs) for number in (signal.SIGINT, signal.SIGTERM) for jobs in (1, 2)), (signal.SIGKILL, 2)],
)
def test_a_stopped_run_says_so_in_one_line_leaves_no_process_and_can_be_resumed(tmp_path, uninterrupted, number, jobs):
    folder = tmp_path / "results"
    process = start(*EIGHT_CELLS, "--out", folder, "--jobs", jobs, start_new_session=True, preexec_fn=listen)
    wait_until(lambda: len(list(folder.glob("cells/*.npz"))) >= 2 // jobs, process)
    workers = workers_of(process.pid)
    assert len(workers) == (jobs if jobs > 1 else 0)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    output, errors = process.communicate()
    for _ in range(1000):
        if not any(map(alive, workers)):
            break
        time.sleep(0.01)
    assert not any(map(alive, workers))
    assert output.startswith("8 models to train and attack: ")
    assert output.count("\n") == 1
    if number == signal.SIGKILL:
        assert process.returncode == -number
    else:
        assert process.returncode == 130
        said = "Interrupted: finished work is stored; repeat the command to resume."
        assert errors.split("\n") == ["", said, ""]
    assert not (folder / "results.csv").exists()
    done = command(*EIGHT_CELLS, "--out", folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert numbers(folder) == uninterrupted
    assert not [name for name in tree(folder) if name.endswith(".tmp")]
