"""Several processes: the results are the same, and a process that dies costs at most the cell that it had."""

import os
import signal
from collections import Counter
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager

import pytest
from helpers import EIGHT_CELLS, TINY, alive, command, compute, numbers, quiet, start, tree, wait_until, workers_of

from hlf_np import UserError
from hlf_np.experiments.grid.prepare import assemble, source_of, train_shared
from hlf_np.experiments.grid.processes import LocalProcesses
from hlf_np.experiments.grid.run import MAX_ATTEMPTS, run_grid
from hlf_np.experiments.grid.work import SentWork, StoredWork, compute_cell
from hlf_np.experiments.storage.folder import open_store

CELLS = list(TINY.cells())


@pytest.mark.slow
def test_jobs_give_the_same_results_and_report_progress(tmp_path, finished):
    done = Counter()
    with open_store(tmp_path / "two", TINY) as store:
        results = run_grid(TINY, store, lambda what, task, share: done.update({task: share}), LocalProcesses(2))
        store.write_csv(results)
    for cell in CELLS:
        assert done[cell.name] == pytest.approx(1)
    assert numbers(tmp_path / "two") == numbers(finished)
    for folder in ("models", "manifolds"):
        assert tree(tmp_path / "two" / folder) == tree(finished / folder)
    assert tree(tmp_path / "two").keys() == tree(finished).keys()


def test_work_that_is_stored_and_work_that_is_sent_give_the_same_cell(finished):
    with open_store(finished, TINY) as store:
        source = source_of(TINY)
        shared = train_shared(TINY, source, store, quiet)
    reports = []
    for work in (StoredWork.of(TINY, finished), SentWork.of(TINY, source, shared)):
        files = compute_cell(work, 1, lambda *message: reports.append(message))
        assert files.model == (finished / "models" / f"{CELLS[1].name}.npz").read_bytes()
        assert {message[1] for message in reports} == {CELLS[1].name}
        assert sum(message[2] for message in reports) == pytest.approx(1)
        reports.clear()
    assert assemble(TINY, source, shared).dataset.train.images.shape[0] == max(TINY.sizes)
    with pytest.raises((IndexError, UserError)):  # the latter where other tests have declared plugins in this process
        compute_cell(work, len(CELLS), quiet)


# --- lost workers, simulated ------------------------------------------------------------------------------------


class LostError(Exception):
    """A worker was lost."""


class FakeWorkers:
    """Compute cells in this process; the fate of a cell is that of its next attempt, "" if it succeeds."""

    lost = (LostError,)

    def __init__(self, fates=None, reassigns=False):
        self.fates, self.reassigns, self.submitted = {k: list(v) for k, v in (fates or {}).items()}, reassigns, []

    @contextmanager
    def start(self, config, source, shared, store, messages):
        work = SentWork.of(config, source, shared)
        messages.put(("two workers", "", 0.0))
        broken = False

        def submit(index):
            nonlocal broken
            self.submitted.append(index)
            future, fates = Future(), self.fates.get(index, [])
            fate = "unborn" if broken else fates.pop(0) if fates else ""
            if fate in ("dies", "cancelled"):
                messages.put(("begins", CELLS[index].name, 0.25))
            if fate in ("dies", "unborn"):
                broken = not self.reassigns
                future.set_exception(LostError())
            elif fate == "fails":
                future.set_exception(UserError("the plugin fails"))
            elif fate == "cancelled":
                future.set_exception(CancelledError())
            else:
                future.set_result(compute_cell(work, index, lambda *message: messages.put(message)))
            return future

        yield submit


def run_with(workers, folder):
    """Run the grid with workers; return the shares of progress and the notices."""
    done, notices = Counter(), []
    with open_store(folder, TINY) as store:
        store.write_csv(
            run_grid(TINY, store, lambda what, task, share: done.update({task: share}), workers, notices.append)
        )
    return done, notices


def test_the_largest_cells_are_submitted_first_and_each_once(tmp_path, finished):
    workers = FakeWorkers()
    done, notices = run_with(workers, tmp_path / "run")
    sizes = [CELLS[index].n_train for index in workers.submitted]
    assert sizes == sorted(sizes, reverse=True)
    assert sorted(workers.submitted) == list(range(len(CELLS)))
    assert notices == ["two workers"]
    assert numbers(tmp_path / "run") == numbers(finished)
    assert all(done[cell.name] == pytest.approx(1) for cell in CELLS)


@pytest.mark.parametrize("deaths", range(1, MAX_ATTEMPTS))
def test_a_cell_whose_process_dies_is_computed_again(tmp_path, finished, deaths):
    workers = FakeWorkers({2: ["dies"] * deaths})
    done, _ = run_with(workers, tmp_path / "run")
    assert workers.submitted.count(2) == deaths + 1
    assert numbers(tmp_path / "run") == numbers(finished)
    assert all(done[cell.name] == pytest.approx(1) for cell in CELLS)  # what was lost is not counted


