"""Compare this package with PyTorch on the same networks, weights, batches and numbers of steps.

    python bench/compare.py [--threads 2] [--rounds 9] [--only attack-cnn] [--compile]

Each contender runs in its own process, and only one process computes at a time. In every round, each task is run by all
contenders in turn, so that a slow minute of the machine affects all of them. Prints the median times over the rounds,
the ratios of the medians, and the interquartile range of the ratios of single rounds. Requires PyTorch; Foolbox,
torchattacks and ART are compared on the CNN attack if they are installed.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import statistics
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection

import click
import numpy as np
from tasks import TASKS, Task
from tasks_hlf_np import hlf_np_task
from tasks_torch import attack_library, torch_task

MIN_SECONDS = 0.5  # for which a task is repeated per contender and round, after one warm-up call
PYTORCH = ("torch", "torch channels_last", "torch.compile")


def contenders(compile_too: bool) -> dict[str, Callable[[str, int], Task | None]]:
    """Return the functions that prepare the tasks, by the name of the contender; the first is this package."""
    functions: dict[str, Callable[[str, int], Task | None]] = {"hlf_np": hlf_np_task}
    if importlib.util.find_spec("torch"):
        functions["torch"] = torch_task
        functions["torch channels_last"] = partial(torch_task, channels_last=True)
        if compile_too:
            functions["torch.compile"] = partial(torch_task, compiled=True)
        libraries = ("foolbox", "torchattacks", "art")
        functions |= {name: partial(attack_library, name) for name in libraries if importlib.util.find_spec(name)}
    return functions


def worker(make: Callable[[str, int], Task | None], threads: int, parent: Connection) -> None:
    """Receive names of tasks until None, and answer each with its mean seconds; None if there is no such task."""
    tasks: dict[str, Task | None] = {}
    while (name := parent.recv()) is not None:
        if name not in tasks:
            tasks[name] = make(name, threads)
        task = tasks[name]
        if task is None:
            parent.send(None)
            continue
        task()  # warm-up: compilation and caches
        started, count = time.perf_counter(), 0
        while time.perf_counter() - started < MIN_SECONDS:
            task()
            count += 1
        parent.send((time.perf_counter() - started) / count)


@click.command()
@click.option("--threads", default=2, show_default=True, help="Number of threads.")
@click.option("--rounds", default=9, show_default=True, help="Number of rounds.")
@click.option("--only", default="", help="Run only tasks whose names contain this text.")
@click.option("--compile", "compile_too", is_flag=True, help="Also compare torch.compile (requires a C++ compiler).")
def main(threads: int, rounds: int, only: str, compile_too: bool) -> None:
    """Print median times and their ratios."""
    context = multiprocessing.get_context("spawn")
    connections: dict[str, Connection] = {}
    for name, make in contenders(compile_too).items():
        parent, child = context.Pipe()
        context.Process(target=worker, args=(make, threads, child), daemon=True).start()
        child.close()  # so that `recv` fails if the process has died
        connections[name] = parent
    tasks = [task for task in TASKS if only in task]
    seconds: dict[str, dict[str, list[float]]] = {task: {} for task in tasks}
    for index in range(rounds):
        click.echo(f"round {index + 1} of {rounds}", err=True)
        for task in tasks:
            for name, connection in connections.items():
                connection.send(task)
                if (duration := connection.recv()) is not None:
                    seconds[task].setdefault(name, []).append(duration)
    click.echo(f"{threads} threads, medians of {rounds} rounds; ratio: fastest PyTorch variant / hlf_np (quartiles)\n")
    for task, times in seconds.items():
        click.echo(f"{task:<24} {_format_ratio(times)}   {_format_medians(times)}")
    for connection in connections.values():
        connection.send(None)


def _format_ratio(seconds: dict[str, list[float]]) -> str:
    """Format the ratio of median times, fastest PyTorch variant over this package, and its quartiles over rounds."""
    variants = [np.array(times) for name, times in seconds.items() if name in PYTORCH]
    if not variants:
        return "-"
    own, best = np.array(seconds["hlf_np"]), min(variants, key=np.median)
    low, high = np.quantile(best / own, (0.25, 0.75))
    return f"{np.median(best) / np.median(own):6.2f}x ({low:.2f}-{high:.2f})"


def _format_medians(seconds: dict[str, list[float]]) -> str:
    return "  ".join(f"{name} {1000 * statistics.median(times):.2f} ms" for name, times in seconds.items())


if __name__ == "__main__":
    main()
