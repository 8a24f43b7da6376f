"""Keeps the processes of ``ojs-worker`` running, restarts them, and stops them in order."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Any, Final

from ojs_client.worker.stop_signals import STOP_SIGNALS
from ojs_client.worker_command.arguments import Options
from ojs_client.worker_command.entry import run_process
from ojs_client.worker_command.health import Health, Status, serve
from ojs_client.worker_command.links import CANNOT_START, RECYCLED, REPORT_S, Request
from ojs_client.worker_command.metrics import Counts, Report, exposition
from ojs_client.worker_command.reloading import source_times, watch_files

log: Final = logging.getLogger("ojs_client.worker")

_BACKOFF_MIN_S: Final = 0.5
_BACKOFF_MAX_S: Final = 30.0
_STABLE_AFTER_S: Final = 30.0
"""Time in seconds after which a process counts as stable: if it ends later, the shortest delay
applies again."""
_DRAIN_S: Final = 20.0
"""Time in seconds that a drain takes at most after the grace period."""
_SILENT_S: Final = 30.0
"""Time in seconds without a report after which a process counts as blocked."""
_POLL_S: Final = 1.0
"""Longest time in seconds that the main thread waits. On Windows no signal ends a wait."""


@dataclass(slots=True)
class _Slot:
    """A process that is kept running.

    Attributes:
        number: its number.
        process: the process; None while it does not run.
        link: the connection to it.
        started_at: when it was started, on the monotonic clock.
        start_at: when to start it, if it does not run; None for never.
        delay_s: delay before the last restart.
        report: its last report.
        reported_at: when it has sent it; minus infinity before the first.
        reloading: whether it was asked to end because files have changed.
    """

    number: int
    process: BaseProcess | None = None
    link: Connection | None = None
    started_at: float = 0.0
    start_at: float | None = 0.0
    delay_s: float = 0.0
    report: Report | None = None
    reported_at: float = -math.inf
    reloading: bool = False

    def send(self, request: Request) -> None:
        """Ask the process for something. One that has not begun has no jobs and just ends."""
        if self.process is None or self.link is None:
            return
        if self.report is None and os.name == "posix":
            self.process.terminate()
        try:
            self.link.send(request)
        except OSError:  # it has ended, which its thread reports
            log.debug("worker-%d has ended", self.number)


@dataclass(slots=True)
class Supervisor:
    """Runs the processes until a stop signal; call ``run`` once, in the main thread.

    Args:
        options: the command line.
    """

    options: Options
    _slots: list[_Slot] = field(default_factory=list)
    _events: SimpleQueue[Callable[[], None]] = field(default_factory=SimpleQueue)
    """What threads and signals want the main thread to do."""
    _counts: Counts = field(default_factory=Counts)
    """The attempts of processes that have ended."""
    _restarts: Counter[str] = field(default_factory=Counter)
    _lock: Lock = field(default_factory=Lock)
    """Held while numbers are changed that the health endpoint reads."""
    _signals: int = 0
    _stopping: bool = False
    _kill_at: float | None = None
    _exit_code: int = 0

    def run(self) -> int:
        """Run until a stop signal, and until all processes have drained.

        Returns:
            The exit code of the command.
        """
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_signal)
        self._slots = [_Slot(number) for number in range(self.options.processes)]
        if self.options.reload:
            self._in_thread(watch_files, ".", source_times("."), self._on_change)
        if self.options.health is not None:
            try:
                self._in_thread(serve(self.options.health, self._health, self._metrics))
            except OSError as error:
                log.error("port %d: %s", self.options.health[1], error.strerror)  # noqa: TRY400
                return CANNOT_START
        try:
            while self._has_work():
                self._start_due()
                try:
                    self._events.get(timeout=self._pause_s())()
                except Empty:
                    continue
        finally:
            self._kill()
        return self._exit_code

    # -- signals and files --------------------------------------------------------------------

    def _on_signal(self, number: int, _frame: Any) -> None:
        # The queue may be used by the code that the signal interrupts; `SimpleQueue` allows it.
        self._events.put(partial(self._obey, signal.Signals(number).name))

    def _obey(self, name: str) -> None:
        self._signals += 1
        if self._signals == 1:
            self._drain(name)
        elif self._signals == 2:
            log.warning("%s again: ends the handlers", name)
            self._ask("abort")
        else:
            self._kill()

    def _drain(self, why: str) -> None:
        if self._stopping:
            return
        self._stopping = True
        log.info("%s: drains %d processes", why, len(self._running()))
        graces = [slot.report.grace_s for slot in self._running() if slot.report]
        self._kill_at = time.monotonic() + max(graces, default=0.0) + _DRAIN_S
        self._ask("stop")

    def _ask(self, request: Request) -> None:
        for slot in self._slots:
            slot.start_at = None
            slot.send(request)

    def _kill(self) -> None:
        for slot in self._running():
            if slot.process is not None:
                log.warning("worker-%d is killed", slot.number)
                _kill_group(slot.process)

    def _on_change(self, path: str) -> None:
        self._events.put(partial(self._reload, path))

    def _reload(self, path: str) -> None:
        if self._stopping:
            return
        log.info("%s has changed: starts again", path)
        for slot in self._slots:
            slot.reloading = True
            slot.send("abort")  # a developer does not wait for jobs
            if slot.process is None:
                slot.start_at = 0.0

    # -- processes ----------------------------------------------------------------------------

    def _running(self) -> list[_Slot]:
        return [slot for slot in self._slots if slot.process is not None]

    def _has_work(self) -> bool:
        if self._kill_at is not None and time.monotonic() > self._kill_at:
            self._kill()
        waits = self.options.reload and not self._stopping
        return waits or any(slot.process or slot.start_at is not None for slot in self._slots)

    def _pause_s(self) -> float:
        times = [slot.start_at for slot in self._slots if slot.start_at is not None]
        return max(0.0, min([time.monotonic() + _POLL_S, *times]) - time.monotonic())

    def _start_due(self) -> None:
        for slot in self._slots:
            if slot.start_at is not None and slot.start_at <= time.monotonic():
                self._start(slot)

    def _start(self, slot: _Slot) -> None:
        context = multiprocessing.get_context("spawn")
        ours, its = context.Pipe()
        arguments = (self.options, slot.number, self._max_jobs(), its)
        process = context.Process(target=run_process, args=arguments, name=f"worker-{slot.number}")
        slot.report, slot.reloading, slot.start_at = None, False, None
        slot.reported_at = -math.inf
        try:
            process.start()
        except OSError as error:  # no memory, or too many processes
            ours.close()
            its.close()
            self._start_later(slot, f"{process.name} cannot be started ({error.strerror})")
            return
        its.close()  # else the end of the process would not end the pipe
        slot.process, slot.link, slot.started_at = process, ours, time.monotonic()
        self._in_thread(self._read, slot, process, ours)

    def _max_jobs(self) -> int | None:
        """Return a limit up to a tenth below the wanted one, so that not all end at once."""
        limit = self.options.max_jobs
        return limit and limit - random.randrange(limit // 10 + 1)  # noqa: S311 - no secret

    def _read(self, slot: _Slot, process: BaseProcess, link: Connection) -> None:
        """Read the reports of a process until it ends, in a thread."""
        try:
            while process.is_alive() or link.poll():
                if wait([link], REPORT_S):
                    self._events.put(partial(self._on_report, slot, link.recv()))
        except (EOFError, OSError):
            pass  # it has closed the pipe, so it ends
        process.join()
        self._events.put(partial(self._on_end, slot, process))

    def _on_report(self, slot: _Slot, report: Report) -> None:
        slot.report, slot.reported_at = report, time.monotonic()

    def _on_end(self, slot: _Slot, process: BaseProcess) -> None:
        if slot.link is not None:
            slot.link.close()
        with self._lock:
            counts = slot.report.counts if slot.report else Counts()
            self._counts.merge(counts)
            slot.process, slot.link, slot.report = None, None, None
        code, name = process.exitcode or 0, process.name
        if code < 0:
            _kill_group(process)  # handlers in child processes, whose jobs run again elsewhere
        if self._stopping:
            return
        if time.monotonic() - slot.started_at >= _STABLE_AFTER_S:
            slot.delay_s = 0.0
        if code == RECYCLED and not counts.jobs:
            self._start_later(slot, f"{name} has reached its limit before its first job")
        elif slot.reloading or code == RECYCLED:
            self._restarts["reload" if slot.reloading else "limit"] += 1
            slot.start_at, slot.delay_s = 0.0, 0.0
        elif code == CANNOT_START and self.options.reload:
            log.error("%s waits for a change of the files", name)
        elif code == CANNOT_START:
            self._exit_code = CANNOT_START
            self._drain(f"{name} cannot start")
        elif code == 0:
            log.info("%s has ended: the server has terminated it", name)
        else:
            self._start_later(slot, f"{name} {_ending(code)}")

    def _start_later(self, slot: _Slot, why: str) -> None:
        """Start a process again after a delay that doubles."""
        slot.delay_s = min(max(slot.delay_s * 2, _BACKOFF_MIN_S), _BACKOFF_MAX_S)
        slot.start_at = time.monotonic() + slot.delay_s
        self._restarts["crash"] += 1
        log.error("%s: starts again in %.1f s", why, slot.delay_s)

    # -- health -------------------------------------------------------------------------------

    def _health(self) -> Health:
        last = time.monotonic() - _SILENT_S
        alive = sum(slot.reported_at >= last for slot in self._running())
        working: Status = "ok" if alive else "failing"
        status = "draining" if self._stopping else working
        return Health(status, self.options.processes, alive)

    def _metrics(self) -> str:
        counts = Counts()
        with self._lock:
            counts.merge(self._counts)
            reports = {slot.number: slot.report for slot in self._slots if slot.report}
            restarts = dict(self._restarts)
        for report in reports.values():
            counts.merge(report.counts)
        return exposition(counts, reports, len(self._running()), restarts)

    def _in_thread(self, function: Callable[..., None], *arguments: Any) -> None:
        Thread(target=function, args=arguments, daemon=True).start()


def _kill_group(process: BaseProcess) -> None:
    """Kill a process with those of its handlers, as far as they are in its group."""
    if hasattr(os, "killpg") and process.pid is not None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # it has not begun, or all have ended
            pass
        else:
            return
    process.kill()


def _ending(code: int) -> str:
    if code >= 0:
        return f"has ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
