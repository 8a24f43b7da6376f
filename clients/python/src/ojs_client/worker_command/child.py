"""One process of ``ojs-worker``: runs a worker, reports to the supervisor, and obeys it.

Requests come over a pipe, because Windows has no signal that a process can handle. The end of the
pipe means that the supervisor has died: the worker drains.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from threading import Thread
from typing import Final

import anyio
from anyio.from_thread import BlockingPortal

from ojs_client.errors import ApiError, ends_worker
from ojs_client.worker import stop_signals
from ojs_client.worker.ending import end_process
from ojs_client.worker.held_jobs import HeldJob
from ojs_client.worker.memory import resident_bytes
from ojs_client.worker.program import refusal_line
from ojs_client.worker.signal import Signal
from ojs_client.worker.worker import Worker
from ojs_client.worker_command.arguments import Options
from ojs_client.worker_command.links import CANNOT_START, RECYCLED, REPORT_S, Request, can_send
from ojs_client.worker_command.logs import configure
from ojs_client.worker_command.metrics import Counts, Report
from ojs_client.worker_command.target import load

log: Final = logging.getLogger("ojs_client.worker")

_THREADS_END_S: Final = 10.0
"""Time in seconds that threads of the application have to end after the worker."""
_IDLE_CHECK_S: Final = 0.05
"""Time in seconds between two checks whether a process that must be replaced is idle."""


def run(options: Options, number: int, max_jobs: int | None, link: Connection) -> None:
    """Run a worker, and exit with a code that tells the supervisor what to do.

    Args:
        options: the command line.
        number: the number of this process.
        max_jobs: number of jobs after which it must be replaced; None for no limit.
        link: the connection to the supervisor.
    """
    if hasattr(os, "setsid"):
        os.setsid()  # the supervisor gets the Ctrl-C of a terminal, and tells when to stop
    else:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    configure(options.log_level, options.log_format, f"worker-{number}")
    code = 1
    try:
        code = _run(options, number, max_jobs, link)
    finally:
        Thread(target=_end_anyway, args=(code,), daemon=True).start()
    sys.exit(code)


def _run(options: Options, number: int, max_jobs: int | None, link: Connection) -> int:
    try:
        worker = load(options.target, options.worker, number if options.processes > 1 else None)
    except (Exception, SystemExit):
        log.exception("%s cannot be loaded", options.target)
        return CANNOT_START
    try:
        return _Child(worker, options, max_jobs, link).run()
    except Exception:
        log.exception("the worker has failed")
        return 1


def _end_anyway(code: int) -> None:
    """End the process after a while, although threads of the application go on."""
    time.sleep(_THREADS_END_S)
    log.warning("threads of the application do not end: exits without them")
    end_process(code)


class _Child:
    def __init__(
        self, worker: Worker, options: Options, max_jobs: int | None, link: Connection
    ) -> None:
        self._worker = worker
        self._options = options
        self._max_jobs = max_jobs
        self._link = link
        self._counts = Counts()
        self._jobs = 0
        self._stopping = False
        self._recycling = Signal()
        self._refused = False
        worker.view.on_attempt = self._count
        worker.view.exit_code = 0

    def run(self) -> int:
        """Run the worker; return the exit code of the process."""
        try:
            self._worker.run(self._options.backend, main=self._main)
        finally:
            self._report()
        if self._refused:
            return CANNOT_START
        return RECYCLED if self._recycling.is_set() and not self._stopping else 0

    async def _main(self) -> None:
        async with BlockingPortal() as portal, anyio.create_task_group() as group:
            listener = Thread(target=self._listen, args=(portal,), name="ojs-listener", daemon=True)
            listener.start()
            group.start_soon(self._watch)
            group.start_soon(stop_signals.watch, self._stop_on_signal, [signal.SIGTERM])
            try:
                await self._worker.serve()
            except ApiError as error:  # a task group would wrap it
                if not ends_worker(error):  # as of a lifespan of the application
                    raise
                log.error("%s", refusal_line(self._worker.view.url, error))  # noqa: TRY400
                self._refused, self._worker.view.exit_code = True, CANNOT_START
            finally:
                group.cancel_scope.cancel()

    def _listen(self, portal: BlockingPortal) -> None:
        """Pass on the requests of the supervisor, in a thread."""
        with suppress(RuntimeError):  # the event loop has ended
            try:
                while True:
                    portal.call(self._obey, self._link.recv())
            except (EOFError, OSError):
                portal.call(self._obey, "stop")

    def _obey(self, request: Request) -> None:
        if not self._stopping:
            self._worker.stop()
        if request == "abort":
            self._worker.stop()
        self._stopping = True
        self._worker.view.exit_code = 0

    def _stop_on_signal(self, number: signal.Signals) -> None:
        log.info("%s: drains", number.name)
        self._obey("stop")

    def _count(self, job: HeldJob, run_s: float) -> None:
        self._counts.add(job.members["type"], job.outcome, run_s)
        self._jobs += 1
        if self._max_jobs is not None and self._jobs >= self._max_jobs:
            self._recycle(f"it has run {self._jobs} jobs")

    def _recycle(self, why: str) -> None:
        """Fetch no more. The process ends when its jobs have ended, which have no time limit."""
        if not (self._recycling.is_set() or self._stopping):
            log.info("this process is replaced: %s", why)
            self._recycling.set()
            self._worker.view.exit_code = RECYCLED
            self._report()  # a handler that does not end prevents the last one
            self._worker.quiet()

    async def _watch(self) -> None:
        while True:
            self._report()
            limit, memory = self._options.max_memory, resident_bytes()
            if limit is not None and memory is not None and memory > limit:
                self._recycle(f"it uses {memory >> 20} MiB of memory")
            with anyio.move_on_after(REPORT_S):
                await self._recycling.wait()
                while self._worker.held:  # noqa: ASYNC110 - it ends within a moment
                    await anyio.sleep(_IDLE_CHECK_S)
                self._worker.stop()
                await anyio.sleep_forever()

    def _report(self) -> None:
        view = self._worker.view
        report = Report(
            self._counts,
            view.grace_s,
            view.running,
            view.waiting,
            self._worker.held,
            view.loop_lag_s,
            resident_bytes(),
        )
        with suppress(OSError):  # the supervisor has died
            if can_send(self._link):
                self._link.send(report)
