"""Keep a set of child processes running, and stop them in order.

``serve`` supervises the API processes, and ``dev`` also supervises a scheduler. The supervisor
restarts a child that ends, with growing delays. If a child exits with ``EXIT_CONFIG``, a restart
would not help. So the supervisor stops all children and exits with that code.

Children are started with fork and exec, because a forked trio program cannot continue. They inherit
the listening socket. Each child holds one end of a socket pair (``supervisor_link``), and stops
when the supervisor's end closes. So children do not outlive a supervisor that was killed.
"""

from __future__ import annotations

import logging
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

import trio

from ojs_cluster.server.config.load import EXIT_CONFIG
from ojs_cluster.server.supervision.stop_signals import stop_signals
from ojs_cluster.server.supervision.supervisor_link import HEARTBEAT, READY

log = logging.getLogger("ojs.supervisor")

BACKOFF_MIN_S = 0.1
BACKOFF_MAX_S = 10.0
STABLE_AFTER_S = 10.0
"""Time in seconds after which a running child counts as stable. If it ends later, it is restarted
with the shortest delay again."""
STARTING_WATCHDOG_FACTOR = 6
"""Factor by which the watchdog time is longer until a child is ready. A starting child cannot send
heartbeats while it imports modules and reads files."""
STARTING_WATCHDOG_MIN_S = 60.0
"""Minimum watchdog time in seconds until a child is ready. Children that start at the same time
slow each other down, and restarts would make that worse."""
_WATCHDOG_INTERVALS = 8
"""Number of intervals into which the watchdog time is divided. A child is killed if it sends
nothing in this many consecutive intervals."""


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """One child to keep running.

    Attributes:
        name: unique name of the child, for the log.
        module: module to run with ``python -m``. Its arguments are ``--name``, ``--control-fd`` and
            ``args``.
        env: all environment variables of the child.
        args: further arguments.
        pass_fds: descriptors that the child inherits under the same numbers.
        on_end: called each time the child has ended, before it is started again.
    """

    name: str
    module: str
    env: Mapping[str, str] = field(repr=False)
    args: tuple[str, ...] = ()
    pass_fds: tuple[int, ...] = ()
    on_end: Callable[[], None] = lambda: None


