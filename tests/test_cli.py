"""The command line: what each command says and leaves behind."""

import json
import os
import pty
import re
import runpy
import shutil
import subprocess
import sys

import numpy as np
import pytest
from helpers import command, main, numbers, rows, start, tree
from PIL import Image

from hlf_np import cli, models
from hlf_np.attacks import PGD
from hlf_np.data import load_fonts
from hlf_np.data.open_source import open_source
from hlf_np.experiments.storage.folder import stored_config
from hlf_np.manifolds import stored_vaes
from hlf_np.manifolds.oracle import ClassifierConfig, labels_kept, train_once
from hlf_np.models.architectures import Architecture, Kind
from hlf_np.spaces import LearnedManifold
from hlf_np.training import TrainingConfig, train
from hlf_np.trainings import training_of

HEADER = [  # the contract's columns
    *("dataset", "training", "n_train", "seed", "test_error", "regular_success"),
    *("on_true_manifold_success", "on_learned_manifold_success", "regular_success_worst"),
    *("on_true_manifold_success_worst", "on_learned_manifold_success_worst", "learned_labels_kept"),
    *("regular_distance", "on_true_manifold_distance", "clean_distance"),
]


# --- help -----------------------------------------------------------------------------------------------------


def commands(group, *names):
    """Every command with the words that call it."""
    yield names, group
    for name, found in getattr(group, "commands", {}).items():
        yield from commands(found, *names, name)


@pytest.mark.parametrize(("names", "found"), [pytest.param(*c, id=" ".join(c[0])) for c in commands(cli.cli)])
def test_help_of_every_command_mentions_all_its_options(names, found):
    code, output, errors = main(*names, "--help")
    assert (code, errors) == (0, "")
    assert output.startswith(f"Usage: {' '.join(['python -m hlf_np', *names])} ")
    for parameter in found.params:
        for option in parameter.opts if parameter.param_type_name == "option" else [parameter.human_readable_name]:
            assert option in output
    assert found.help
    assert found.help.split("\n")[0] in " ".join(output.split())


def test_run_has_the_contracts_options():
    _, output, _ = main("run", "--help")
    for option in ("preset", "dataset", "trainings", "sizes", "seeds", "out", "threads"):
        assert f"--{option} " in output


@pytest.mark.parametrize("arguments", ["--help", "report --help", "--version"])
def test_help_and_version_answer_without_the_heavy_packages(run_python, arguments):
    code = f"""
        import runpy, sys
        sys.argv = ["hlf_np", *{arguments!r}.split()]
        runpy.run_module("hlf_np", run_name="__main__")
        print("loaded:", {{"numpy", "numba", "scipy", "matplotlib"}} & set(sys.modules))
    """
    assert run_python("\n".join(line.strip() for line in code.split("\n"))).endswith("loaded: set()\n")


