"""Runs by the workers of a Dask scheduler: the same bits, whoever dies, and refusals of one line."""

import shutil
import sys
from pathlib import Path

import pytest
from helpers import EIGHT_CELLS, command, listen, main, numbers, start, wait_until

import hlf_np
from hlf_np.support.version import code_version

pytest.importorskip("distributed", reason="Dask is not installed")
from kill_workers import DaskCluster, free_port, survive

pytestmark = pytest.mark.stress


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with DaskCluster(tmp_path_factory.mktemp("cluster"), workers=2) as cluster:
        yield cluster


def said(errors):
    """Return the lines of a run on the terminal, without the one that every run on a cluster has."""
    return [line for line in errors.splitlines() if not line.startswith("Scheduler tcp://")]


def test_workers_give_the_same_results_and_images_are_sent_to_them(cluster, tmp_path, uninterrupted, stored_images):
    done = command(*EIGHT_CELLS, "--scheduler", cluster.address, "--out", tmp_path / "fonts")
    assert (done.returncode, said(done.stderr)) == (0, [])
    assert numbers(tmp_path / "fonts") == uninterrupted
    grid = ("run", "--preset", "smoke", "--sizes", 20, "--trainings", "normal", "--vae-images", 0)
    for place, chosen in (("here", ()), ("there", ("--scheduler", cluster.address))):
        folder = shutil.copytree(stored_images, tmp_path / "images", dirs_exist_ok=True)
        assert command(*grid, "--dataset", folder, *chosen, "--out", tmp_path / place).returncode == 0
    assert numbers(tmp_path / "there") == numbers(tmp_path / "here")


@pytest.fixture(scope="module")
def stored_images(tmp_path_factory):
    """A folder of images that workers do not read."""
    import numpy as np
    from idx_makers import idx_bytes, write_files

    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for part, count in {"train": 60, "t10k": 210}.items():
        images, labels = random.integers(0, 256, (count, 12, 12)), np.arange(count) % 10
        files = {f"{part}-images-idx3-ubyte": idx_bytes(images), f"{part}-labels-idx1-ubyte": idx_bytes(labels)}
        write_files(folder, files)
    return folder


def test_an_interrupted_run_leaves_the_workers_and_goes_on(cluster, tmp_path, uninterrupted):
    folder = tmp_path / "results"
    process = start(*EIGHT_CELLS, "--scheduler", cluster.address, "--out", folder, preexec_fn=listen)
    wait_until(lambda: len(list(folder.glob("cells/*.npz"))) >= 1, process)
    process.terminate()
    _, errors = process.communicate()
    assert process.returncode == 130
    assert said(errors)[-1] == "Interrupted: finished work is stored; repeat the command to resume."
    assert all(worker.poll() is None for worker in cluster.workers)
    done = command(*EIGHT_CELLS, "--scheduler", cluster.address, "--out", folder)
    assert (done.returncode, said(done.stderr)) == (0, [])
    assert numbers(folder) == uninterrupted


def test_a_few_kills_at_random_instants(tmp_path):
    """`python tests/kill_workers.py --kills 50` does the same for longer."""
    assert survive(tmp_path, kills=4, workers=2)["runs"] >= 1


def test_a_worker_with_another_version_is_refused_and_computes_nothing(tmp_path, uninterrupted):
    other = shutil.copytree(
        Path(hlf_np.__file__).parent, tmp_path / "other" / "hlf_np", ignore=shutil.ignore_patterns("__pycache__")
    )
    fonts = Path(hlf_np.__file__).parents[1] / "fonts"
    shutil.copytree(fonts, tmp_path / "other" / "fonts", ignore=shutil.ignore_patterns("*.zip"))
    text = (other / "__init__.py").read_text()
    assert f'"{hlf_np.__version__}"' in text
    (other / "__init__.py").write_text(text.replace(f'"{hlf_np.__version__}"', '"99.0"'))
    with DaskCluster(tmp_path, workers=1) as cluster:
        cluster.workers.append(cluster.start_worker(PYTHONPATH=str(other.parent)))
        done = command(*EIGHT_CELLS, "--scheduler", cluster.address, "--out", tmp_path / "results")
    assert done.returncode == 0
    (refusal,) = said(done.stderr)
    assert refusal.startswith("Worker tcp://127.0.0.1:")
    assert "is refused, as it has version 99.0 (" in refusal
    assert refusal.endswith(f" of hlf_np: install version {code_version()} there")
    assert numbers(tmp_path / "results") == uninterrupted


def test_mistakes_are_one_line(tmp_path, monkeypatch):
    missing = ("--scheduler", f"tcp://127.0.0.1:{free_port()}")
    monkeypatch.setattr("hlf_np.experiments.grid.cluster.CONNECTION_SECONDS", 1)
    for arguments, message in (
        (missing, "cannot reach the scheduler tcp://127.0.0.1:"),
        (("--scheduler", "nonsense://x"), "cannot reach the scheduler nonsense://x"),
        ((*missing, "--jobs", 2), "--jobs has no effect with --scheduler"),
        (("--tls-key", "key.pem"), "--tls-key has no effect without --scheduler"),
        (("--scheduler", "tls://127.0.0.1:1"), "a scheduler at tls:// needs --tls-ca-file, --tls-cert and --tls-key"),
        ((*missing, "--tls-key", "no.pem"), "there is no file 'no.pem': give the path of a certificate or key"),
    ):
        code, _, errors = main(*EIGHT_CELLS, "--vae-images", 0, *arguments, "--out", tmp_path / "out")
        assert (code, errors.count("\n")) == (2, 1)
        assert message in errors
    monkeypatch.setitem(sys.modules, "distributed", None)
    code, _, errors = main(*EIGHT_CELLS, "--scheduler", "tcp://127.0.0.1:1", "--out", tmp_path / "out")
    assert (code, errors) == (2, "hlf_np: --scheduler needs Dask: pip install 'hlf_np[cluster]'\n")
