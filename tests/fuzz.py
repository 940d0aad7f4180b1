"""Thousands of random networks: `python tests/fuzz.py --count 10000 --first 0 --workers 2`, or `make fuzz ARGS=...`.

Networks are checked in worker processes, so that a crash or a hang is reported like any other failure.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import numba
from comparisons import Difference
from differential import check
from misfits import check_misfit, misfit
from networks import random_network
from reduction import reduced

TIMEOUT_SECONDS = 120  # for one network; the first ones of a worker also load compiled kernels


def examine(seed: int, misfits: bool, shrink: bool) -> tuple[str, str, str]:
    """Check one network; return the outcome, and the kind and description of the failure, if any."""
    try:
        return (check_misfit(misfit(seed)) if misfits else check(random_network(seed), seed)), "", ""
    except Difference as difference:
        text = str(difference)
        if shrink and not misfits:
            text = f"{text}\n    reduced: {reduced(random_network(seed), seed, difference.kind)}"
        return "wrong", difference.kind, text


def work(connection: Connection, threads: int) -> None:
    """Answer requests until None arrives."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    while (request := connection.recv()) is not None:
        connection.send(examine(*request))


@dataclass
class Worker:
    """A process, and the seed that it is working on."""

    threads: int
    process: BaseProcess = field(init=False)
    connection: Connection = field(init=False)
    seed: int | None = None
    since: float = 0.0

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")  # a forked process would lack the threads that OpenMP expects
        self.connection, other = context.Pipe()
        self.process = context.Process(target=work, args=(other, self.threads), daemon=True)
        self.process.start()
        other.close()

    def ask(self, seed: int, misfits: bool, shrink: bool) -> None:
        self.seed, self.since = seed, time.monotonic()
        self.connection.send((seed, misfits, shrink))

    def answer(self) -> tuple[str, str, str]:
        """Return the result; restart the process if it has died."""
        try:
            return self.connection.recv()
        except EOFError:
            self.process.join()
            code = self.process.exitcode or 0
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            self.start()
            return "wrong", "crash", f"crash: the process ended by {name}"

    def stop(self) -> None:
        self.process.kill()
        self.process.join()


def answers(
    first: int, count: int, workers: int, threads: int, misfits: bool, shrink: bool
) -> Iterator[tuple[int, str, str, str]]:
    """Yield seed, outcome, kind and description of each network, in the order of completion."""
    team = [Worker(threads) for _ in range(min(workers, count))]
    seeds = iter(range(first, first + count))
    draw = misfit if misfits else random_network
    try:
        for worker in team:
            worker.ask(next(seeds), misfits, shrink)
        while busy := [worker for worker in team if worker.seed is not None]:
            ready = wait([worker.connection for worker in busy], timeout=1)
            for worker in busy:
                late = time.monotonic() - worker.since > TIMEOUT_SECONDS
                if worker.connection in ready:
                    outcome, kind, text = worker.answer()
                elif late:
                    worker.stop()
                    worker.start()
                    outcome, kind, text = "wrong", "hang", f"hang: not done after {TIMEOUT_SECONDS} seconds"
                else:
                    continue
                if kind in ("crash", "hang"):
                    text += f"\n    in {draw(worker.seed).description}"
                yield worker.seed, outcome, kind, text
                worker.seed = None
                if (seed := next(seeds, None)) is not None:
                    worker.ask(seed, misfits, shrink)
    finally:
        for worker in team:
            worker.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="number of networks")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="number of processes")
    parser.add_argument("--threads", type=int, default=1, help="threads of each process")
    parser.add_argument(
        "--misfits", action="store_true", help="check that networks that do not fit together are refused"
    )
    parser.add_argument(
        "--reduce", action="store_true", dest="shrink", help="look for a smaller network with the same failure"
    )
    options = parser.parse_args()
    for library in ("OMP", "OPENBLAS", "MKL"):  # their threads would compete with the other workers
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")
    outcomes: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    started = shown = time.monotonic()
    for seed, outcome, kind, text in answers(**vars(options)):
        outcomes[outcome] += 1
        if outcome == "wrong":
            kinds[kind] += 1
            print(f"[{seed}] {text}", flush=True)
        if time.monotonic() - shown > 10:
            shown = time.monotonic()
            print(f"{outcomes.total()} of {options.count}: {summary(outcomes)}", file=sys.stderr, flush=True)
    seconds = time.monotonic() - started
    print(f"{outcomes.total()} networks in {seconds:.0f} seconds: {summary(outcomes)}")
    for kind, count in kinds.most_common():
        print(f"{count:6} {kind}")
    return 1 if outcomes["wrong"] else 0


def summary(outcomes: Counter[str]) -> str:
    return ", ".join(f"{outcomes[name]} {name}" for name in ("compiled", "autodiff", "refused", "wrong"))


if __name__ == "__main__":
    sys.exit(main())
