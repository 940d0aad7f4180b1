"""Helpers that run the command line, read what it stores, and make up results."""

import contextlib
import csv
import io
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numba
import numpy as np

import hlf_np
from hlf_np import cli
from hlf_np.attacks import PGD
from hlf_np.data.fonts import LETTERS
from hlf_np.experiments.analysis.claims import evaluate_claims
from hlf_np.experiments.configuration.config import RunConfig
from hlf_np.experiments.grid.run import run_grid
from hlf_np.experiments.measurements import Subject, measure
from hlf_np.experiments.measurements.subject import collect
from hlf_np.experiments.results import Cell, CellResult, Examples
from hlf_np.experiments.storage.folder import open_store, versions
from hlf_np.manifolds import VaeConfig
from hlf_np.models.architectures import Architecture, Kind
from hlf_np.report.figures.draw import draw_figures
from hlf_np.report.page import page
from hlf_np.report.published import published
from hlf_np.trainings import ADVERSARIAL, NORMAL, Training

# A grid that takes a second: two trainings, two sizes, one seed.
TINY = RunConfig(
    trainings=(NORMAL, ADVERSARIAL),
    sizes=(10, 20),
    architecture=Architecture(Kind.CNN, (2, 4), hidden_units=4),
    epochs=1,
    training_attack=PGD(steps=1, stop_early=False),
    attack=PGD(steps=2, step_size=0.1, restarts=2),
    n_test=60,
    n_attacked=40,
    n_attacked_on_manifold=30,
    n_projected=10,
    n_neighbours=200,
    vae=VaeConfig(channels=(2, 2), latent_dimensions=3, epochs=1),
    n_vae=10,
    n_oracle=0,
)
EIGHT_CELLS = (
    *("run", "--preset", "smoke", "--sizes", "20,40", "--seeds", "2"),
    *("--trainings", "normal,on_true_manifold_adversarial"),
)
KINDS = ("regular", "on_true_manifold", "on_learned_manifold")  # of attacks that are measured


def start(*arguments: object, **settings: Any) -> subprocess.Popen[str]:
    """Start `python -m hlf_np` with the package of this checkout, and return the process."""
    places = [str(Path(hlf_np.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, places))}
    variables.pop("NUMBA_NUM_THREADS", None)  # set for this process; the command chooses its own
    return subprocess.Popen(
        [sys.executable, "-m", "hlf_np", *map(str, arguments)],
        **{"env": variables, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | settings,
    )


def command(*arguments: object, **settings: Any) -> subprocess.CompletedProcess[str]:
    """Run `python -m hlf_np`, and return its exit code, output and errors."""
    process = start(*arguments, **settings)
    output, errors = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def main(*arguments: object) -> tuple[int | str | None, str, str]:
    """Run the command line in this process, and return its exit code, output and errors."""
    output, errors = io.StringIO(), io.StringIO()
    terminate, threads = signal.getsignal(signal.SIGTERM), numba.get_num_threads()
    try:
        with (
            mock.patch("sys.argv", ["hlf_np", *map(str, arguments)]),
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(errors),
        ):
            cli.main()
        code: int | str | None = 0
    except SystemExit as ended:
        code = ended.code
    finally:
        signal.signal(signal.SIGTERM, terminate)
        numba.set_num_threads(threads)
    return code, output.getvalue(), errors.getvalue()


def listen() -> None:
    """Restore the default handling of signals in a new process, which inherits ignored signals."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def alive(process: int | str) -> bool:
    """Return whether a process with this id is running."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def workers_of(process: int) -> list[str]:
    """Return the worker processes of a run, without Python's resource tracker."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait until a process has done something."""
    while not condition():
        assert process.poll() is None, "the process ended too early"
        time.sleep(0.005)


def quiet(what: str, task: str, done: float) -> None:
    """Ignore progress."""


def compute(folder: Path, config: RunConfig = TINY) -> None:
    """Store the results that `run` stores, without a report."""
    with open_store(folder, config) as store:
        store.write_csv(run_grid(config, store, quiet))


def examined(*subject: Any, **others: Any) -> tuple[dict[str, float], Mapping[str, Examples], Mapping[str, Any]]:
    """Return all measurements, examples and distances of a model; parameters are those of `Subject`."""
    examination = Subject(*subject, **others)
    return measure(examination, examination.config.measurements), *collect(examination)


def peak(work: Callable[[], object]) -> int:
    """Run a function and return the peak of allocated memory, in bytes."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def rows(folder: Path) -> list[dict[str, str]]:
    """Return the rows of results.csv."""
    with (folder / "results.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def numbers(folder: Path) -> list[dict[str, str]]:
    """Return the rows of results.csv without the seconds, the only column that may differ between runs."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows(folder)]


def tree(folder: Path) -> dict[str, bytes]:
    """Return the content of every file in a folder, recursively, except for lock files."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def made_up(
    training: Training = NORMAL,
    n_train: int = 250,
    seed: int = 0,
    examples: int = 0,
    distances: Mapping[str, Any] | None = None,
    **measured: float,
) -> CellResult:
    """Return the result of a cell with given measurements and distances, and random images."""
    random = np.random.default_rng([n_train, seed])
    images = random.random((2, examples, 28, 28, 1), np.float32)
    labels = np.arange(examples)
    return CellResult(
        Cell(training, n_train, seed),
        {"test_error": 0.5, "seconds": 1.0} | measured,
        {kind: Examples(images[0], images[1], labels, (labels + 1) % 10) for kind in KINDS},
        {kind: np.asarray(values, np.float32) for kind, values in (distances or {}).items()},
    )


def report(results: list[CellResult], config: RunConfig = TINY, command: str = "python -m hlf_np run") -> str:
    """Return the HTML report of results, with the paper's results if the configuration is comparable."""
    paper = published(config)
    claims, pictures = evaluate_claims(results, paper), draw_figures(results, LETTERS, paper)
    return page(config, command, versions(), results, claims, pictures)


def made_up_grid(sizes: Iterable[int], seeds: int = 2, **settings: Any) -> list[CellResult]:
    """Return made-up results with a different random value for every measurement."""
    random = np.random.default_rng(0)
    columns = ["test_error", *(f"{kind}_success{which}" for kind in KINDS for which in ("", "_worst"))]
    return [
        made_up(training, size, seed, **{column: random.random() for column in columns}, **settings)
        for size in sizes
        for seed in range(seeds)
        for training in (NORMAL, ADVERSARIAL)
    ]


class Killed(BaseException):
    """Ends a test like a signal would."""


def with_and_without_compilation(run_python, folder, code):
    """Run code that saves arrays to a path, with compiled and with interpreted kernels; return both results."""
    results = []
    for disabled in ("0", "1"):
        out = str(folder / f"{disabled}.npz")
        run_python(code(out), NUMBA_DISABLE_JIT=disabled)
        with np.load(out) as stored:
            results.append(dict(stored))
    return results
