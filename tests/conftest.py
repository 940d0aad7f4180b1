"""Fixtures: a small FONTS drawn at random, and models small enough to train in seconds."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # before OpenMP is loaded: threads that wait must not keep a core from the other workers
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy is loaded, as the commands do

import fcntl
import pickle
import shutil
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from helpers import EIGHT_CELLS, command, compute, numbers
from hypothesis import settings

import hlf_np
from hlf_np import models, training
from hlf_np.data.dataset import Split
from hlf_np.data.fonts import Difficulty, Fonts
from hlf_np.optim import AdamConfig

# Reasons to skip a test that are no missing software.
EXCUSES = ("HLF_IDX_DATA", "without compilation", "nothing is compiled", "the baseline has no")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--nothing-skipped", action="store_true", help="fail tests that are skipped for missing software")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a skipped test if nothing may be skipped."""
    return _unless_allowed(item.config, (yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Fail a file of tests that is skipped as a whole if nothing may be skipped."""
    return _unless_allowed(collector.config, (yield))


def _unless_allowed(config: pytest.Config, report: Any) -> Any:
    if report.skipped and config.getoption("--nothing-skipped") and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr)
        if not any(excuse in reason for excuse in EXCUSES):
            report.outcome, report.longrepr = "failed", f"this test must not be skipped: {reason}"
    return report


# The same examples in every run: a failure here is a change of the code, not of the luck.
settings.register_profile("suite", derandomize=True, deadline=None, max_examples=40, database=None)
settings.load_profile("suite")


@pytest.fixture(scope="session")
def fonts() -> Fonts:
    """A generator with 3 fonts of 10 classes: smooth blobs that differ by class and slightly by font."""
    random = np.random.default_rng(0)
    coarse = random.random((1, 10, 6, 6)) * 0.8 + random.random((3, 10, 6, 6)) * 0.2
    prototypes = np.zeros((3, 10, 28, 28), np.uint8)
    prototypes[:, :, 5:23, 5:23] = np.kron(coarse, np.ones((3, 3))) * 255
    return Fonts(prototypes, Difficulty.EASY, seed=1)


@pytest.fixture(scope="session")
def split(fonts: Fonts) -> Split:
    """150 training images, 15 of each class."""
    return fonts.split(np.arange(150))


def small_cnn(seed: int = 0) -> models.Model:
    """The paper's classifier with 4 and 8 channels."""
    return models.cnn(seed=seed, widths=(4, 8), hidden_units=12)


@pytest.fixture
def model() -> models.Model:
    """An untrained small CNN."""
    return small_cnn()


@pytest.fixture(scope="session")
def trained(split: Split) -> models.Model:
    """A small CNN that has learned most of `split`; not to be changed."""
    learned = small_cnn()
    config = training.TrainingConfig(epochs=4, batch_size=15, adam=AdamConfig(learning_rate=0.005))
    training.train(learned, split, config=config)
    return learned


@pytest.fixture
def threads():
    """A function that sets the number of threads; the number from before comes back at the end."""
    before = numba.get_num_threads()
    yield numba.set_num_threads
    numba.set_num_threads(before)


@pytest.fixture
def run_python():
    """A function that runs code in a new process with more environment variables, and returns what it prints."""

    def run(code: str, **environment: str) -> str:
        places = [str(Path(hlf_np.__file__).parents[1]), str(Path(__file__).parent)]
        variables = os.environ | {"PYTHONPATH": os.pathsep.join(places)} | environment
        done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return run


def run_once(factory, name, *arguments):
    """The results folder of a run, computed by the first worker that asks for it, and the process."""
    place = factory.getbasetemp()
    place = place.parent if "PYTEST_XDIST_WORKER" in os.environ else place  # which all workers share
    folder, done = place / name, place / f"{name}.pickle"
    with (place / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            done.write_bytes(pickle.dumps(command(*arguments, "--out", folder)))
    return folder, pickle.loads(done.read_bytes())


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory):
    """The folder of a finished smoke run, not to be changed, and the process."""
    return run_once(tmp_path_factory, "smoke", "run", "--preset", "smoke")


@pytest.fixture(scope="session")
def smoke(smoke_run):
    """The folder of a finished smoke run; not to be changed."""
    return smoke_run[0]


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    """The rows of a run of eight cells that nobody interrupted."""
    folder, done = run_once(tmp_path_factory, "uninterrupted", *EIGHT_CELLS)
    assert done.returncode == 0
    return numbers(folder)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The folder of a tiny run; not to be changed."""
    folder = tmp_path_factory.mktemp("finished") / "results"
    compute(folder)
    return folder


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of a tiny run."""
    return shutil.copytree(finished, tmp_path / "copy")
