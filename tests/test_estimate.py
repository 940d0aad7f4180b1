"""The estimated duration of a run: arithmetic with made-up trials."""

import dataclasses
from dataclasses import replace

import pytest
from helpers import TINY, made_up

from hlf_np import models
from hlf_np.attacks import CarliniWagner
from hlf_np.experiments.grid.estimate import Estimate, duration, estimate, trial
from hlf_np.experiments.grid.prepare import source_of
from hlf_np.experiments.storage.folder import open_store
from hlf_np.trainings import ADVERSARIAL, NORMAL, PAPER

CONFIG = replace(TINY, n_oracle=50, n_transfer=50, epochs=2)
CELLS = {"normal-10-0": 27.0, "normal-20-0": 47.0, "adversarial-10-0": 67.0, "adversarial-20-0": 127.0}
SHARED = {f"class {label}": 11.0 for label in range(10)} | {"oracle": 13.0, "surrogate": 17.0}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        *((0, "a few seconds"), (14, "a few seconds"), (16, "about 20 seconds"), (118, "about 120 seconds")),
        *((120, "about 2 minutes"), (150, "about 2.5 minutes"), (7100, "about 118 minutes")),
        *((7200, "about 2 hours"), (5.4 * 3600, "about 5 hours"), (172_700, "about 48 hours")),
        *((172_800, "about 2 days"), (40 * 86_400, "about 40 days")),
    ],
)
def test_durations_are_in_a_suitable_unit(seconds, words):
    assert duration(seconds) == words


def after(folder, *results, jobs=1, attempt=lambda config, source: CELLS | SHARED):
    """Return the estimate for a run of which these results are finished."""
    with open_store(folder, CONFIG) as store:
        for result in results:
            store.save(result, models.Model.from_architecture(CONFIG.architecture))
        return estimate(CONFIG, store, source_of(CONFIG), jobs, attempt)


def test_a_new_run_takes_as_long_as_the_trial_says(tmp_path):
    found = after(tmp_path)
    assert found.seconds == CELLS | SHARED
    total = duration(sum(found.seconds.values()))
    assert found.announcement(2) == f"4 models to train and attack: {total} on 2 threads, estimated from a short trial."


def test_finished_models_correct_the_trial(tmp_path):
    found = after(tmp_path, made_up(NORMAL, 10, seconds=54.0))  # twice the estimate
    assert found.seconds["normal-20-0"] == pytest.approx(94)
    assert found.seconds["adversarial-10-0"] == pytest.approx(134)  # no model of its training is finished
    assert found.announcement(1).startswith("3 of 4 models to train and attack: about ")
    assert found.announcement(1).endswith(" on 1 thread, estimated from the finished models.")

    found = after(tmp_path, made_up(ADVERSARIAL, 10, seconds=33.5))  # half
    assert found.seconds["normal-20-0"] == pytest.approx(94)
    assert found.seconds["adversarial-20-0"] == pytest.approx(63.5)


def test_models_that_are_computed_at_once_share_the_time(tmp_path):
    assert after(tmp_path, jobs=4).seconds == CELLS | SHARED  # the trial had the threads of all four
    found = after(tmp_path, made_up(NORMAL, 10, seconds=108.0), jobs=4)  # as long as four others beside it
    assert found.seconds["normal-20-0"] == pytest.approx(47)


def test_a_failed_model_does_not_correct_the_estimate(tmp_path):
    failed = dataclasses.replace(made_up(NORMAL, 10, seconds=1000.0), failure="diverged")
    assert after(tmp_path, failed).seconds["normal-20-0"] == pytest.approx(47)


def test_a_finished_run_needs_no_trial(tmp_path):
    done = [made_up(cell.training, cell.n_train, cell.seed) for cell in CONFIG.cells()]
    assert after(tmp_path, *done, attempt=None) == Estimate({}, finished=4)


def test_a_trial_measures_every_task():
    config = replace(CONFIG, trainings=PAPER)
    seconds = trial(config, source_of(config))
    assert seconds.keys() == {cell.name for cell in config.cells()} | SHARED.keys()
    assert min(seconds.values()) > 0
    assert seconds["normal-10-0"] < seconds["normal-20-0"] < 2 * seconds["normal-10-0"]  # the evaluation is the same
    slow = trial(replace(config, carlini_wagner=CarliniWagner(iterations=10_000)), source_of(config))
    assert slow["normal-10-0"] > 10 * seconds["normal-10-0"]
    assert trial(replace(TINY, n_vae=0), source_of(TINY)).keys() == CELLS.keys()
