"""Kill workers, schedulers and runs at random instants, and see that nothing is lost and nothing is computed twice.

    python tests/kill_workers.py --kills 50

Starts a Dask scheduler and workers on this machine, runs a small grid by them, kills one of them every few seconds,
repeats the run whenever it ends with a message, and compares the results with those of an undisturbed run. Prints what
was killed and what the runs said.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import click
import numpy as np
from helpers import command, numbers, start

import hlf_np

GRID = (
    *("run", "--preset", "smoke", "--sizes", "20,40,60", "--seeds", "2"),
    *("--trainings", "normal,adversarial,on_true_manifold_adversarial"),
)
FATES = ("worker", "worker", "worker", "worker", "scheduler", "run")  # what is killed, equally likely each


def free_port() -> int:
    """Return a port of this machine on which nothing listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class DaskCluster:
    """A scheduler and workers with one thread each, as processes of this machine. A context manager."""

    def __init__(self, folder: Path, workers: int) -> None:
        self.folder, self.port = folder, free_port()
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.logs = 0
        self.scheduler = self.start_scheduler()
        self.workers = [self.start_worker() for _ in range(workers)]

    def __enter__(self) -> DaskCluster:
        return self

    def __exit__(self, *error: object) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()

    def dask(self, *arguments: object, **variables: str) -> subprocess.Popen[bytes]:
        """Start a program of Dask that finds this package."""
        self.logs += 1
        places = os.pathsep.join([str(Path(hlf_np.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {"PYTHONPATH": places} | variables
        with (self.folder / f"dask-{self.logs}.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "distributed.cli.dask_" + str(arguments[0]), *map(str, arguments[1:])],
                env=environment,
                cwd=self.folder,  # Python looks for packages here before it does in PYTHONPATH
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def start_scheduler(self) -> subprocess.Popen[bytes]:
        """Start the scheduler, and wait until it listens."""
        process = self.dask("scheduler", "--host", "127.0.0.1", "--port", self.port, "--no-dashboard")
        for _ in range(600):
            with socket.socket() as attempt:
                if attempt.connect_ex(("127.0.0.1", self.port)) == 0:
                    return process
            time.sleep(0.05)
        raise TimeoutError("the scheduler does not start")

    def start_worker(self, **variables: str) -> subprocess.Popen[bytes]:
        """Start a worker."""
        place = self.folder / f"worker-{self.logs}"
        options = ("--nthreads", 1, "--no-nanny", "--no-dashboard", "--local-directory", place)
        return self.dask("worker", self.address, *options, **variables)

    def kill_worker(self, index: int) -> None:
        """Kill a worker, and start another one in its place."""
        self.workers[index].kill()
        self.workers[index].wait()
        self.workers[index] = self.start_worker()

    def kill_scheduler(self) -> None:
        """Kill the scheduler and start it anew, with new workers: the old ones end when they lose it."""
        self.scheduler.kill()
        self.scheduler.wait()
        self.scheduler = self.start_scheduler()
        for index in range(len(self.workers)):
            self.kill_worker(index)


def survive(folder: Path, kills: int, workers: int, seed: int = 0, pause: float = 6.0) -> Counter[str]:
    """Run a grid again and again until a number of kills is reached; return what was killed and what was said.

    Each finished run is compared with an undisturbed one.
    """
    random, said = np.random.default_rng(seed), Counter[str]()
    undisturbed = command(*GRID, "--out", folder / "undisturbed")
    assert undisturbed.returncode == 0, undisturbed.stderr
    expected = numbers(folder / "undisturbed")
    with DaskCluster(folder, workers) as cluster:
        run = 0
        while kills > 0 or said["runs"] == 0:
            out = folder / str(run)
            kept = {path.name: path.read_bytes() for path in out.glob("cells/*.npz")}
            process = start(*GRID, "--scheduler", cluster.address, "--out", out)
            while True:
                try:
                    _, errors = process.communicate(timeout=random.uniform(0.5, pause) if kills > 0 else None)
                    break
                except subprocess.TimeoutExpired:
                    fate = str(random.choice(FATES))
                    kills, said[f"{fate} killed"] = kills - 1, said[f"{fate} killed"] + 1
                    if fate == "worker":
                        cluster.kill_worker(int(random.integers(workers)))
                    elif fate == "scheduler":
                        cluster.kill_scheduler()
                    else:
                        process.kill()
            lines = [line for line in errors.splitlines() if not line.startswith("Scheduler ")]
            for name, content in kept.items():
                assert (out / "cells" / name).read_bytes() == content, f"{name} was computed twice"
            if process.returncode == 0:
                assert lines == [], lines
                assert numbers(out) == expected, "other results"
                said["runs"] += 1
                run += 1
            elif process.returncode != -signal.SIGKILL:
                assert process.returncode == 2 and len(lines) == 1, (process.returncode, lines)  # noqa: PT018
                said[lines[0].partition(" (")[0].partition(": finished")[0]] += 1
    return said


@click.command()
@click.option("--kills", default=50, show_default=True)
@click.option("--workers", default=3, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(kills: int, workers: int, seed: int) -> None:
    """Kill workers, schedulers and runs at random instants; see the top of this file."""
    with tempfile.TemporaryDirectory() as folder:
        for what, count in survive(Path(folder), kills, workers, seed).items():
            print(f"{count:4d}  {what}")


if __name__ == "__main__":
    main()
