"""How long a run takes: arithmetic with made-up trials."""

import dataclasses
from dataclasses import replace

import pytest
from helpers import TINY, made_up

from hlf_np import models
from hlf_np.experiments.estimate import Estimate, duration, estimate, trial
from hlf_np.experiments.folder import open_store
from hlf_np.experiments.groundwork import source_of
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
def test_times_are_said_in_the_unit_that_fits(seconds, words):
    assert duration(seconds) == words


def after(folder, *results, attempt=lambda config, source: CELLS | SHARED):
    """What is estimated where these results are finished."""
    with open_store(folder, CONFIG) as store:
        for result in results:
            store.save(result, models.Model(CONFIG.architecture))
        return estimate(CONFIG, store, source_of(CONFIG), attempt)


def test_a_run_that_begins_takes_what_the_trial_says(tmp_path):
    found = after(tmp_path)
    assert found.seconds == CELLS | SHARED
    total = duration(sum(found.seconds.values()))
    assert found.announcement(2) == f"4 models to train and attack: {total} on 2 threads, a guess from a short trial."


def test_finished_models_correct_the_trial(tmp_path):
    found = after(tmp_path, made_up(NORMAL, 10, seconds=54.0))  # twice what was thought
    assert found.seconds["normal-20-0"] == pytest.approx(94)
    assert found.seconds["adversarial-10-0"] == pytest.approx(134)  # nothing is known of its own kind
    assert found.announcement(1).startswith("3 of 4 models to train and attack: about ")
    assert found.announcement(1).endswith(" on 1 thread, by what the others took.")

    found = after(tmp_path, made_up(ADVERSARIAL, 10, seconds=33.5))  # half
    assert found.seconds["normal-20-0"] == pytest.approx(94)
    assert found.seconds["adversarial-20-0"] == pytest.approx(63.5)


def test_a_failed_model_says_nothing_of_the_others(tmp_path):
    failed = dataclasses.replace(made_up(NORMAL, 10, seconds=1000.0), failure="diverged")
    assert after(tmp_path, failed).seconds["normal-20-0"] == pytest.approx(47)


def test_nothing_is_tried_where_nothing_is_left(tmp_path):
    done = [made_up(cell.training, cell.n_train, cell.seed) for cell in CONFIG.cells()]
    assert after(tmp_path, *done, attempt=None) == Estimate({}, finished=4)


def test_a_trial_measures_everything_that_takes_time():
    config = replace(CONFIG, trainings=PAPER)
    tried = trial(config, source_of(config))
    assert tried.keys() == {cell.name for cell in config.cells()} | SHARED.keys()
    assert min(tried.values()) > 0
    assert tried["normal-10-0"] < tried["normal-20-0"] < 2 * tried["normal-10-0"]  # the evaluation is the same
    assert trial(replace(TINY, n_vae=0), source_of(TINY)).keys() == CELLS.keys()
