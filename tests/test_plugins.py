"""Plugins: one file for each kind of declaration, and a one-line message for each mistake."""

import json
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from conftest import small_cnn
from helpers import TINY, command, main, numbers, rows, tree

from hlf_np import UserError, models
from hlf_np.attacks import FGSM, PGD, AutoPGD, CarliniWagner, Engine, RandomSearch
from hlf_np.cli.options import read_plugins
from hlf_np.experiments.configuration.catalogue import Catalogue, catalogue
from hlf_np.experiments.configuration.plugins import Plugin, PluginError, read_plugin
from hlf_np.experiments.grid.prepare import source_of, training_config
from hlf_np.experiments.measurements import Subject
from hlf_np.experiments.measurements.measurement import measure
from hlf_np.experiments.storage.folder import stored_config
from hlf_np.operations import cross_entropy
from hlf_np.spaces import Chart, ImageBall, Need, Space
from hlf_np.training import train
from hlf_np.trainings import Training, trades

PLUGINS = Path(__file__).parent / "plugins"
FIVE = ("label_smoothing", "noise", "brightness", "stripes", "confidence")
GRID = ("run", "--preset", "smoke", "--sizes", "60", "--vae-images", 0)
STRIPES = ("--dataset", "stripes", "--trainings", "normal,label_smoothing,brightness_adversarial")


