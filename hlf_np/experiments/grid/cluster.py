"""Computing cells on several machines, by workers that anybody attaches to a scheduler of Dask.

`dask scheduler` and `dask worker` are Dask's own programs, as are those that start workers on Slurm or Kubernetes; here
is only what a run asks of them. Dask gives cells to idle workers, the first submitted first, gives those of a lost
worker to others, up to three times, and then gives up a cell. What all cells share is a task of its own: Dask moves
its result to each worker once, and makes it again if it is lost.

A cell uses all threads of its worker, so a worker must compute one at a time. To that end every worker gets one unit of
a *resource*, which each cell needs, when it joins. A worker with another version of this package, or other letters,
does not get it, so it never computes a cell.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, ClassVar

from hlf_np.data.fonts import prototypes_digest
from hlf_np.data.source import Source
from hlf_np.experiments.configuration.config import RunConfig
from hlf_np.experiments.grid.prepare import SharedModels
from hlf_np.experiments.grid.processes import Message, Submit
from hlf_np.experiments.grid.work import SentWork, compute_cell
from hlf_np.experiments.storage.store import CellFiles, Store
from hlf_np.support.errors import UserError
from hlf_np.support.threads import max_threads, use_threads
from hlf_np.support.version import code_version

if TYPE_CHECKING:
    from distributed import Client, Security, Worker, WorkerPlugin

CONNECTION_SECONDS = 20
# Dask's and Tornado's, which would explain a lost connection at length; `run_grid` does in one line.
LOGGERS = ("distributed", "distributed.client", "distributed.core", "tornado.application")


@dataclass(frozen=True)
class Cluster:
    """The workers of a Dask scheduler.

    Parameters
    ----------
    scheduler : str
        Its address, such as "tcp://192.168.1.7:8786".
    ca_file, certificate, key : Path, optional
        Files for TLS, as Dask's programs take them; needed for "tls://" addresses.

    Raises
    ------
    UserError
        If Dask is not installed, or files for TLS are missing.
    """

    reassigns: ClassVar[bool] = True

    scheduler: str
    ca_file: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        try:
            import distributed  # noqa: F401
        except ImportError:
            raise UserError("--scheduler needs Dask: pip install 'hlf_np[cluster]'") from None
        files = (self.ca_file, self.certificate, self.key)
        if self.scheduler.startswith("tls:") and not all(files):
            raise UserError("a scheduler at tls:// needs --tls-ca-file, --tls-cert and --tls-key")
        for path in files:
            if path and not path.is_file():
                raise UserError(f"there is no file {str(path)!r}: give the path of a certificate or key")

    @property
    def lost(self) -> tuple[type[BaseException], ...]:
        """What the future of a cell raises that Dask has given up."""
        from distributed.scheduler import KilledWorker

        return (KilledWorker,)

    def _security(self) -> Security | None:
        from distributed import Security

        files = {"tls_ca_file": self.ca_file, "tls_client_cert": self.certificate, "tls_client_key": self.key}
        given = {name: str(path) for name, path in files.items() if path}
        return Security(require_encryption=True, **given) if given else None

    def connect(self) -> Client:
        """Return a connection to the scheduler.

        Raises
        ------
        UserError
            If it cannot be reached.
        """
        from distributed import Client
        from distributed.comm import connect

        for name in LOGGERS:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        security = self._security()

        async def reach() -> None:  # beforehand, as a client that fails to connect is slow to give up
            arguments = security.get_connection_args("client") if security else {}
            comm = await connect(self.scheduler, timeout=CONNECTION_SECONDS, **arguments)
            await comm.close()

        try:
            asyncio.run(reach())
            return Client(self.scheduler, security=security, timeout=CONNECTION_SECONDS, set_as_default=False)
        except Exception as error:  # of the system, of TLS, of Dask or of Tornado
            reason = str(error).partition("\n")[0].partition(" Instead got")[0] or type(error).__name__
            raise UserError(
                f"cannot reach the scheduler {self.scheduler} ({reason}): start one with `dask scheduler`, or check the"
                " address and the certificates"
            ) from None

    @contextmanager
    def start(
        self, config: RunConfig, source: Source, shared: SharedModels, store: Store, messages: SimpleQueue[Message]
    ) -> Iterator[Submit]:
        """Connect to the scheduler; parameters are those of `LocalProcesses.start`.

        Raises
        ------
        UserError
            If it cannot be reached.
        """
        work = SentWork.of(config, source, shared)
        name = f"hlf_np-{hashlib.sha256(work.content).hexdigest()[:16]}"
        with self.connect() as client:
            try:
                client.subscribe_topic(name, lambda event: messages.put(tuple(event[1])))
                client.register_plugin(
                    _acceptance(code_version(), prototypes_digest(), name), name=f"{name}-acceptance"
                )
                has_dashboard = "dashboard" in client.scheduler_info()["services"]
                sent = client.submit(_received, work, key=name)
            except (OSError, TimeoutError) as error:
                raise UserError(f"the connection to {self.scheduler} is lost ({error}): repeat the command") from None
            dashboard = f", dashboard {client.dashboard_link}" if has_dashboard else ""
            messages.put((f"Scheduler {self.scheduler}{dashboard}", "", 0))
            executor = client.get_executor(resources={_resource(code_version(), prototypes_digest()): 1}, pure=False)
            try:
                yield lambda index: executor.submit(_compute, sent, index, name)
            finally:
                executor.shutdown(wait=False)


def _resource(version: str, prototypes: str) -> str:
    """Return the name of the resource of workers with a version of this package and prototypes of FONTS."""
    return f"hlf_np {version} {prototypes}"


def _acceptance(version: str, prototypes: str, topic: str) -> WorkerPlugin:
    """Return what is executed on every worker, now or when it joins: it gets the resource if it is the right one."""
    from distributed import WorkerPlugin

    resource = _resource(version, prototypes)

    class Acceptance(WorkerPlugin):  # type: ignore[misc]  # local, so that it is sent as it is
        async def setup(self, worker: Worker) -> None:
            try:
                from hlf_np.data.fonts import prototypes_digest as digest
                from hlf_np.support.version import code_version

                found_version, found_prototypes = code_version(), digest()
                found = f"version {found_version} of hlf_np"
            except ImportError:
                found, found_prototypes, found_version = "no hlf_np, or an old one", "", ""
            if (found_version, found_prototypes) == (version, prototypes):
                await worker.set_resources(**{resource: 1})
                return
            if found_version == version:
                found = "other letters of FONTS"
            refusal = f"Worker {worker.address} is refused, as it has {found}: install version {version} there"
            worker.log_event(topic, (refusal, "", 0.0))

    return Acceptance()


# --- on the workers -------------------------------------------------------------------------------------------


def _received(work: SentWork) -> SentWork:
    """Return what all cells share; the result of this task is kept by each worker that needs it."""
    return work


def _compute(work: SentWork, index: int, topic: str) -> CellFiles:
    """Compute a cell on a worker, and report its progress."""
    from distributed import get_worker

    worker: Any = get_worker()
    use_threads(min(worker.state.nthreads, max_threads()))
    return compute_cell(work, index, lambda *message: worker.log_event(topic, message))
