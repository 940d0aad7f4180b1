"""What somebody brings along: each of the five things in one file, and what is wrong with one is told in one line."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import TINY, command, main, numbers, rows, tree

from hlf_np import UserError, models
from hlf_np.experiments.catalogue import Catalogue, catalogue
from hlf_np.experiments.folder import stored_config
from hlf_np.experiments.groundwork import source_of
from hlf_np.experiments.plugins import Plugin, PluginError, read_plugin
from hlf_np.spaces import Need, Space

PLUGINS = Path(__file__).parent / "plugins"
FIVE = ("label_smoothing", "noise", "brightness", "stripes", "confidence")
GRID = ("run", "--preset", "smoke", "--sizes", "60", "--vae-images", 0)
STRIPES = ("--dataset", "stripes", "--trainings", "normal,label_smoothing,brightness_adversarial")


def given(*names):
    return [argument for name in names for argument in ("--plugin", PLUGINS / f"{name}.py")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run with all five, on the dataset of one of them; not to be changed."""
    out = tmp_path_factory.mktemp("plugins") / "results"
    code, output, errors = main(*GRID, *STRIPES, *given(*FIVE), "--out", out)
    assert (code, errors) == (0, "")
    return out, output


@pytest.mark.parametrize("name", FIVE)
def test_each_addition_is_one_short_file(name):
    lines = (PLUGINS / f"{name}.py").read_text().splitlines()
    assert len(lines) <= 40


def test_a_run_measures_trains_and_shows_what_plugins_declare(finished):
    folder, output = finished
    found = rows(folder)
    assert [row["training"] for row in found] == ["normal", "label_smoothing", "brightness_adversarial"]
    for row in found:
        assert row["dataset"] == "stripes"
        for column in ("confidence", "brightness_success", "brightness_success_worst", "noise_success"):
            assert 0 <= float(row[column]) <= 1
    titles = ("Mean confidence on test images", "Success rate of attacks by brightness", "Success rate of attack noise")
    page = (folder / "report.html").read_text()
    for title in (*titles, "Label smoothing", "Brightness adversarial"):
        assert title in output
        assert title in page
    assert "Attacks by brightness" in page or "attacks by brightness" in page
    assert "stripes, 3 classes, whose true manifold nobody knows" in page
    for figure in ("confidence", "brightness_success", "brightness_success_against_error", "noise_success"):
        assert (folder / "figures" / f"{figure}.png").exists()
    assert page.count("data:image/png") == len(list((folder / "figures").glob("*.png")))


def test_what_is_measured_is_what_the_functions_compute(finished):
    folder = finished[0]
    model = models.load(folder / "models" / "normal-60-0.npz")
    plugins = tuple(read_plugin(str(PLUGINS / f"{name}.py")) for name in FIVE)
    (source,), config = catalogue(plugins).sources, stored_config(folder, plugins)
    test = source_of(config).dataset(0, config.n_test).test
    assert set(map(bytes, test.images)) <= set(map(bytes, source.open().test.images))
    logits = model.logits(test.images).astype(np.float64)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert float(rows(folder)[0]["confidence"]) == pytest.approx(shares.max(axis=1).mean(), abs=1e-6)


def test_the_text_is_stored_and_its_digest_is_part_of_the_configuration(finished, tmp_path):
    folder = finished[0]
    plugins = json.loads((folder / "config.json").read_text())["run"]["plugins"]
    assert plugins.keys() == {f"{name}.py" for name in FIVE}
    for name in FIVE:
        text = (folder / "plugins" / f"{name}.py").read_text()
        assert text == (PLUGINS / f"{name}.py").read_text()
        assert plugins[f"{name}.py"] == Plugin("", text).digest


def test_a_report_is_made_again_with_the_plugins_and_never_runs_what_lies_in_the_folder(finished, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "results")
    code, _, errors = main("report", folder)
    assert code == 2
    assert errors == (
        "hlf_np: this run needs the plugin label_smoothing.py: give the one in its folder, --plugin"
        " DIR/plugins/label_smoothing.py, if you trust it\n"
    )
    stored = [argument for name in FIVE for argument in ("--plugin", folder / "plugins" / f"{name}.py")]
    assert main("report", folder, *stored)[0] == 0
    assert tree(folder) == tree(finished[0])


def test_another_version_of_a_plugin_is_refused(finished, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "results")
    other = tmp_path / "confidence.py"
    other.write_text((PLUGINS / "confidence.py").read_text() + "\n")
    arguments = [*given(*FIVE[:4]), "--plugin", other]
    code, _, errors = main("report", folder, *arguments)
    assert (code, errors.count("\n")) == (2, 1)
    assert "another version of the plugin confidence.py" in errors


@pytest.mark.slow
def test_jobs_load_plugins_too(finished, tmp_path):
    done = command(*GRID, *STRIPES, *given(*FIVE), "--jobs", 2, "--out", tmp_path / "jobs")
    assert (done.returncode, done.stderr) == (0, "")
    assert numbers(tmp_path / "jobs") == numbers(finished[0])