def given(*names):
    return [argument for name in names for argument in ("--plugin", PLUGINS / f"{name}.py")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run with all five plugins, on the dataset of one of them; must not be changed."""
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
    assert "stripes, 3 classes, whose true manifold is unknown" in page
    for figure in ("confidence", "brightness_success", "brightness_success_against_error", "noise_success"):
        assert (folder / "figures" / f"{figure}.png").exists()
    assert page.count("data:image/png") == len(list((folder / "figures").glob("*.png")))


def test_measurements_are_what_the_functions_compute(finished):
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


def test_a_report_needs_the_plugins_and_never_executes_those_in_the_folder(finished, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "results")
    code, _, errors = main("report", folder)
    assert code == 2
    assert errors == (
        "hlf_np: this run needs the plugin label_smoothing.py: if you trust the copy in its folder, pass --plugin"
        " DIR/plugins/label_smoothing.py\n"
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


@pytest.mark.stress
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
    found = {}
    for name, chosen in {"default": (), "space's": ("--step-size", 0.05), "pgd's": ("--step-size", 0.005)}.items():
        code, _, errors = main("attack", model, *data, "--space", "brightness", *chosen, "--images", 20, "--out", out)
        assert (code, errors) == (0, "")
        with np.load(out) as stored:
            found[name] = stored["images"]
    np.testing.assert_array_equal(found["default"], found["space's"])
    assert (found["default"] != found["pgd's"]).any()


def test_declarations_may_be_in_lists():
    text = (
        TRAINING
        + """
from hlf_np.spaces import ImageBall
from hlf_np.trainings import MAIN, trades
sweep = [trades(ImageBall, beta) for beta in (0.5, 2)]
others = {name: Training(name) for name in ("one", "two")}
third = others["one"]
"""
    )
    added = [training.name for training in of_text(text).added]
    assert added == [*(training.name for training in (trades(ImageBall, 0.5), trades(ImageBall, 2))), "one", "two"]


def test_a_number_that_is_no_share_is_refused(trained, split):
    (measurement,) = (m for m in of_text(MEASUREMENT + "m = Measurement('m', 'M', lambda s: -0.5)").measurements[-1:])
    with pytest.raises(UserError, match=r"measurement m .* returned -0\.5, which is no share: declare it with share="):
        measure(Subject(trained, split, TINY, [ImageBall(0.1)]), [measurement])
    assert measure(Subject(trained, split, TINY, []), [replace(measurement, share=False)]) == {"m": -0.5}


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
        ("x = 1\n", "declares nothing: define a Space with a name"),
        ("\0", r"the plugin fails at .*mine\.py:1: source code"),
        (
            TRAINING + 't = Training("Normal Two")\n',
            "trainings cannot be named 'Normal Two': use up to 64",
        ),
        (TRAINING + 't = Training("../up")\n', "trainings cannot be named '../up'"),
        (MEASUREMENT + 'm = Measurement("test_error", "x", len)\n', "two measurements named 'test_error'"),
        (MEASUREMENT + 'm = Measurement("m", "x", lambda s: s.nothing)\n', r"mine\.py:2: AttributeError"),
        (
            MEASUREMENT + 'm = Measurement("m", "x", lambda s: "many")\n',
            r"measurement m \(.*mine.py:2\) returned 'many'",
        ),
        (
            MEASUREMENT + 'm = Measurement("m", "x", lambda s: None)\n',
            "returned None: its function must return a number",
        ),
        (TRAINING + 't = Training("t", loss=lambda m, c, p, y: m(p).sum(axis=7))\n', r"mine\.py:2: AxisError"),
        (TRAINING + 't = Training("t", loss=lambda m, c, p, y: m(p))\n', r"the loss \(.*mine.py:2\) must return"),
        (TRAINING + 't = Training("t", loss=lambda m, c, p, y: 1)\n', "per image, .*, not int"),
        (ATTACK, "attack bad returned int: `find` must return an AttackResult"),
        (BAD_SPACE, r"\w+\.chart must return a Chart, not"),
        ("from hlf_np.data import DataSource\nd = DataSource('fonts', list)\n", "two datasets named 'fonts'"),
    ],
)
def test_a_plugin_that_breaks_is_one_line_before_anything_is_trained(tmp_path, text, message):
    (tmp_path / "mine.py").write_text(text)
    code, _, errors = main(*GRID, "--plugin", tmp_path / "mine.py", "--out", tmp_path / "results")
    assert (code, errors.count("\n")) == (2, 1)
    assert re.search(message, errors)
    assert not list(tmp_path.glob("results/cells/*"))


def test_a_plugin_that_is_not_a_file_is_refused(tmp_path):
    with pytest.raises(PluginError, match="no such file"):
        read_plugin(str(tmp_path / "none.py"))
    with pytest.raises(PluginError, match="not a file of at most 1048576 bytes"):
        read_plugin(str(tmp_path))
    (tmp_path / "binary.py").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PluginError, match="cannot read the plugin"):
        read_plugin(str(tmp_path / "binary.py"))


def test_plugins_of_installed_packages_go_by_their_entry_point(tmp_path, monkeypatch):
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
        used = {*training.spaces, training.samples} - {None}
        assert training.needs == {space.needs for space in used if space.needs}
    with pytest.raises(UserError, match="needs the true manifold"):
        replace(TINY, trainings=Catalogue().trainings, true_manifold=False)
    assert {space.needs for space in Catalogue().spaces} == {None, *Need}
    assert all(issubclass(space, Space) for space in Catalogue().spaces)


# --- never silently wrong -------------------------------------------------------------------------------------


def of_text(text, name="mine.py"):
    """Return the catalogue with a plugin of this text."""
    return catalogue((Plugin(name, text),))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TRAINING + "t = Training('normal')\nu = Training('other')\n", "two trainings named 'normal'"),
        (MEASUREMENT + "m = Measurement('seed', 'x', len)\n", "two measurements named 'seed'"),
        (MEASUREMENT + "m = Measurement('m', 'x', len, 'learned')\n", "must have a title, a function, a Need or None"),
        (MEASUREMENT + "m = Measurement('m', 5, len)\n", "must have a title"),
        (
            TRAINING + "from hlf_np.spaces import ImageBall\nt = Training('t', ImageBall)\n",
            "must be a tuple of classes",
        ),
        (TRAINING + "t = Training('t', color='notacolor')\n", "must be of the form #rrggbb"),
        (TRAINING + "t = Training('t', fraction=7)\n", "must be a number from 0 to 1, not 7"),
        (TRAINING + "t = Training('t', fraction='half')\n", "must be a number from 0 to 1, not 'half'"),
        (
            TRAINING
            + "from hlf_np.spaces import LearnedManifold, TrueManifold\n"
            + "t = Training('t', (TrueManifold,), samples=LearnedManifold)\n",
            "would perturb its samples on the true manifold, where they are not: draw them from TrueManifold",
        ),
        (MEASUREMENT + "m = Measurement('computed_by', 'x', len)\n", "two measurements named 'computed_by'"),
        (TRAINING + f"t = Training('{'t' * 240}')\n", "use up to 64 lower-case letters"),
        ("from hlf_np.attacks import PGD\npgd100 = PGD(steps=100)\n", "an attack of your own class"),
        (
            "from hlf_np.spaces import ImageBall\nclass Big(ImageBall):\n    name, option = 'big', 'image'\n",
            "two options named 'image'",
        ),
    ],
)
def test_invalid_declarations_are_refused(text, message):
    with pytest.raises(UserError, match=message):
        of_text(text)


def test_a_space_that_inherits_from_another_has_a_title_of_its_own():
    found = of_text("from hlf_np.spaces import ImageBall\nclass Big(ImageBall):\n    name = 'big_ball'\n")
    assert "Success rate of big ball attacks" in [measurement.title for measurement in found.measurements]


def test_two_plugins_of_one_name_are_refused_and_one_given_twice_is_one(tmp_path):
    text = (PLUGINS / "confidence.py").read_text()
    with pytest.raises(PluginError, match=r"there are 2 plugins named x\.py"):
        catalogue((Plugin("x.py", text), Plugin("x.py", text + "\n")))
    assert len(read_plugins([str(PLUGINS / "confidence.py")] * 2)) == 1


def test_a_plugin_may_change_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    of_text("import os\nos.chdir('/')\n" + TRAINING + "t = Training('t')\n")
    assert Path.cwd() == tmp_path


FAULTY = {  # what an attack gives, and what is said of it
    "split.images, 0, np.ones(n, bool)": "exactly model.predict",
    "split.images * 7, 0, wrong": "returned invalid images: images hold values outside",
    "split.images * np.nan, 0, wrong": "returned invalid images: images hold NaN",
    "split.images[:3], 0, wrong": "returned 3 images for",
    "split.images[:, 3:], 0, wrong": "returned invalid images: images must have shape",
    "split.images * 0, 0, model.predict(split.images * 0) != split.labels": "but epsilon is",
}


@pytest.mark.parametrize("found", FAULTY)
def test_results_of_attacks_are_checked(trained, split, found):
    text = f"""
import numpy as np
from hlf_np.attacks import AttackResult
class Faulty:
    name = "faulty"
    def find(self, model, split, space, seed=0):
        n, wrong = len(split), model.predict(split.images) != split.labels
        images, moved, success = {found}
        return AttackResult(images, np.zeros_like(images), success, np.zeros(n, int), np.zeros(n), success[None])
faulty = Faulty()
"""
    (measurement,) = (m for m in of_text(text).measurements if m.column == "faulty_success")
    right = split.take(trained.predict(split.images) == split.labels)
    with pytest.raises(UserError, match=f"attack faulty .*{FAULTY[found]}"):
        measurement.compute(Subject(trained, right, replace(TINY, n_attacked=60), [ImageBall(0.1)]))


def test_results_of_attacks_are_checked_by_the_command_for_one_model(trained, tmp_path):
    (tmp_path / "mine.py").write_text("""
import numpy as np
from hlf_np.attacks import AttackResult
class Faulty:
    name = "faulty"
    def find(self, model, split, space, seed=0):
        n, all_of_them = len(split), np.ones((1, len(split)), bool)
        return AttackResult(split.images, 0 * split.images, all_of_them[0], np.zeros(n, int), np.zeros(n), all_of_them)
faulty = Faulty()
""")
    trained.save(tmp_path / "model.npz")
    options = ("--plugin", tmp_path / "mine.py", "--attack", "faulty", "--images", 20, "--out", tmp_path / "found.npz")
    code, _, errors = main("attack", tmp_path / "model.npz", *options)
    assert (code, "attack faulty" in errors, errors.count("\n")) == (2, True, 1)
    assert not (tmp_path / "found.npz").exists()


def test_classes_that_inherit_from_spaces_and_charts_are_not_compiled_as_those(trained, split):
    class Patch(ImageBall):
        def project(self, chart, codes):
            inside = np.zeros(codes.shape[1:], bool)
            inside[:3, :3] = True
            return np.where(inside, super().project(chart, codes), chart.start)

    few = split.take(slice(30))
    found = PGD(steps=4, step_size=0.05).find(trained, few, Patch(0.2))
    assert not found.perturbations[:, 3:].any()
    np.testing.assert_array_equal(
        found.success, PGD(steps=4, step_size=0.05, engine="autodiff").find(trained, few, Patch(0.2)).success
    )

    class Dimmed(type(ImageBall(0.1).chart(few.images, few.labels, None))):
        def decode(self, codes):
            return codes * 0.5

    class Dim(ImageBall):
        def chart(self, images, labels, codes):
            return Dimmed(**vars(super().chart(images, labels, codes)))

    engines = [PGD(steps=4, step_size=0.05, engine=engine).find(trained, few, Dim(0.2)) for engine in Engine]
    np.testing.assert_allclose(engines[0].images, engines[1].images, atol=1e-5)
    assert found.images.max() > 0.5 >= engines[0].images.max()


def test_every_image_may_have_its_own_box(trained, split):
    few = split.take(slice(30))

    @dataclass(frozen=True)
    class Masked(type(ImageBall(0.1).chart(few.images, few.labels, None))):
        of_images = ("start", "lower", "upper")

    class Halves(ImageBall):  # the left half of some images is fixed, the right half of the others
        def chart(self, images, labels, codes):
            fixed = np.zeros(images.shape, bool)
            fixed[labels % 2 == 0, :, :14] = fixed[labels % 2 == 1, :, 14:] = True
            lower, upper = (np.where(fixed, images, np.float32(end)) for end in (0, 1))
            return Masked(images, lower, upper)

    attacks = [PGD(4, 0.05), PGD(4, 0.05, engine="autodiff"), FGSM(), AutoPGD(4), RandomSearch(4), CarliniWagner(4)]
    for result in (attack.find(trained, few, Halves(0.2)) for attack in attacks):
        moved = result.images != few.images
        assert not moved[few.labels % 2 == 0, :, :14].any()
        assert not moved[few.labels % 2 == 1, :, 14:].any()
        assert moved.any()


def test_invalid_charts_are_refused(trained, split):
    class Outside(ImageBall):
        def chart(self, images, labels, codes):
            return replace(super().chart(images, labels, codes), lower=np.float32([0.9]))

    with pytest.raises(UserError, match=r"Outside\.chart must start at a float32 code of each image: not codes"):
        PGD(steps=1).find(trained, split, Outside(0.1))

    @dataclass(frozen=True)
    class Forgetful(Chart):
        images: np.ndarray

        def decode(self, codes):
            return codes

    chart = Forgetful(split.images, np.zeros(1, np.float32), np.ones(1, np.float32), split.images)
    with pytest.raises(UserError, match="Forgetful must list its fields with one entry per image"):
        chart.take(np.arange(3))


@pytest.mark.stress
def test_fonts_with_other_prototypes_are_used(tmp_path):
    text = """
from hlf_np.data import DataSource, Fonts
from hlf_np.data.fonts import Difficulty, load_prototypes
inverted = DataSource("inverted", lambda: Fonts(255 - load_prototypes()[:20, :5], Difficulty.EASY, 3))
"""
    (tmp_path / "mine.py").write_text(text)
    plugin, out = ("--dataset", "inverted", "--plugin", tmp_path / "mine.py"), tmp_path / "results"
    code, _, errors = main(*GRID, "--trainings", "normal,on_true_manifold_adversarial", *plugin, "--out", out)
    assert (code, errors) == (0, "")
    config = stored_config(out, (read_plugin(str(tmp_path / "mine.py")),))
    assert (config.dataset, config.classes, config.true_manifold) == ("inverted", tuple("ABCDE"), True)
    test = source_of(config).dataset(0, config.n_test).test
    assert test.images.mean() > 0.5  # dark letters on white
    for row in rows(out):
        model = models.load(out / "models" / f"{row['training']}-60-0.npz")
        assert float(row["test_error"]) == pytest.approx((model.predict(test.images) != test.labels).mean(), abs=1e-6)
    assert "1000 fonts" not in (out / "report.html").read_text()


def test_losses_with_a_state_start_afresh_for_each_model():
    text = """
from hlf_np.operations import cross_entropy
from hlf_np.trainings import Training
class Counting:
    calls = 0
    def __call__(self, model, clean, perturbed, labels):
        self.calls += 1
        return cross_entropy(model(perturbed), labels) * (1 / self.calls)
counting = Training("counting", loss=Counting())
"""
    config = replace(TINY, plugins=(Plugin("mine.py", text),))
    (training,) = config.catalogue.added
    losses = [training_config(config, training, [ImageBall()]).loss for _ in range(2)]
    assert losses[0] is not losses[1]
    assert training.loss not in losses


def test_a_measurement_cannot_change_models_or_data(tmp_path):
    text = (
        MEASUREMENT
        + """
def spoil(subject):
    for parameter in subject.model.parameters():
        parameter.data[...] = 0
        parameter.requires_grad = False
    refusals = 0
    for array in subject.test.arrays():
        try:
            array[...] = 0
        except ValueError:
            refusals += 1
    return refusals
m = Measurement("refusals", "Refusals", spoil, share=False)
e = Measurement("error", "Error", lambda s: (s.model.predict(s.test.images) != s.test.labels).mean())
"""
    )
    (tmp_path / "mine.py").write_text(text)
    out = tmp_path / "results"
    assert main(*GRID, "--trainings", "normal", "--plugin", tmp_path / "mine.py", "--out", out)[0] == 0
    (row,) = rows(out)
    assert float(row["refusals"]) == 4
    assert row["error"] == row["test_error"]
    stored = models.load(out / "models" / "normal-60-0.npz")
    assert stored.state_dict()["0.weight"].any()
    assert all(parameter.requires_grad for _, parameter in stored.network.named_parameters())


def test_a_diverged_training_is_a_failed_model_and_the_run_goes_on(tmp_path):
    text = TRAINING + "t = Training('nan', loss=lambda m, c, p, y: m(p).sum(axis=1) * float('nan'))\n"
    (tmp_path / "mine.py").write_text(text)
    out = tmp_path / "results"
    code, output, _ = main(*GRID, "--trainings", "normal,nan", "--plugin", tmp_path / "mine.py", "--out", out)
    assert code == 0
    assert "1 of 2 models failed" in output


def test_a_plugin_may_be_corrected_until_a_model_is_finished(tmp_path):
    plugin, out = tmp_path / "mine.py", tmp_path / "results"
    plugin.write_text(MEASUREMENT + "m = Measurement('m', 'A', lambda s: None)\n")
    arguments = (*GRID, "--trainings", "normal", "--plugin", plugin, "--out", out)
    assert main(*arguments)[0] == 2
    plugin.write_text(MEASUREMENT + "m = Measurement('m', '<b>$A & B', lambda s: 1234.5, share=False)\n")
    assert main(*arguments)[0] == 0
    assert "<caption><span>&lt;b&gt;$A &amp; B" in (out / "report.html").read_text()
    plugin.write_text(MEASUREMENT + "m = Measurement('m', 'A', lambda s: 1)\n")
    code, _, errors = main(*arguments)
    assert code == 2
    assert "another version of the plugin mine.py" in errors


def test_class_weights_in_double_precision_are_accepted(split):
    weights = np.linspace(1, 2, 10)
    model = small_cnn()
    log = train(
        model,
        split,
        training=Training("t", loss=lambda m, c, p, y: cross_entropy(m(p), y) * weights[y]),
        epochs=2,
        batch_size=20,
    )
    assert np.isfinite(log[-1].loss)
