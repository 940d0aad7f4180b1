"""Masked gradients are noticed where they were made, and nowhere else."""

import math
from dataclasses import replace

import numpy as np
import pytest
from conftest import small_cnn
from helpers import main

from hlf_np import UserError, models
from hlf_np.attacks import masking
from hlf_np.attacks.masking import MaskingDiagnostics, diagnose_masking
from hlf_np.autodiff import Tensor
from hlf_np.data import load_fonts
from hlf_np.layers import Layer, Sequential
from hlf_np.training import train

CHECKED = 60


@pytest.fixture(scope="module")
def right(trained, split):
    """Images that the trained model classifies correctly."""
    return split.take(np.flatnonzero(trained.predict(split.images) == split.labels)[:CHECKED])


def sure(model, factor):
    """The same decisions with logits multiplied by a factor."""
    copy = models.Model.from_architecture(model.architecture)
    copy.load_state_dict(model.state_dict())
    for parameter in copy.network.layers[-1].parameters.values():
        parameter.data *= factor
    return copy


class Rounding(Layer):
    """Pixels in a few grey levels; no gradient comes through."""

    def __call__(self, x, training=False):
        return Tensor.result(np.round(x.data * 4) / np.float32(4), (x,), lambda g: [np.zeros_like(g)])


def rounding(model):
    return models.Model(Sequential(Rounding(), *model.network.layers), model.classes)


def kept(model, split):
    return split.take(np.flatnonzero(model.predict(split.images) == split.labels))


def test_an_ordinary_model_gives_no_warning(trained, right):
    diagnostics = diagnose_masking(trained, right, 0.1, source=small_cnn(3))
    assert diagnostics.warnings() == []
    assert (diagnostics.count, diagnostics.vanishing) == (CHECKED, 0)
    assert 0 <= diagnostics.random_search <= diagnostics.white_box + masking.RATE_TOLERANCE
    assert diagnostics.white_box > 0.3
    assert [epsilon for epsilon, _ in diagnostics.growth] == pytest.approx([0.1, 0.4, 0.7, 1.0])
    assert diagnostics.growth[-1][1] == 1


def test_saturated_logits_are_noticed(trained, right):
    model = sure(trained, 1e4)
    np.testing.assert_array_equal(model.predict(right.images), right.labels)
    diagnostics = diagnose_masking(model, right, 0.1)
    text = "\n".join(diagnostics.warnings())
    assert f"no gradient at {diagnostics.vanishing:.1%}" in text
    assert f"success is {diagnostics.random_search:.1%} for random search but only {diagnostics.white_box:.1%}" in text
    assert "where every image is allowed" in text
    honest = diagnose_masking(trained, right, 0.1)
    assert (
        diagnostics.random_search == honest.random_search
    )  # what is asked for predictions alone does not see the trick
    assert diagnostics.white_box < honest.white_box


def test_a_layer_that_rounds_is_noticed(trained, split):
    model = rounding(trained)
    diagnostics = diagnose_masking(model, kept(model, split).take(slice(0, CHECKED)), 0.2, source=trained)
    assert diagnostics.vanishing == 1
    text = "\n".join(diagnostics.warnings())
    for part in (
        "no gradient at 100.0%",
        "for random search",
        "for another model's examples",
        "every image is allowed",
    ):
        assert part in text


def test_warnings_follow_from_the_numbers():
    fine = MaskingDiagnostics(200, 0.05, 0.5, 0.51, math.nan, ((0.3, 0.5), (0.6, 0.49), (1.0, 0.94)))
    assert fine.warnings() == []
    for change, text in (
        ({"vanishing": 0.11}, "the loss has no gradient at 11.0% of the images"),
        ({"random_search": 0.53}, "success is 53.0% for random search but only 50.0% for gradient attacks"),
        ({"transfer": 0.6}, "success is 60.0% for another model's examples but only 50.0% for gradient attacks"),
        ({"growth": ((0.3, 0.5), (1.0, 0.92))}, "success is only 92.0% at epsilon 1, where every image is allowed"),
        ({"growth": ((0.3, 0.5), (0.6, 0.4), (1.0, 1.0))}, "success falls from 50.0% at epsilon 0.3 to 40.0% at 0.6"),
    ):
        assert replace(fine, **change).warnings() == [text]
    assert replace(fine, count=10, random_search=0.7).warnings() == []  # two of ten images may be luck
    assert len(replace(fine, count=10, random_search=0.71).warnings()) == 1


def test_without_images_there_is_nothing_to_look_at(trained, right):
    with pytest.raises(UserError, match="no images to diagnose masked gradients on"):
        diagnose_masking(trained, right.take(slice(0, 0)))


def test_balls_that_hold_every_image_are_not_made_larger(trained, right):
    diagnostics = diagnose_masking(trained, right.take(slice(0, 10)), 1.5)
    assert [epsilon for epsilon, _ in diagnostics.growth] == [1.5]
    assert diagnostics.warnings() == []


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A model trained on a little of FONTS, and the same with saturated logits, as files."""
    folder = tmp_path_factory.mktemp("stored")
    model = small_cnn()
    train(model, load_fonts(300, 0, "easy").train, epochs=4)
    model.save(folder / "plain.npz")
    sure(model, 1e4).save(folder / "sure.npz")
    return folder


@pytest.mark.stress
def test_evaluate_warns(stored):
    counts = ("--n-test", 100, "--n-attacked", 100, "--n-attacked-on-manifold", 10, "--restarts", 1)
    given = (*counts, "--difficulty", "easy", "--epsilon", 0.2)
    code, output, errors = main("evaluate", stored / "plain.npz", *given)
    assert (code, errors) == (0, "")
    assert "Success rate of a thorough regular attack on " in output
    assert "random search on the same" in output
    code, output, errors = main("evaluate", stored / "sure.npz", *given, "--transfer-from", stored / "plain.npz")
    assert code == 0
    assert all(line.startswith("hlf_np: gradients may be masked: ") for line in errors.splitlines())
    assert "no gradient at" in errors
    assert "another model's examples" in errors
    code, output, errors = main("evaluate", stored / "sure.npz", *given, "--n-checked", 0)
    assert (code, errors, "random search" in output) == (0, "", False)