def test_module_runs_the_command_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["hlf_np"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("hlf_np", run_name="__main__")
    assert ended.value.code == 2
    assert "Usage: python -m hlf_np" in capsys.readouterr().out


# --- run ------------------------------------------------------------------------------------------------------


def test_smoke_run_leaves_what_the_contract_promises(smoke_run):
    folder, done = smoke_run
    assert (done.returncode, done.stderr) == (0, "")

    names = (folder / "results.csv").read_text().split("\n")[0].split(",")
    assert names[: len(HEADER)] == HEADER
    assert "seconds" in names
    found = rows(folder)
    assert len({(row["training"], row["n_train"], row["seed"]) for row in found}) == len(found) >= 4
    for row in found:
        assert row["dataset"] == "fonts"
        assert 0 <= float(row["test_error"]) <= 1
        assert 0 <= float(row["regular_success"]) <= float(row["regular_success_worst"]) <= 1
        assert 0 <= float(row["on_learned_manifold_success"]) <= float(row["on_learned_manifold_success_worst"]) <= 1
        assert float(row["clean_distance"]) < float(row["regular_distance"])
        assert row["learned_labels_kept"] == ""  # smoke trains no oracle
        assert float(row["seconds"]) > 0
        assert (folder / "models" / f"{row['training']}-{row['n_train']}-{row['seed']}.npz").exists()

    claims = json.loads((folder / "claims.json").read_text())
    assert [claim["number"] for claim in claims] == [1, 2, 3, 4, 5, 6]
    assert all({"statistic", "interval", "verdict", "data"} <= claim.keys() for claim in claims)
    assert {"run", "versions", "command"} <= json.loads((folder / "config.json").read_text()).keys()
    assert (folder / "report.html").stat().st_size > 10_000
    figures = sorted((folder / "figures").glob("*.png"))
    assert len(figures) >= 3
    for figure in figures:
        with Image.open(figure) as image:
            image.verify()


def claims_of(folder):
    """What commands say of a results folder's claims, line by line."""
    for claim in json.loads((folder / "claims.json").read_text()):
        verdict, statistic = claim["verdict"], claim["statistic"]
        line = f"{claim['number']}. {claim['statement']} {verdict[0].upper()}{verdict[1:]}"
        yield (
            f"{line}: {statistic:.3f} ({' to '.join(f'{x:.3f}' for x in claim['interval'])})."
            if statistic is not None
            else f"{line}."
        )


def test_smoke_run_prints_its_table_and_the_claims(smoke_run):
    folder, done = smoke_run
    announced, *lines = done.stdout.split("\n")
    assert re.fullmatch(
        r"12 models to train and attack: (about \S+|a few) \w+ on \d+ threads?, estimated from a short trial\.",
        announced,
    )
    assert lines[0] == "Test error"
    assert lines[1].split() == ["N=100", "N=200"]
    by_cell = {(training_of(row["training"]).label, row["n_train"]): row for row in rows(folder)}
    for line in lines[2 : 2 + len(by_cell) // 2]:
        label, *cells = re.split(" {2,}", line)
        assert cells == [f"{float(by_cell[label, size]['test_error']):.3f}" for size in ("100", "200")]
    expected = ["", *claims_of(folder), f"Report: {folder / 'report.html'}", ""]
    assert lines[-len(expected) :] == expected


@pytest.mark.stress
def test_the_same_command_again_computes_nothing_and_says_the_same(smoke_run, tmp_path):
    folder = shutil.copytree(smoke_run[0], tmp_path / "results")
    before, times = tree(folder), {p: p.stat().st_mtime_ns for p in folder.glob("*/*.npz")}
    assert len(times) == 2 * len(rows(folder)) + 10  # cells, models and VAEs
    done = command("run", "--preset", "smoke", "--out", folder)
    assert (done.returncode, done.stderr) == (0, "")
    announced, table = smoke_run[1].stdout.split("Report")[0].split("\n", 1)
    assert announced.startswith("12 models")
    assert done.stdout.split("Report")[0] == table
    assert {p: p.stat().st_mtime_ns for p in folder.glob("*/*.npz")} == times
    assert tree(folder) == before  # results.csv, the report and its figures too


@pytest.mark.stress
def test_choices_shape_the_grid(tmp_path):
    out = tmp_path / "with spaces" / "results"
    chosen = ("--trainings", "adversarial,normal", "--sizes", "30,20", "--seeds", 2, "--difficulty", "easy")
    code, _, errors = main("run", "--preset", "smoke", *chosen, "--out", out, "--threads", 1)
    assert (code, errors) == (0, "")
    assert [(row["n_train"], row["seed"], row["training"]) for row in rows(out)] == [
        (size, seed, training) for size in ("20", "30") for seed in "01" for training in ("adversarial", "normal")
    ]
    settings = json.loads((out / "config.json").read_text())
    assert settings["run"]["difficulty"] == "easy"
    assert f"'{out}'" in settings["command"]  # as a shell needs it


@pytest.mark.stress
def test_a_terminal_shows_what_goes_on(tmp_path):
    terminal, side = pty.openpty()
    grid = ("run", "--preset", "smoke", "--sizes", 20, "--trainings", "normal", "--vae-images", 0)
    process = start(*grid, "--out", tmp_path / "out", stderr=side, stdout=subprocess.DEVNULL)
    os.close(side)
    shown = b""
    try:
        while chunk := os.read(terminal, 4096):
            shown += chunk
    except OSError:  # how a terminal ends on Linux
        pass
    os.close(terminal)
    assert process.wait() == 0
    assert b"Normal, N = 20, seed 0: epoch 5/5" in shown
    assert b"100%" in shown


# --- the other commands ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_report_makes_everything_again_from_the_cells(smoke, tmp_path):
    folder = shutil.copytree(smoke, tmp_path / "results")
    for name in ("results.csv", "claims.json", "report.html"):
        (folder / name).unlink()
    shutil.rmtree(folder / "figures")
    code, output, errors = main("report", folder)
    expected = [*claims_of(folder), f"Report: {folder / 'report.html'}", ""]
    assert (code, output.split("\n"), errors) == (0, expected, "")
    assert tree(folder) == tree(smoke)


@pytest.mark.stress
def test_a_run_whose_models_are_never_right_ends_like_any_other(tmp_path, monkeypatch):
    monkeypatch.setattr(models.Model, "predict", lambda model, images: np.full(len(images), -1))
    code, output, errors = main("run", "--preset", "smoke", "--sizes", 10, "--out", tmp_path / "results")
    assert (code, errors) == (0, "")
    _, *lines = [line.split() for line in output.split("\n")]
    assert lines[:3] == [["Test", "error"], ["N=10"], ["Normal", "1.000"]]
    assert {(row["test_error"], row["regular_success"]) for row in rows(tmp_path / "results")} == {("1.000000", "")}
    assert "No attack succeeded" in (tmp_path / "results" / "report.html").read_text()


@pytest.mark.slow
def test_report_of_an_unfinished_run_shows_what_there_is(smoke, tmp_path):
    folder = shutil.copytree(smoke, tmp_path / "results")
    for path in list((folder / "cells").iterdir())[1:]:
        path.unlink()
    assert main("report", folder)[0] == 0
    (only,) = numbers(folder)
    assert only in numbers(smoke)


def printed(output):
    """The numbers that `evaluate` has printed, by their titles."""
    return {title: float(value) for value, title in (line.split("  ") for line in output.splitlines()[1:])}


@pytest.mark.slow
def test_train_evaluate_and_attack_work_together(tmp_path):
    def ok(*arguments):
        done = command(*arguments, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    training = ok("train", "--n-train", 300, "--epochs", 4, "--difficulty", "easy", "--out", "new/model.npz")
    assert training.count("epoch ") == 4
    assert training.endswith("Saved new/model.npz\n")

    test = load_fonts(0, 80, "easy").test
    model = models.load(tmp_path / "new" / "model.npz")
    right = model.predict(test.images) == test.labels
    found = ok("evaluate", "new/model.npz", "--n-test", 80, "--n-attacked", 40, "--restarts", 2, "--difficulty", "easy")
    values = printed(found)
    assert found.startswith("80 test images of fonts, regular attacks on 40 of them within radius 0.3:\n")
    assert values["Test error"] == pytest.approx(1 - right.mean(), abs=6e-5)
    assert "learned" not in found
    for name in ("regular attacks", "attacks on the true manifold"):
        title = f"Success rate of {name}"
        assert 0 < values[title] <= values[f"{title}, any restart"] <= 1

    said = ok("attack", "new/model.npz", "--images", 80, "--steps", 3, "--epsilon", 0.1, "--difficulty", "easy")
    with np.load(tmp_path / "adversarial.npz", allow_pickle=False) as stored:
        originals, images, labels = stored["originals"], stored["images"], stored["labels"]
        success, predictions = stored["success"], stored["predictions"]
    np.testing.assert_array_equal(originals, test.images)
    np.testing.assert_array_equal(labels, test.labels)
    np.testing.assert_array_equal(predictions, model.predict(images))
    np.testing.assert_array_equal(success, predictions != labels)
    assert np.abs(images - originals).max() <= 0.1 + 1e-6
    successes = f"attacks succeed on {(success & right).sum()} of them"
    assert said.startswith(f"{right.sum()} of 80 images are classified correctly; {successes}\n")
    assert (success & right).sum() > 0


def test_an_attack_of_norm_l2_stays_in_its_ball(smoke, tmp_path):
    model, out = smoke / "models" / "normal-200-0.npz", tmp_path / "l2.npz"
    settings = ("--images", 20, "--steps", 3, "--norm", "l2", "--rule", "sign", "--epsilon", 0.7, "--step-size", 0.5)
    assert main("attack", model, *settings, "--out", out)[0] == 0
    with np.load(out) as stored:
        norms = np.linalg.norm((stored["images"] - stored["originals"]).reshape(20, -1), axis=1)
    assert 0.3 < norms.max() <= 0.7 + 1e-5


@pytest.mark.parametrize("method", ["pgd", "fgsm", "cw", "random"])
@pytest.mark.parametrize("space", ["image", "true-manifold", "learned-manifold", "transformations"])
def test_every_attack_works_in_every_space(smoke, tmp_path, method, space):
    path, out = smoke / "models" / "normal-200-0.npz", tmp_path / "found.npz"
    settings = ("--images", 25, "--norm", "l2")
    if method == "pgd":
        settings += ("--steps", 5, "--step-size", 0.05, "--objective", "margin")
    if space == "learned-manifold":
        settings += ("--manifolds", smoke / "manifolds")
    code, output, errors = main("attack", path, "--attack", method, "--space", space, *settings, "--out", out)
    assert (code, errors) == (0, "")
    model, test = models.load(path), load_fonts(0, 25).test
    with np.load(out) as stored:
        images, success = stored["images"], stored["success"]
        np.testing.assert_array_equal(stored["originals"], test.images)
        np.testing.assert_array_equal(success, model.predict(images) != test.labels)
        np.testing.assert_array_equal(stored["predictions"], model.predict(images))
    change = np.abs(images - test.images)
    assert change.any()
    if space == "image":
        assert np.linalg.norm(change.reshape(25, -1), axis=1).max() <= 1.5 + 1e-5
    else:
        assert change.max() > 0.3 + 1e-5  # letters move as a whole
    assert f"Saved {out}" in output
    right = model.predict(test.images) == test.labels
    if space == "learned-manifold":  # where attacks start at reconstructions, and not all codes may change
        all_tested = load_fonts(0, stored_config(smoke).n_test).test  # not only those that are attacked here
        manifold = LearnedManifold(stored_vaes(smoke / "manifolds", 10)).fitted(all_tested.images, all_tested.labels)
        chart = manifold.chart(test.images, test.labels, None)
        right = model.predict(np.clip(chart.decoded(chart.start), 0, 1)) == test.labels
        success &= manifold.perturbable(test)
    assert f"{right.sum()} of 25 " in output
    assert f"succeed on {(success & right).sum()} of them" in output


@pytest.mark.parametrize("training", ["on_true_manifold_adversarial", "random_transformations"])
def test_train_knows_trainings_and_variants(tmp_path, training):
    states = {}
    for name, chosen in {"half": (), "full": ("--variant", "full"), "normal": ("--training", "normal")}.items():
        out = tmp_path / f"{name}.npz"
        given = ("--training", training, *chosen, "--n-train", 20, "--epochs", 1)
        code, output, errors = main("train", *given, "--out", out)
        assert (code, errors) == (0, "")
        assert output.endswith(f"Saved {out}\n")
        states[name] = models.load(out).state_dict()["0.weight"]
    assert (states["half"] != states["full"]).any()
    assert (states["half"] != states["normal"]).any()


def test_train_knows_the_learned_manifold_of_a_run(smoke, tmp_path):
    given = ("--training", "on_learned_manifold_adversarial", "--n-train", 20, "--epochs", 1)
    code, _, errors = main("train", *given, "--manifolds", smoke / "manifolds", "--out", tmp_path / "m.npz")
    assert (code, errors) == (0, "")
    expected = models.cnn(seed=0)
    of_vaes = open_source("fonts").of_each_class(stored_config(smoke).n_vae)  # not only those trained on here
    space = LearnedManifold(stored_vaes(smoke / "manifolds", 10)).fitted(of_vaes.images, of_vaes.labels)
    train(expected, load_fonts(20, 0).train, given[1], epochs=1, space=space)
    for name, array in models.load(tmp_path / "m.npz").state_dict().items():
        np.testing.assert_array_equal(array, expected.state_dict()[name])


def test_the_box_of_codes_is_that_of_the_run_even_if_one_image_is_attacked(smoke, tmp_path):
    given = ("--space", "learned-manifold", "--manifolds", smoke / "manifolds", "--out", tmp_path / "found.npz")
    assert main("attack", smoke / "models" / "normal-200-0.npz", *given, "--images", 1)[0] == 0
    test = load_fonts(0, stored_config(smoke).n_test).test
    space = LearnedManifold(stored_vaes(smoke / "manifolds", 10)).fitted(test.images, test.labels)
    first = test.take(slice(1))
    expected = PGD().find(models.load(smoke / "models" / "normal-200-0.npz"), first, space)
    with np.load(tmp_path / "found.npz") as stored:
        np.testing.assert_array_equal(stored["images"], expected.images)
    chart = space.chart(first.images, first.labels, None)
    assert np.abs(expected.images - chart.decoded(chart.start)).max() > 0.01  # a box of one image is a point


def test_manifolds_of_other_images_are_refused(smoke):
    model, given = smoke / "models" / "normal-200-0.npz", ("--manifolds", smoke / "manifolds")
    code, _, errors = main("evaluate", model, *given, "--difficulty", "easy")
    assert (code, errors.count("\n")) == (2, 1)
    assert "were trained on other images (difficulty hard instead of easy): give those of a run on the same" in errors


def test_evaluate_says_that_it_attacked_nothing(tmp_path):
    model = models.cnn(widths=(2,))
    for parameter in model.parameters():
        parameter.data[...] = 0
    model.parameters()[-1].data[1] = 1  # all images are of the second class
    model.save(tmp_path / "model.npz")
    assert load_fonts(0, 1).test.labels.item() != 1
    code, output, _ = main("evaluate", tmp_path / "model.npz", "--n-test", 1, "--n-attacked", 1)
    assert code == 0
    assert output.endswith(
        "None of these images is classified correctly: there are no regular attacks, and no check.\n"
    )


def test_evaluate_finds_what_the_run_found_on_the_learned_manifold(smoke, tmp_path):
    folder = smoke
    settings = stored_config(folder)
    row = rows(folder)[-1]
    model = folder / "models" / f"{row['training']}-{row['n_train']}-{row['seed']}.npz"
    manifolds = shutil.copytree(folder / "manifolds", tmp_path / "manifolds")
    config = ClassifierConfig(Architecture(Kind.CNN, (4, 8), hidden_units=12), TrainingConfig(epochs=2))
    oracle = train_once("oracle", config, load_fonts(200, 0).train, folder=manifolds)
    counts = ("--n-test", settings.n_test, "--n-attacked", settings.n_attacked, "--n-attacked-on-manifold", 50)
    code, output, errors = main("evaluate", model, *counts, "--restarts", 2, "--manifolds", manifolds)
    assert (code, errors) == (0, "")
    found = printed(output)
    classifier, test = models.load(model), load_fonts(0, 50).test
    tested = load_fonts(0, 10_000).test  # as many as in a run of which nothing is known
    space = LearnedManifold(stored_vaes(manifolds, 10)).fitted(tested.images, tested.labels)
    chart = space.chart(test.images, test.labels, None)
    correct = classifier.predict(chart.decoded(chart.start)) == test.labels
    attacked = test.take(np.flatnonzero(correct & space.perturbable(test)))
    result = PGD(restarts=2).find(classifier, attacked, space)
    expected = {
        "Success rate of attacks on the learned manifold": result.restart_success.sum() / 2 / correct.sum(),
        "Success rate of attacks on the learned manifold, any restart": result.success.sum() / correct.sum(),
        "Share of images attacked on the learned manifold that keep their label, according to the oracle": labels_kept(
            oracle, result.images, attacked.labels
        ),
    }
    assert {title: found[title] for title in expected} == pytest.approx(expected, abs=6e-5)


@pytest.mark.stress
def test_vaes_are_chosen_at_the_command_line(tmp_path):
    grid = ("--preset", "smoke", "--trainings", "normal", "--sizes", 20)
    chosen = ("--vae-channels", "2,3", "--vae-images", 20)
    assert main("run", *grid, *chosen, "--out", tmp_path / "small")[0] == 0
    assert [vae.config.channels for vae in stored_vaes(tmp_path / "small" / "manifolds", 10)] == [(2, 3)] * 10
    (row,) = rows(tmp_path / "small")
    assert 0 <= float(row["on_learned_manifold_success"]) <= float(row["on_learned_manifold_success_worst"]) <= 1
    assert main("run", *grid, "--vae-images", 0, "--out", tmp_path / "none")[0] == 0
    (without,) = rows(tmp_path / "none")
    assert not (tmp_path / "none" / "manifolds").exists()
    empty = {name for name in row if row[name] and not without[name]}
    expected = {"on_learned_manifold_success", "on_learned_manifold_success_worst", "reconstruction_error"}
    assert empty - {"on_learned_manifold_subspace_distance"} == expected


def test_fonts_draws_its_sheets(tmp_path):
    code, output, _ = main("fonts", "--out", tmp_path / "sheets")
    assert code == 0
    for name in ("prototypes", "easy", "moderate", "hard"):
        path = tmp_path / "sheets" / f"{name}.png"
        assert f"Saved {path}" in output
        with Image.open(path) as image:
            assert len(np.unique(np.asarray(image))) > 50  # letters, not a blank page