class Supervisor:
    """Runs children until a stop signal; call ``run`` once."""

    def __init__(
        self,
        specs: Sequence[ChildSpec],
        *,
        stop_timeout_s: float,
        watchdog_s: float = inf,
        listeners: Iterable[socket.socket] = (),
        forward_hangup: bool = False,
    ) -> None:
        """Prepare the supervisor; nothing starts yet.

        Args:
            specs: the children.
            stop_timeout_s: time from the stop signal to SIGKILL for remaining children.
            watchdog_s: watchdog time in seconds. A child whose event loop is blocked for this long
                is killed and restarted. Until the child is ready, the time is longer by
                ``STARTING_WATCHDOG_FACTOR``, and at least ``STARTING_WATCHDOG_MIN_S``.
            listeners: listening sockets that the children inherit. The supervisor closes its copies
                when it stops, so the port closes when the last child closes its copy.
            forward_hangup: whether SIGHUP is passed to the children; otherwise it stops everything.
        """
        self._specs = tuple(specs)
        self._stop_timeout_s = stop_timeout_s
        self._watchdog_s = watchdog_s
        self._listeners = tuple(listeners)
        self._forward_hangup = forward_hangup
        self._stopping = trio.Event()
        self._ready_names: set[str] = set()
        self._heartbeats_from: set[str] = set()
        """Names of children that have sent a heartbeat. Such a child handles signals."""
        self._processes: dict[str, trio.Process] = {}
        self._exit_code = 0
        self.all_ready = trio.Event()
        """Set once every child has reported that it works."""

    async def run(self) -> int:
        """Run until a stop signal or a child that refuses its configuration.

        Returns:
            The exit code of the whole command.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._handle_signals)
            async with trio.open_nursery() as children:
                for spec in self._specs:
                    children.start_soon(self._keep_running, spec)
                await self._stopping.wait()
                for listener in self._listeners:
                    listener.close()
                self._signal_all(signal.SIGTERM)
                nursery.start_soon(self._kill_after_timeout)
            nursery.cancel_scope.cancel()
        return self._exit_code

    def stop(self) -> None:
        """Start the stop, as the first SIGTERM does."""
        self._stopping.set()

    async def wait_stopping(self) -> None:
        """Wait until the stop begins. The children still run then."""
        await self._stopping.wait()

    # -- signals ------------------------------------------------------------------------------

    async def _handle_signals(self) -> None:
        forwarded = {signal.SIGHUP} if self._forward_hangup else set()
        with trio.open_signal_receiver(*{*stop_signals(), *forwarded}) as received:
            async for number in received:
                name = signal.Signals(number).name
                if number in forwarded:
                    self._forward_hangup_to_children()
                elif self._stopping.is_set():
                    log.warning("received %s again: killing the children", name)
                    self._signal_all(signal.SIGKILL)
                else:
                    log.info("received %s: draining", name)
                    self.stop()

    def _forward_hangup_to_children(self) -> None:
        """Send SIGHUP to the children that handle signals; it would end any other child."""
        for name in self._heartbeats_from & self._processes.keys():
            self._processes[name].send_signal(signal.SIGHUP)

    def _signal_all(self, number: signal.Signals) -> None:
        for process in self._processes.values():
            process.send_signal(number)  # does nothing if the process has ended

    async def _kill_after_timeout(self) -> None:
        """Send SIGKILL to all children after the timeout; cancelled when every child has ended."""
        await trio.sleep(self._stop_timeout_s)
        for name in self._processes:
            log.warning("%s did not stop in time: killing it", name)
        self._signal_all(signal.SIGKILL)

    # -- one child ----------------------------------------------------------------------------

    async def _keep_running(self, spec: ChildSpec) -> None:
        delay_s = 0.0
        while True:
            with trio.move_on_after(delay_s):
                await self._stopping.wait()
            if self._stopping.is_set():
                return
            started_at = trio.current_time()
            try:
                code = await self._run_once(spec)
                outcome = _outcome(code)
            except OSError as error:
                # The system has no process, memory or descriptor left. Other children continue.
                code, outcome = None, f"could not be started ({error.strerror})"
            if self._stopping.is_set():
                return
            if code == EXIT_CONFIG:
                log.error("%s cannot run as configured (its message is above): stopping", spec.name)
                self._exit_code = EXIT_CONFIG
                self.stop()
                return
            stable = trio.current_time() - started_at >= STABLE_AFTER_S
            delay_s = BACKOFF_MIN_S if stable or not delay_s else min(delay_s * 2, BACKOFF_MAX_S)
            log.warning("%s %s; starting it again in %.1f s", spec.name, outcome, delay_s)

    async def _run_once(self, spec: ChildSpec) -> int:
        """Start the child, watch its heartbeats until it ends, and return its exit code.

        A negative exit code is the number of the signal that ended the child.

        Raises:
            OSError: the child could not be started.
        """
        supervisor_end, child_end = socket.socketpair()
        with trio.socket.from_stdlib_socket(supervisor_end) as link:
            with child_end:
                process = await self._start(spec, child_end.fileno())
            self._processes[spec.name] = process
            try:
                if self._stopping.is_set():  # `run` sent SIGTERM before this process existed
                    process.send_signal(signal.SIGTERM)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._watch_heartbeats, spec.name, link, process)
                    code = await process.wait()
                    nursery.cancel_scope.cancel()
            finally:
                del self._processes[spec.name]
                self._heartbeats_from.discard(spec.name)
            spec.on_end()
        return code

    async def _start(self, spec: ChildSpec, control_fd: int) -> trio.Process:
        command = [sys.executable, "-P", "-m", spec.module, "--name", spec.name]
        command += ["--control-fd", str(control_fd), *spec.args]
        return await trio.lowlevel.open_process(
            command,
            stdin=subprocess.DEVNULL,
            env=dict(spec.env),
            pass_fds=(*spec.pass_fds, control_fd),
            # In a session of its own the child does not receive a terminal's Ctrl-C. The supervisor
            # receives it and stops the children in order.
            start_new_session=True,
        )

    async def _watch_heartbeats(
        self, name: str, link: trio.socket.SocketType, process: trio.Process
    ) -> None:
        """Read what the child sends; kill the child if it sends nothing for the watchdog time.

        The time is divided into intervals, because the supervisor itself may be suspended for
        longer than the watchdog time. Then only one interval times out. In the remaining intervals
        the supervisor reads heartbeats that were already sent, and a child that was suspended too
        can send one.
        """
        message, ready, silent_intervals = b"", False, 0
        while True:
            watchdog_s = self._watchdog_s
            if not ready:
                watchdog_s = max(watchdog_s * STARTING_WATCHDOG_FACTOR, STARTING_WATCHDOG_MIN_S)
            with trio.move_on_after(watchdog_s / _WATCHDOG_INTERVALS) as interval:
                data = await link.recv(256)
            if interval.cancelled_caught:
                silent_intervals += 1
                if silent_intervals < _WATCHDOG_INTERVALS:
                    continue
                log.error("%s has sent no heartbeat for %.0f s: killing it", name, watchdog_s)
                process.kill()
                return
            if not data:
                return
            silent_intervals = 0
            self._heartbeats_from.add(name)
            message = (message + data.replace(HEARTBEAT, b""))[-len(READY) :]
            if message == READY:
                message, ready = b"", True
                log.debug("%s is ready", name)
                self._ready_names.add(name)
                if len(self._ready_names) == len(self._specs):
                    self.all_ready.set()


def _outcome(code: int) -> str:
    """Return how a child ended, for the log."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
