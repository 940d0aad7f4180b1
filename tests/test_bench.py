"""`bench` measures what it says it measures."""

import json
import math
import runpy
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers import main

from hlf_np import models
from hlf_np.cli import benchmarks
from hlf_np.cli.benchmarks import TABLE_HEADER, TILE, BenchmarkResult, table_row
from hlf_np.kernels.products.tile import padded


@pytest.fixture
def once(monkeypatch):
    """Every task is timed once, so that nobody waits for medians."""

    def seconds(task):
        started = time.perf_counter()
        task()
        return time.perf_counter() - started

    monkeypatch.setattr(benchmarks, "median_seconds", seconds)


@pytest.mark.stress
def test_bench_has_every_kernel_attack_and_training(once):
    code, output, errors = main("bench", "--json", "--threads", 1)
    assert (code, errors) == (0, "")
    measured = {entry["name"]: entry for entry in json.loads(output)}
    # the CNN's first layer: 14 x 14 windows of 4 x 4 pixels, to 16 channels; the last: 3 x 3 x 64 inputs, 10 classes
    # that fill a vector
    images = models.cnn().program.capacity
    assert f"forward {14 * 14 * images} x 16 x 16" in measured
    assert f"forward {images} x 576 x {padded(10)}" in measured
    # the second layer, by Winograd's algorithm: 4 patches of an image; the 25 products of a block, 2 x 2 phases of 16
    # channels to 32, alone and with the transforms
    assert f"forward 25 times 24 x 64 x {padded(32)}" in measured
    assert f"forward convolution, {4 * images} patches" in measured
    attacked = {f"attack on {name}" for name in ("cnn", "mlp", "resnet (16)", "resnet (64)", "vgg")}
    assert attacked | {"multiply-adds (peak)", "training of cnn", "FONTS"} <= measured.keys()
    for entry in measured.values():
        assert entry["threads"] == 1
        assert math.isfinite(entry["rate"])
        assert entry["rate"] > 0
        assert entry["share"] is None or entry["share"] > 0


def test_bench_prints_a_line_for_each_measurement(monkeypatch):
    found = [BenchmarkResult("a kernel", 1, 1234.5, "GFLOP/s", 0.456), BenchmarkResult("images", 2, 70.0, "images/s")]
    monkeypatch.setattr(benchmarks, "measure", lambda threads: iter(found))
    code, output, errors = main("bench", "--threads", 1)
    assert (code, output, errors) == (0, "\n".join([TILE, TABLE_HEADER, *map(table_row, found), ""]), "")
    assert table_row(found[0]).split() == ["a", "kernel", "1", "1,234", "GFLOP/s", "46%"]


def table_rows(text):
    """Return the rows of numbers of all tables in Markdown, each without its first cell."""
    lines = [line.strip()[1:-1].split("|") for line in text.splitlines() if line.startswith("| ")]
    return {tuple(cell.strip() for cell in cells[1:]) for cells in lines if "." in cells[-1]}


def test_the_tables_of_the_papers_grid_follow_from_its_numbers():
    """What its README says of claims and of a single seed is not checked."""
    folder = Path(__file__).parents[1] / "bench"
    result = CliRunner().invoke(runpy.run_path(str(folder / "paper_tables.py"))["main"], [str(folder / "paper")])
    assert result.exit_code == 0, result.output
    sections = (folder / "paper" / "README.md").read_text(encoding="utf-8").split("\n## ")
    checked = [
        s
        for s in sections
        if s.startswith(("Robustness costs", "Beside the paper", "Samples or an adversary", "Both at once"))
    ]
    shown = set.union(*map(table_rows, checked))
    assert len(checked) == 4
    assert len(shown) > 20
    assert shown <= table_rows(result.output)
