"""What the cells of a run share: trained once, on the first of all images, and stored in the folder."""

from dataclasses import replace

import numpy as np
import pytest
from helpers import TINY, Killed, numbers, quiet, tree

from hlf_np import UserError
from hlf_np.data import Dataset, Split
from hlf_np.data.source import array_source
from hlf_np.experiments.grid.estimate import estimate, trial
from hlf_np.experiments.grid.prepare import fit, prepare, source_of
from hlf_np.experiments.grid.run import run_grid
from hlf_np.experiments.storage.folder import open_store
from hlf_np.manifolds import class_vaes, count_vaes, stored_vaes
from hlf_np.manifolds.oracle import ClassifierConfig, stored_oracle, train_once
from hlf_np.models.architectures import Architecture, Kind
from hlf_np.spaces import LearnedManifold
from hlf_np.training import TrainingConfig
from hlf_np.trainings import NORMAL, training_of

JUDGED = replace(TINY, sizes=(10,), trainings=(NORMAL, training_of("on_learned_manifold_adversarial")), n_oracle=20)


@pytest.fixture
def small_oracle(monkeypatch):
    """Replace the configuration of the oracle by a small one."""
    config = ClassifierConfig(Architecture(Kind.CNN, (2, 4), hidden_units=4), TrainingConfig(epochs=2))
    monkeypatch.setattr("hlf_np.experiments.grid.prepare.ORACLE", config)
    return config


def prepared_in(folder, config):
    with open_store(folder, config) as store:
        return prepare(config, store, quiet)


def states(vaes):
    return [array.tobytes() for vae in vaes for array in vae.state_dict().values()]


def test_vaes_are_trained_on_the_first_images_whatever_the_sizes(tmp_path):
    found = {}
    for sizes in ((10,), (300, 30)):
        prepared = prepared_in(tmp_path / str(sizes), replace(TINY, sizes=sizes))
        (manifold,) = (space for space in prepared.training_spaces if isinstance(space, LearnedManifold))
        found[sizes] = states(manifold.vaes)
        assert len(prepared.dataset.train) == max(sizes)
    images = source_of(TINY).split(np.arange(100))  # ten of each class
    assert found[10,] == found[300, 30] == states(class_vaes(images, 10, TINY.vae))
    assert manifold.epsilon == TINY.latent_epsilon


def test_the_oracle_is_trained_on_its_own_number_of_images(tmp_path, small_oracle):
    prepared = prepared_in(tmp_path, JUDGED)
    expected = train_once("oracle", small_oracle, source_of(TINY).split(np.arange(20)))
    images = prepared.dataset.test.images
    np.testing.assert_array_equal(prepared.oracle.logits(images), expected.logits(images))
    np.testing.assert_array_equal(stored_oracle(tmp_path / "manifolds").logits(images), expected.logits(images))


def test_without_a_learned_manifold_nothing_is_trained(tmp_path):
    prepared = prepared_in(tmp_path, replace(JUDGED, n_vae=0, trainings=(NORMAL,)))
    assert prepared.oracle is None
    assert not any(isinstance(space, LearnedManifold) for space in prepared.test_spaces)
    assert not (tmp_path / "manifolds").exists()


def test_a_finished_run_prepares_nothing(tmp_path, monkeypatch):
    with open_store(tmp_path, TINY) as store:
        run_grid(TINY, store, quiet)
        monkeypatch.setattr("hlf_np.experiments.grid.run.train_shared", None)
        assert len(run_grid(TINY, store, quiet)) == 4


