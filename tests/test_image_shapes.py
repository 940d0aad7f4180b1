"""Images of other shapes than MNIST's at the command line: only what is asked for must fit them."""

import numpy as np
import pytest
from helpers import main, rows
from idx_makers import idx_bytes, write_files

from hlf_np import models
from hlf_np.data.source import open_files
from hlf_np.experiments.configuration.config import PRESETS, Preset
from hlf_np.experiments.grid.prepare import fit
from hlf_np.experiments.storage.folder import stored_config
from hlf_np.manifolds import Vae, VaeConfig

SHAPES = {"tall": (30, 20), "tiny": (6, 6), "colour": (12, 12, 3)}
GRID = ("run", "--preset", "smoke", "--sizes", 20, "--trainings", "normal,adversarial_transformations")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a dataset of each shape."""
    folder, random = tmp_path_factory.mktemp("shapes"), np.random.default_rng(0)
    for name, shape in SHAPES.items():
        for part, count in {"train": 60, "t10k": 40}.items():
            images, labels = random.integers(0, 256, (count, *shape)), np.arange(count) % 10
            files = {f"{part}-images-idx3-ubyte": idx_bytes(images), f"{part}-labels-idx1-ubyte": idx_bytes(labels)}
            write_files(folder / name, files)
    return folder


@pytest.mark.parametrize(
    ("name", "kind"),
    [("tall", "cnn"), pytest.param("tall", "resnet", marks=pytest.mark.stress), ("tiny", "mlp"), ("colour", "cnn")],
)
def test_single_models_need_no_vae_and_no_other_architecture(place, tmp_path, name, kind):
    data, model = ("--dataset", place / name), tmp_path / "model.npz"
    training = ("--training", "adversarial", "--architecture", kind, "--n-train", 10, "--epochs", 1)
    checked = 0 if kind == "resnet" else 5  # its thorough attacks take minutes
    for arguments in (
        ("train", *training, *data, "--out", model),
        ("evaluate", model, *data, "--restarts", 1, "--n-checked", checked),
        ("attack", model, *data, "--images", 5, "--out", tmp_path / "found.npz"),
        ("attack", model, *data, "--images", 5, "--space", "transformations", "--out", tmp_path / "found.npz"),
    ):
        code, _, errors = main(*arguments)
        assert (code, [line for line in errors.splitlines() if "masked" not in line]) == (0, [])
    assert models.load(model).image_shape == (*SHAPES[name], 1)[:3]


@pytest.mark.stress
@pytest.mark.parametrize(
    ("name", "chosen"),
    [("tall", ("--vae-images", 0)), ("tiny", ("--architecture", "mlp", "--channels", 8)), ("colour", ())],
)
def test_runs_need_only_what_is_asked_for(place, tmp_path, name, chosen):
    code, _, errors = main(*GRID, *chosen, "--dataset", place / name, "--out", tmp_path / "out")
    assert (code, errors) == (0, "")
    learned = "--vae-images" not in chosen
    assert [bool(row["on_learned_manifold_success"]) for row in rows(tmp_path / "out")] == [learned] * 2
    assert (tmp_path / "out" / "report.html").exists()
    assert stored_config(tmp_path / "out").architecture.image_shape == (*SHAPES[name], 1)[:3]


def test_layers_are_chosen_for_the_images_that_are_there(place, tmp_path):
    """Three layers do not fit 6x6 pixels, nor five 28x28, but nobody asks for them together."""
    out = ("--dataset", place / "tiny", "--out", tmp_path / "out", "--vae-channels", 4)
    assert main(*GRID, *out, "--channels", "2,4")[0] == 0
    config = stored_config(tmp_path / "out")
    assert (config.architecture.widths, config.vae.channels) == ((2, 4), (4,))


def test_without_a_learned_manifold_nobody_trains_on_it(place, tmp_path):
    code, output, _ = main(
        *("run", "--preset", "smoke", "--sizes", 20, "--vae-images", 0, "--dataset", place / "tiny"),
        *("--architecture", "mlp", "--channels", 4, "--out", tmp_path / "out"),
    )
    assert code == 0
    assert "learned manifold" not in output
    assert {row["training"] for row in rows(tmp_path / "out")} == {
        *("normal", "adversarial", "adversarial_transformations", "random_transformations"),
    }


def test_no_oracle_judges_images_that_are_too_small_for_it(place):
    tiny, colour = (open_files(place / name) for name in ("tiny", "colour"))
    assert fit(PRESETS[Preset.QUICK], tiny, vae_channels=(4,), channels=(4,)).n_oracle == 0
    assert fit(PRESETS[Preset.QUICK], colour).n_oracle == 60


def test_mistakes_about_shapes_are_one_line(place, tmp_path):
    models.cnn(classes=10, widths=(2,)).save(tmp_path / "model.npz")
    for label in range(10):
        Vae(VaeConfig((2,), 2, image_shape=(8, 8, 1))).save(tmp_path / f"vae-{label}-0.npz")
    learned = ("--space", "learned-manifold", "--manifolds", tmp_path)
    models.cnn(image_shape=(30, 20, 1), widths=(2,)).save(tmp_path / "tall.npz")
    for arguments, words in {
        (
            *GRID,
            "--dataset",
            place / "tall",
        ): "square images of at least 4 pixels a side, not 30x20: use --vae-images 0 to leave the learned manifold out",
        (*GRID, "--dataset", place / "tiny"): "6x6 pixels are too small for this cnn: give it fewer layers",
        (
            "train",
            "--n-train",
            10,
            "--dataset",
            place / "tiny",
        ): "6x6 pixels are too small for this cnn: give it fewer layers",
        (
            "attack",
            tmp_path / "model.npz",
            "--dataset",
            place / "tall",
        ): "model for 10 classes of 28x28x1 images, but tall has 10 classes of 30x20x1",
        (
            "attack",
            tmp_path / "tall.npz",
            "--dataset",
            place / "tall",
            *learned,
        ): "are for 8x8x1 images, but tall has 30x20x1 images",
    }.items():
        code, output, errors = main(*arguments, "--out", tmp_path / "new")
        assert (code, output, errors.count("\n")) == (2, "", 1)
        assert words in errors
    assert not (tmp_path / "new").exists()
