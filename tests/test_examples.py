"""Every example that somebody may copy runs: those in docstrings, and the Python in the guides."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import numpy as np
import pytest

import hlf_np
from hlf_np import UserError
from hlf_np.autodiff import Tensor
from hlf_np.operations import cross_entropy

FLAGS = doctest.ELLIPSIS
ROOT = Path(__file__).parents[1]
README, EXTENDING = ROOT / "README.md", ROOT / "hlf_np" / "EXTENDING.md"


def modules():
    """All modules of the package, but those of other libraries that are missing here."""
    for found in pkgutil.walk_packages(hlf_np.__path__, "hlf_np."):
        if found.name == "hlf_np.__main__":
            continue
        try:
            yield importlib.import_module(found.name)
        except UserError:
            assert found.name.startswith("hlf_np.adapters.")
    yield hlf_np


FOUND = [test for module in modules() for test in doctest.DocTestFinder().find(module) if test.examples]


@pytest.mark.parametrize("test", FOUND, ids=[test.name for test in FOUND])
def test_examples_in_docstrings_are_true(test, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = []
    doctest.DocTestRunner(optionflags=FLAGS).run(test, out=said.append)
    assert not said, "".join(said)


def blocks(path):
    """The Python blocks of a file in Markdown."""
    return re.findall(r"^```python\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)


def run_blocks(chosen, **names):
    """Run blocks one after the other, as somebody who reads on would; the names that are left."""
    for block in chosen:
        exec(compile(block, "guide", "exec"), names)
    return names


def smaller(block):
    """The same with less data and fewer epochs, which change nothing but the time."""
    return re.sub(r"n_(train|test)=1000", r"n_\1=100", block).replace("epochs=20", "epochs=1")


def test_the_guides_have_the_examples_that_are_run_here():
    assert [len(blocks(README)), len(blocks(EXTENDING))] == [2, 7]
    assert sum("import torch" in block for block in blocks(EXTENDING)) == 1
    for path in (*ROOT.glob("*.md"), *(ROOT / "hlf_np").rglob("*.md")):
        assert path in (README, EXTENDING) or not blocks(path), path


def test_a_guide_shows_the_plugins_that_the_tests_run():
    shown = blocks(EXTENDING)
    for path in (Path(__file__).parent / "plugins").glob("*.py"):
        assert path.read_text().split('"""\n\n', 1)[1] in shown, path.name


def test_python_in_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run_blocks(map(smaller, blocks(README)))
    assert 0 <= names["result"].success.mean() <= 1
    assert names["both"].spaces == (hlf_np.spaces.ImageBall, hlf_np.spaces.TrueManifold)


def test_python_in_the_guide_to_extensions_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run_blocks((block for block in blocks(EXTENDING) if "import torch" not in block), __name__="guide")
    test, space = names["test"], names["Brightness"](epsilon=0.4)
    assert not names["model"].compiles
    found = hlf_np.attacks.PGD(step_size=0.05).find(names["model"], test, space)
    factors = found.images.sum(axis=(1, 2, 3)) / test.images.sum(axis=(1, 2, 3))
    assert 0.6 - 1e-5 <= factors.min() < factors.max() <= 1 + 1e-5
    before = cross_entropy(Tensor(names["model"].logits(test.images)), test.labels).data
    assert (found.loss > before).mean() > 0.9
    assert names["noise"].find(names["model"], test, space).success.mean() <= found.success.mean()


@pytest.mark.parity
def test_weights_travel_to_pytorch_and_back_as_the_guide_says():
    torch = pytest.importorskip("torch")
    (block,) = (block for block in blocks(EXTENDING) if "import torch" in block)
    assert len(block.splitlines()) == 4
    model, other = hlf_np.models.mlp(widths=(8, 8), seed=1), hlf_np.models.mlp(widths=(8, 8), seed=2)

    def linear(inputs, units):
        return torch.nn.Linear(inputs, units), torch.nn.ReLU(), torch.nn.BatchNorm1d(units)

    theirs = torch.nn.Sequential(torch.nn.Flatten(), *linear(784, 8), *linear(8, 8), torch.nn.Linear(8, 10)).eval()
    images = np.random.default_rng(0).random((20, 28, 28, 1), np.float32)
    for weights in (model, other):
        expected = weights.logits(images)
        names = run_blocks([block], torch_model=theirs, model=weights)
        with torch.no_grad():
            found = theirs(torch.from_numpy(images)).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(names["model"].logits(images), expected)
