"""What the cells of a run share: trained once, from all data, and kept in the folder."""

from dataclasses import replace

import numpy as np
import pytest
from helpers import TINY, Killed, numbers, quiet, tree

from hlf_np import UserError
from hlf_np.architectures import Architecture, Kind
from hlf_np.experiments.estimate import estimate, trial
from hlf_np.experiments.folder import open_store
from hlf_np.experiments.groundwork import lay_groundwork, source_of
from hlf_np.experiments.run import run_grid
from hlf_np.manifolds import class_vaes, count_vaes, stored_vaes
from hlf_np.manifolds.oracle import OracleConfig, stored_oracle, train_oracle
from hlf_np.spaces import LearnedManifold
from hlf_np.training import TrainingConfig
from hlf_np.trainings import NORMAL, training_of

JUDGED = replace(TINY, sizes=(10,), trainings=(NORMAL, training_of("on_learned_manifold_adversarial")), n_oracle=20)


@pytest.fixture
def small_oracle(monkeypatch):
    """The oracle's settings, made small."""
    config = OracleConfig(Architecture(Kind.CNN, (2, 4), hidden_units=4), TrainingConfig(epochs=2))
    monkeypatch.setattr("hlf_np.experiments.groundwork.OracleConfig", lambda: config)
    return config


def laid(folder, config):
    with open_store(folder, config) as store:
        return lay_groundwork(config, store, quiet)


def states(vaes):
    return [array.tobytes() for vae in vaes for array in vae.state_dict().values()]


def test_vaes_are_those_of_the_first_images_of_all_whatever_the_sizes(tmp_path):
    found = {}
    for sizes in ((10,), (300, 30)):
        ground = laid(tmp_path / str(sizes), replace(TINY, sizes=sizes))
        (manifold,) = (space for space in ground.spaces if isinstance(space, LearnedManifold))
        found[sizes] = states(manifold.vaes)
        assert len(ground.dataset.train) == max(sizes)
    images = source_of(TINY).split(np.arange(100))  # ten of each class
    assert found[10,] == found[300, 30] == states(class_vaes(images, 10, TINY.vae))
    assert manifold.epsilon == TINY.latent_epsilon


def test_the_oracle_is_the_one_of_its_own_number_of_images(tmp_path, small_oracle):
    ground = laid(tmp_path, JUDGED)
    expected = train_oracle(source_of(TINY).split(np.arange(20)), small_oracle)
    images = ground.dataset.test.images
    np.testing.assert_array_equal(ground.oracle.logits(images), expected.logits(images))
    np.testing.assert_array_equal(stored_oracle(tmp_path / "manifolds").logits(images), expected.logits(images))


def test_without_a_learned_manifold_nothing_is_trained(tmp_path):
    ground = laid(tmp_path, replace(JUDGED, n_vae=0, trainings=(NORMAL,)))
    assert ground.oracle is None
    assert not any(isinstance(space, LearnedManifold) for space in ground.spaces)
    assert not (tmp_path / "manifolds").exists()


def test_a_finished_run_needs_no_groundwork(tmp_path, monkeypatch):
    with open_store(tmp_path, TINY) as store:
        run_grid(TINY, store, quiet)
        monkeypatch.setattr("hlf_np.experiments.run.lay_groundwork", None)
        assert len(run_grid(TINY, store, quiet)) == 4


def test_the_work_of_vaes_and_oracle_is_counted_until_it_is_done(tmp_path, small_oracle):
    done = []
    with open_store(tmp_path, JUDGED) as store:
        tasks = trial(JUDGED, source_of(JUDGED))
        before = estimate(JUDGED, store, source_of(JUDGED), lambda *asked: tasks).seconds
        lay_groundwork(JUDGED, store, lambda *said: done.append(said))
        after = estimate(JUDGED, store, source_of(JUDGED), lambda *asked: tasks).seconds
    assert before.keys() - after.keys() == {*(f"class {label}" for label in range(10)), "oracle"}
    assert [said for said in done if said[-1]] == [
        *((f"VAE of class {label}: epoch 1/1", f"class {label}", 1) for label in range(10)),
        *(("oracle: epoch 1/2", "oracle", 0.5), ("oracle: epoch 2/2", "oracle", 0.5)),
    ]


@pytest.mark.parametrize("vaes", [0, 3])
def test_groundwork_that_was_stopped_goes_on_with_the_same_results(tmp_path, monkeypatch, small_oracle, vaes):
    def run(folder, stop_at=None):
        def progress(what, task, done):
            if what == stop_at:
                raise Killed

        with open_store(folder, JUDGED) as store:
            store.write_csv(run_grid(JUDGED, store, progress))

    run(tmp_path / "whole")
    with pytest.raises(Killed):
        run(tmp_path / "stopped", f"VAE of class {vaes}: epoch 1/1")
    assert count_vaes(tmp_path / "stopped" / "manifolds") == vaes
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "stopped").glob("manifolds/*")}
    with pytest.raises(Killed):
        run(tmp_path / "stopped", "oracle: epoch 2/2")
    run(tmp_path / "stopped")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert numbers(tmp_path / "stopped") == numbers(tmp_path / "whole")
    assert tree(tmp_path / "stopped" / "manifolds") == tree(tmp_path / "whole" / "manifolds")
    for row in numbers(tmp_path / "whole"):
        assert 0 <= float(row["learned_labels_kept"]) <= 1


def test_vaes_of_an_unfinished_or_another_run_are_refused(tmp_path):
    laid(tmp_path, TINY)
    folder = tmp_path / "manifolds"
    assert states(stored_vaes(folder, 10)) == states(class_vaes(source_of(TINY).split(np.arange(100)), 10, TINY.vae))
    next(folder.glob("vae-3-*")).unlink()
    with pytest.raises(UserError, match="holds 0 VAEs of class 3 instead of one"):
        stored_vaes(folder, 10)
    with pytest.raises(UserError, match=r"missing.* holds 0 VAEs of class 0"):
        stored_vaes(tmp_path / "missing", 10)
    assert stored_oracle(folder) is None