def test_single_commands_take_plugins(finished, tmp_path):
    model = tmp_path / "model.npz"
    data = ("--dataset", "stripes", *given("stripes", "label_smoothing", "noise", "brightness"))
    assert (
        main("train", "--training", "label_smoothing", "--n-train", 100, "--epochs", 3, *data, "--out", model)[0] == 0
    )
    code, output, errors = main("evaluate", model, *data, "--restarts", 1, "--n-checked", 0)
    assert (code, errors) == (0, "")
    assert "Success rate of attack noise" in output
    out = tmp_path / "found.npz"
    space = ("--attack", "noise", "--space", "brightness", "--epsilon", 0.4)
    code, _, errors = main("attack", model, *data, *space, "--images", 20, "--out", out)
    assert (code, errors) == (0, "")
    with np.load(out) as stored:
        assert (stored["images"] <= stored["originals"] + 1e-6).all()


def test_a_plugin_adds_trainings_to_those_of_a_preset(tmp_path):
    chosen = ("--trainings", "brightness_adversarial", "--out", tmp_path / "a")
    assert main(*GRID, *given("brightness"), *chosen)[0] == 0
    found = catalogue((read_plugin(str(PLUGINS / "brightness.py")),))
    assert [training.name for training in found.added] == ["brightness_adversarial"]
    assert set(found.trainings) == {*Catalogue().trainings, *found.added}


# --- mistakes -------------------------------------------------------------------------------------------------

MEASUREMENT = "from hlf_np.experiments.measurements import Measurement\n"
ATTACK = """
class Bad:
    name = "bad"
    def find(self, model, split, space, seed=0):
        return 1
bad = Bad()
"""
BAD_SPACE = """
from hlf_np.spaces import Space
class Bad(Space):
    name = "bad"
    def chart(self, images, labels, codes):
        return None
"""
TRAINING = "from hlf_np.trainings import Training\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = (\n", r"the plugin fails at .*mine\.py:1: '\(' was never closed"),
        ("y = 1\nz = y / 0\n", r"the plugin fails at .*mine\.py:2: ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(3)\n", r"the plugin fails at .*mine\.py:2: SystemExit: 3"),
        ("import nothing_like_it\n", r"the plugin fails at .*mine\.py:1: ModuleNotFoundError"),
        ("x = 1\n", "declares nothing: put a Space with a name"),
        ("\0", r"the plugin fails at .*mine\.py:1: source code"),
        (TRAINING + 't = Training("Normal Two")\n', "trainings cannot be named 'Normal Two': use lower-case letters"),
        (TRAINING + 't = Training("../up")\n', "trainings cannot be named '../up'"),
        (MEASUREMENT + 'm = Measurement("test_error", "x", len)\n', "two measurements named 'test_error'"),
        (MEASUREMENT + 'm = Measurement("m", "x", lambda s: s.nothing)\n', r"mine\.py:2: AttributeError"),
        (MEASUREMENT + 'm = Measurement("m", "x", lambda s: "many")\n', r"measurement m \(.*mine.py:2\) gave 'many'"),
        (MEASUREMENT + 'm = Measurement("m", "x", lambda s: None)\n', "gave None: its function must return a number"),
        (TRAINING + 't = Training("t", loss=lambda m, c, p, y: m(p).sum(axis=7))\n', r"mine\.py:2: AxisError"),
        (TRAINING + 't = Training("t", loss=lambda m, c, p, y: m(p))\n', r"the loss \(.*mine.py:2\) must give"),
        (TRAINING + 't = Training("t", loss=lambda m, c, p, y: 1)\n', "for each image, .*, not int"),
        (ATTACK, "attack bad gave int: `find` must return an AttackResult"),
        (BAD_SPACE, "something that .*mine.py declares is not as it must be: AttributeError"),
        ("from hlf_np.data.declared import DataSource\nd = DataSource('fonts', list)\n", "two datasets named 'fonts'"),
    ],
)
def test_a_plugin_that_breaks_is_one_line_before_anything_is_trained(tmp_path, text, message):
    (tmp_path / "mine.py").write_text(text)
    code, _, errors = main(*GRID, "--plugin", tmp_path / "mine.py", "--out", tmp_path / "results")
    assert (code, errors.count("\n")) == (2, 1)
    assert re.search(message, errors)
    assert not list(tmp_path.glob("results/cells/*"))


def test_a_plugin_that_is_no_file_is_refused(tmp_path):
    with pytest.raises(PluginError, match="there is no such file"):
        read_plugin(str(tmp_path / "none.py"))
    with pytest.raises(PluginError, match="not a file of reasonable size"):
        read_plugin(str(tmp_path))
    (tmp_path / "binary.py").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PluginError, match="cannot read the plugin"):
        read_plugin(str(tmp_path / "binary.py"))


def test_an_installed_package_is_called_by_its_entry_point(tmp_path, monkeypatch):
    (tmp_path / "their_ideas.py").write_text((PLUGINS / "confidence.py").read_text())
    info = tmp_path / "their_ideas-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-ideas\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[hlf_np.plugins]\nideas = their_ideas\nlost = nowhere_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    plugin = read_plugin("ideas")
    assert (plugin.name, plugin.text) == ("their_ideas.py", (PLUGINS / "confidence.py").read_text())
    with pytest.raises(PluginError, match="cannot read the plugin 'lost'"):
        read_plugin("lost")


def test_needs_are_those_of_the_spaces():
    for training in Catalogue().trainings:
        assert training.needs == {space.needs for space in training.spaces if space.needs}
    with pytest.raises(UserError, match="needs the true manifold"):
        replace(TINY, trainings=Catalogue().trainings, true_manifold=False)
    assert {space.needs for space in Catalogue().spaces} == {None, *Need}
    assert all(issubclass(space, Space) for space in Catalogue().spaces)
