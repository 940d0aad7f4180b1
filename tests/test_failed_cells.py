"""Trainings that diverge: the failure of the cell is stored and reported, and the grid goes on."""

import math
from dataclasses import replace

import pytest
from conftest import small_cnn
from helpers import TINY, made_up, main, numbers, quiet, report, rows, tree

from hlf_np.engine import Engine
from hlf_np.experiments.configuration.config import PRESETS, Preset
from hlf_np.experiments.grid.run import run_grid
from hlf_np.experiments.results import failures, mixture
from hlf_np.experiments.storage.folder import open_store
from hlf_np.optim import AdamConfig
from hlf_np.report.curves import curves
from hlf_np.training import DivergedError, TrainingConfig, train
from hlf_np.trainings import ADVERSARIAL, NORMAL

HOPELESS = replace(TINY, adam=AdamConfig(learning_rate=1e30))


# --- trainings ------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_ends_the_training(split):
    config = TrainingConfig(epochs=3, adam=AdamConfig(learning_rate=1e30))
    with pytest.raises(DivergedError, match=r"^the loss became nan in epoch 1: lower the learning rate$"):
        train(small_cnn(), split, config=config)


@pytest.mark.parametrize("engine", Engine)
@pytest.mark.parametrize("learning_rate", [1e30, 1e39])  # finite weights whose products overflow; infinite weights
def test_diverged_weights_end_the_training_before_the_loss_shows_it(split, learning_rate, engine):
    config = TrainingConfig((), 1, len(split), AdamConfig(learning_rate), engine)  # a single step
    with pytest.raises(DivergedError, match=r"^the outputs are no longer finite in epoch 1: lower the learning rate$"):
        train(small_cnn(), split, config=config)


# --- cells ----------------------------------------------------------------------------------------------------


@pytest.fixture
def half_hopeless(monkeypatch):
    """Let adversarial trainings diverge."""

    def train_or_diverge(model, split, seed, config, progress):
        if config.perturbations:
            config = replace(config, adam=HOPELESS.adam)
        return train(model, split, seed=seed, config=config, progress=progress)

    monkeypatch.setattr("hlf_np.experiments.grid.cell.train", train_or_diverge)


def test_a_mixture_of_versions_or_processors_is_named():
    results = [replace(made_up(seed=seed), computed_by=kind) for seed, kind in enumerate(["a", "b", "a", ""])]
    assert mixture(results) == (
        "Models were computed by different versions or processors: 2 by a; 1 by b; 1 by an unknown version."
    )
    assert mixture(results) in report(results)
    assert mixture(results[:1]) == mixture([]) == ""


@pytest.mark.stress
def test_a_failed_cell_is_an_empty_row_and_the_grid_goes_on(tmp_path, half_hopeless, finished):
    reports = []
    with open_store(tmp_path, TINY) as store:
        results = run_grid(TINY, store, lambda step, task, share: reports.append((step, share)))
        store.write_csv(results)
    assert sum(share for _, share in reports) == pytest.approx(4 + 10)  # cells and VAEs
    assert "Adversarial, N = 10, seed 0: failed" in [step for step, _ in reports]
    assert len(results) == 4
    for row, expected in zip(rows(tmp_path), rows(finished), strict=True):
        if row["training"] == "adversarial":
            present = {name for name, value in row.items() if value}
            assert present == {"dataset", "training", "n_train", "seed", "seconds", "computed_by"}
        else:
            assert {**row, "seconds": ""} == {**expected, "seconds": ""}
    assert {path.stem for path in (tmp_path / "models").iterdir()} == {"normal-10-0", "normal-20-0"}
    reason = "the outputs are no longer finite in epoch 1: lower the learning rate"
    assert failures(results) == (
        "2 of 4 models failed and have no results:"
        f" Adversarial, N = 10, seed 0 ({reason}); Adversarial, N = 20, seed 0 ({reason})."
    )


def test_a_failed_cell_is_not_computed_again(tmp_path, half_hopeless, monkeypatch):
    with open_store(tmp_path, TINY) as store:
        first = run_grid(TINY, store, quiet)
    before = tree(tmp_path)
    monkeypatch.setattr("hlf_np.experiments.grid.run.run_cell", None)
    with open_store(tmp_path, TINY) as store:
        again = run_grid(TINY, store, quiet)
    assert tree(tmp_path) == before
    assert failures(again) == failures(first)


def test_without_failures_nothing_is_reported(finished):
    assert failures([made_up(), made_up(ADVERSARIAL)]) == ""
    with open_store(finished, TINY) as store:
        assert failures(store.results()) == ""


def test_a_model_that_cannot_predict_after_an_epoch_is_a_failed_cell(tmp_path):
    config = replace(HOPELESS, trainings=(NORMAL,), sizes=(10,), epochs=2, n_tracked=10, n_vae=0)
    with open_store(tmp_path, config) as store:
        (result,) = run_grid(config, store, quiet)
    assert result.failure == "the network's logits are not numbers (NaN): check its weights and your own layers"


@pytest.mark.slow
def test_a_run_whose_models_all_fail_ends_with_a_report_that_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, Preset.SMOKE, HOPELESS)
    folder = tmp_path / "results"
    code, output, errors = main("run", "--preset", "smoke", "--out", folder)
    assert (code, errors) == (0, "")
    (line,) = (line for line in output.split("\n") if "failed" in line)
    assert line.startswith("4 of 4 models failed and have no results: Normal, N = 10, seed 0 (the outputs are no")
    assert line in (folder / "report.html").read_text()
    assert all(row["test_error"] == "" for row in numbers(folder))
    code, again, errors = main("run", "--preset", "smoke", "--out", folder)
    assert (code, errors) == (0, "")
    assert line in again
    code, _, errors = main("report", folder)
    assert (code, errors) == (0, "")
    assert line in (folder / "report.html").read_text()


def test_a_failed_cell_does_not_enter_means():
    failed = replace(made_up(seed=1, test_error=math.nan), failure="the loss became nan")
    (curve,) = curves([made_up(seed=0, test_error=0.25), failed], "test_error")
    assert curve.mean.tolist() == curve.low.tolist() == curve.high.tolist() == [0.25]