def test_the_estimate_includes_vaes_and_oracle_until_they_are_trained(tmp_path, small_oracle):
    reports = []
    with open_store(tmp_path, JUDGED) as store:
        tasks = trial(JUDGED, source_of(JUDGED))
        before = estimate(JUDGED, store, source_of(JUDGED), attempt=lambda *arguments: tasks).seconds
        prepare(JUDGED, store, lambda *report: reports.append(report))
        after = estimate(JUDGED, store, source_of(JUDGED), attempt=lambda *arguments: tasks).seconds
    assert before.keys() - after.keys() == {*(f"class {label}" for label in range(10)), "oracle"}
    assert [report for report in reports if report[-1]] == [
        *((f"VAE of class {label}: epoch 1/1", f"class {label}", 1) for label in range(10)),
        *(("oracle: epoch 1/2", "oracle", 0.5), ("oracle: epoch 2/2", "oracle", 0.5)),
    ]


@pytest.mark.stress
@pytest.mark.parametrize("vaes", [0, 3])
def test_an_interrupted_preparation_resumes_with_the_same_results(tmp_path, monkeypatch, small_oracle, vaes):
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
    stored = {path: path.stat().st_mtime_ns for path in (tmp_path / "stopped").glob("manifolds/*")}
    with pytest.raises(Killed):
        run(tmp_path / "stopped", "oracle: epoch 2/2")
    run(tmp_path / "stopped")
    assert {path: path.stat().st_mtime_ns for path in stored} == stored
    assert numbers(tmp_path / "stopped") == numbers(tmp_path / "whole")
    assert tree(tmp_path / "stopped" / "manifolds") == tree(tmp_path / "whole" / "manifolds")
    for row in numbers(tmp_path / "whole"):
        assert 0 <= float(row["learned_labels_kept"]) <= 1


def test_vaes_of_an_unfinished_or_another_run_are_refused(tmp_path):
    prepared_in(tmp_path, TINY)
    folder = tmp_path / "manifolds"
    assert states(stored_vaes(folder, 10)) == states(class_vaes(source_of(TINY).split(np.arange(100)), 10, TINY.vae))
    with pytest.raises(UserError, match="holds 10 VAEs for 9 classes"):
        stored_vaes(folder, 9)
    next(folder.glob("vae-3-*")).unlink()
    with pytest.raises(UserError, match="holds 0 VAEs of class 3 instead of one"):
        stored_vaes(folder, 10)
    with pytest.raises(UserError, match=r"missing.* holds 0 VAEs of class 0"):
        stored_vaes(tmp_path / "missing", 10)
    assert stored_oracle(folder) is None


def test_a_folder_has_one_manifold_even_if_its_images_differ_in_the_last_digit(tmp_path, small_oracle, monkeypatch):
    """As those of FONTS do, generated on another processor: the models of a run must share their manifolds."""
    first = prepared_in(tmp_path, JUDGED)
    before = tree(tmp_path / "manifolds")
    of_each_class = type(source_of(JUDGED)).of_each_class

    def rounded_in_another_way(self, count):
        split = of_each_class(self, count)
        return replace(split, images=split.images * np.float32(1 - 1e-7))

    monkeypatch.setattr(type(source_of(JUDGED)), "of_each_class", rounded_in_another_way)
    second = prepared_in(tmp_path, replace(JUDGED, seeds=2))
    assert tree(tmp_path / "manifolds") == before
    vaes = (next(s for s in p.test_spaces if isinstance(s, LearnedManifold)).vaes for p in (first, second))
    assert states(next(vaes)) == states(next(vaes))


@pytest.mark.parametrize(("n_test", "n_tracked"), [(1, 0), (2, 2)])
def test_a_single_test_image_is_not_tracked(n_test, n_tracked):
    part = Split(np.zeros((4, 8, 8, 1), np.float32), np.arange(4) % 2)
    source = array_source(Dataset("few", ("a", "b"), part, part.take(slice(n_test))))
    assert fit(replace(TINY, n_tracked=20), source, n_vae=0, trainings=(NORMAL,)).n_tracked == n_tracked


def test_files_of_the_same_images_may_lie_elsewhere():
    here, there = (replace(TINY, path=path, digest="the same") for path in ("/here/flowers", "/there/flowers"))
    assert here.extends(there)
    assert not here.extends(replace(there, digest="another"))
    assert not here.extends(replace(there, path=""))
