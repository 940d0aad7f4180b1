"""Names that are not UTF-8, and terminals that know little more than ASCII: everything is written all the same."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import command
from idx_makers import part_files, random_part, write_files

import hlf_np
from hlf_np.data import load_idx
from hlf_np.data.fonts.rendering import build_prototypes
from hlf_np.experiments.storage.folder import stored_config
from hlf_np.support.files import write_text

NAME = os.fsdecode(b"caf\xe9")  # of Latin-1's days
GRID = ("run", "--preset", "smoke", "--sizes", 20, "--trainings", "normal", "--vae-images", 0)


@pytest.fixture
def place(tmp_path):
    """A folder of such a name, with a dataset; the tests work beside it."""
    files = part_files("train", *random_part(30, side=12)) | part_files("t10k", *random_part(20, side=12))
    return write_files(tmp_path / NAME, files)


@pytest.mark.stress
@pytest.mark.parametrize(
    "encoding",
    [
        {"PYTHONIOENCODING": "utf-8"},
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=lambda encoding: " ".join(map("=".join, encoding.items())),
)
def test_commands_work_in_folders_whose_names_are_not_text(place, encoding):
    def ok(*arguments):
        done = command(*arguments, cwd=place.parent, env=environment)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    environment = os.environ | {"PYTHONPATH": str(Path(hlf_np.__file__).parents[1])} | encoding
    environment.pop("NUMBA_NUM_THREADS", None)
    results, data = f"{NAME}/results", ("--dataset", NAME)
    assert "results/report.html" in ok(*GRID, *data, "--out", results)
    before = (place / "results" / "report.html").read_bytes()
    assert b"--dataset &#x27;caf\\udce9&#x27;" in before
    assert before.decode("utf-8")
    assert stored_config(place / "results").path == os.path.join(place.parent, NAME)
    assert json.loads((place / "results" / "claims.json").read_bytes())
    ok("report", results)
    assert (place / "results" / "report.html").read_bytes() == before
    ok("train", *data, "--n-train", 20, "--epochs", 1, "--out", f"{NAME}/new.npz")
    ok("attack", f"{NAME}/new.npz", *data, "--images", 5, "--out", f"{NAME}/found.npz")
    assert {"new.npz", "found.npz"} <= {path.name for path in place.iterdir()}
    refused = command("evaluate", f"{NAME}/missing.npz", *data, cwd=place.parent, env=environment)
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)


def test_texts_are_always_utf8(tmp_path):
    write_text(tmp_path / NAME / "file.txt", f"größer {NAME}")
    assert (tmp_path / NAME / "file.txt").read_bytes() == "größer caf\\udce9".encode()


def test_datasets_and_source_of_such_names_are_read(place):
    assert load_idx(place).name == "caf"
    matplotlib = pytest.importorskip("matplotlib")
    shutil.copy(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", place / f"{NAME}.ttf")
    ((face,), rejected) = build_prototypes([place])
    assert (face.path, rejected) == (place / f"{NAME}.ttf", [])
    assert np.array([face.name]).tolist() == ["DejaVu Sans Book"]