@pytest.mark.stress
@pytest.mark.parametrize(("reassigns", "attempts"), [(False, MAX_ATTEMPTS), (True, 1)])
def test_a_cell_whose_processes_always_die_is_given_up_after_the_others(tmp_path, finished, reassigns, attempts):
    workers = FakeWorkers({3: ["dies"] * 9}, reassigns)
    with pytest.raises(UserError, match=f"models died: {CELLS[3]}; finished models are stored"):
        run_with(workers, tmp_path / "run")
    assert workers.submitted.count(3) == attempts
    assert len(list((tmp_path / "run" / "cells").iterdir())) == len(CELLS) - 1
    compute(tmp_path / "run")
    assert numbers(tmp_path / "run") == numbers(finished)


def test_a_cell_that_kills_its_process_does_not_take_others_with_it(tmp_path, finished):
    """Cells that were computed beside it are tried again, one at a time."""
    workers = FakeWorkers({2: ["dies"] * 9, 3: ["dies"]})
    with pytest.raises(UserError, match=f"models died: {CELLS[2]}; finished models are stored"):
        run_with(workers, tmp_path / "run")
    assert len(list((tmp_path / "run" / "cells").iterdir())) == len(CELLS) - 1
    assert workers.submitted.count(2) == MAX_ATTEMPTS


def test_processes_that_never_begin_are_not_started_for_ever(tmp_path):
    with pytest.raises(UserError, match="end before they begin"):
        run_with(FakeWorkers({index: ["unborn"] * 9 for index in range(len(CELLS))}), tmp_path / "run")


def test_a_process_that_is_killed_before_it_begins_is_replaced(tmp_path, finished):
    run_with(FakeWorkers({index: ["unborn"] for index in range(len(CELLS))}), tmp_path / "run")
    assert numbers(tmp_path / "run") == numbers(finished)


def test_what_is_finished_is_stored_when_another_model_fails(tmp_path):
    with pytest.raises(UserError, match="the plugin fails"):
        run_with(FakeWorkers({1: ["fails"]}), tmp_path / "run")
    assert len(list((tmp_path / "run" / "cells").iterdir())) == len(CELLS) - 1


@pytest.mark.stress
def test_a_lost_connection_is_one_line_and_the_run_goes_on(tmp_path, finished):
    with pytest.raises(UserError, match=r"^the connection to the workers is lost: finished models are stored; repeat"):
        run_with(FakeWorkers({0: ["cancelled"]}), tmp_path / "run")
    run_with(FakeWorkers(), tmp_path / "run")
    assert numbers(tmp_path / "run") == numbers(finished)


# --- real processes that die ------------------------------------------------------------------------------------


@pytest.mark.stress
def test_a_killed_process_costs_its_cell_and_a_second_run_is_refused(tmp_path, uninterrupted):
    folder = tmp_path / "results"
    process = start(*EIGHT_CELLS, "--out", folder, "--jobs", 2)
    wait_until(lambda: (folder / "cells").exists(), process)
    process.send_signal(signal.SIGSTOP)  # so that it is still running when the second run has been refused
    second = command(*EIGHT_CELLS, "--out", folder, "--jobs", 2)
    assert (second.returncode, second.stdout) == (2, "")
    assert "another run is writing to" in second.stderr
    process.send_signal(signal.SIGCONT)
    killed = workers_of(process.pid)
    os.kill(int(killed[0]), signal.SIGKILL)
    _, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    assert numbers(folder) == uninterrupted
    assert not any(map(alive, killed))


DEADLY = """
import os

from hlf_np.experiments.measurements import Measurement

def die(subject):
    if os.environ["DIE"] == "yes" and subject.log:  # not in the trial before the run
        os._exit(3)
    return 0.0

deadly = Measurement("deadly", "Deadly", die)
"""


@pytest.mark.stress
def test_cells_that_kill_every_process_end_the_run_in_one_line(tmp_path):
    plugin = tmp_path / "deadly.py"
    plugin.write_text(DEADLY)
    arguments = ("run", "--preset", "smoke", "--sizes", 20, "--trainings", "normal,adversarial", "--vae-images", 0)
    arguments += ("--plugin", plugin, "--jobs", 2, "--out", tmp_path / "results")
    done = command(*arguments, env=os.environ | {"DIE": "yes"})
    assert done.returncode == 2
    assert done.stderr.startswith("hlf_np: every process that computed one of these models died: Normal, N = 20, ")
    assert done.stderr.count("\n") == 1
    again = command(*arguments, env=os.environ | {"DIE": "no"})
    assert (again.returncode, again.stderr) == (0, "")
