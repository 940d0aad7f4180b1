"""Runs that are stopped: whenever, and however, the same command ends in the same results."""

import os
import shutil
import signal
import time

import numpy as np
import pytest
from helpers import TINY, Killed, command, compute, numbers, start, tree, wait_until

from hlf_np.experiments.config import Cell, RunConfig
from hlf_np.training import Training

TRAININGS = ("--trainings", "normal,on_true_manifold_adversarial")
GRID = ("run", "--preset", "smoke", *TRAININGS, "--sizes", "20,40", "--seeds", "2")  # eight cells


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The rows of a run of GRID that nobody interrupted."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert command(*GRID, "--out", folder / "results").returncode == 0
    return numbers(folder / "results")


def test_finished_cells_are_not_computed_again(copy, monkeypatch):
    before = tree(copy)
    monkeypatch.setattr("hlf_np.experiments.run.run_cell", None)
    compute(copy)
    assert tree(copy) == before


def test_a_run_stopped_at_any_of_its_writes_can_be_continued(tmp_path, monkeypatch):
    config = RunConfig(**vars(TINY) | {"trainings": (Training.ON_LEARNED_MANIFOLD_ADVERSARIAL,)})
    compute(tmp_path / "whole", config)
    replace, expected = os.replace, numbers(tmp_path / "whole")
    stopped = 0
    while True:  # at the first write, at the second of a new run, ...
        folder, writes = tmp_path / str(stopped), 0

        def stop(source, target, last=stopped):
            nonlocal writes
            if writes == last:
                raise Killed
            writes += 1
            replace(source, target)

        monkeypatch.setattr("os.replace", stop)
        try:
            compute(folder, config)
        except Killed:
            monkeypatch.setattr("os.replace", replace)
            compute(folder, config)
            assert numbers(folder) == expected
            stopped += 1
        else:
            break
    assert stopped == 1 + 10 + 2 * 2 + 1  # config.json, the VAEs, a model and a cell for each, results.csv


def test_temporary_files_of_killed_runs_are_harmless_and_removed(tmp_path, finished):
    leftovers = [".config.json.abc.tmp", ".results.csv.x.tmp", "cells/.normal-10-0.npz.y.tmp", "models/.m.npz.z.tmp"]
    for place in ("new", "begun"):
        folder = tmp_path / place
        if place == "begun":
            shutil.copytree(finished, folder)
            (folder / "cells" / f"{Cell(Training.NORMAL, 10, 0).name}.npz").unlink()
        for name in leftovers if place == "begun" else leftovers[:1]:
            folder.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"half")
        compute(folder)
        assert numbers(folder) == numbers(finished)
        assert tree(folder).keys() == tree(finished).keys()


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_in_the_same_results(tmp_path, uninterrupted):
    folder = tmp_path / "results"
    random = np.random.default_rng(0)
    kept: dict[str, bytes] = {}
    for finished in (0, 1, 3, 5):
        process = start(*GRID, "--out", folder)
        wait_until(lambda least=finished: len(list(folder.glob("cells/*.npz"))) >= least, process)
        time.sleep(random.uniform(0, 0.2))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        for path in folder.glob("cells/*.npz"):
            kept.setdefault(path.name, path.read_bytes())
    assert kept
    done = command(*GRID, "--out", folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert numbers(folder) == uninterrupted
    assert {name: (folder / "cells" / name).read_bytes() for name in kept} == kept  # even their seconds
    assert not [name for name in tree(folder) if name.endswith(".tmp")]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_so_in_one_line_and_goes_on(tmp_path, uninterrupted, number):
    folder = tmp_path / "results"
    # whoever ignores an interruption hands that down
    process = start(*GRID, "--out", folder, preexec_fn=lambda: signal.signal(number, signal.SIG_DFL))
    wait_until(lambda: len(list(folder.glob("cells/*.npz"))) >= 2, process)
    process.send_signal(number)
    output, errors = process.communicate()
    assert (process.returncode, output) == (130, "")
    assert errors.split("\n") == [
        "",
        "Interrupted: what is finished is stored; the same command goes on from there.",
        "",
    ]
    assert not (folder / "results.csv").exists()
    assert command(*GRID, "--out", folder).returncode == 0
    assert numbers(folder) == uninterrupted
