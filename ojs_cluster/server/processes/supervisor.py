"""Keep a set of child processes running, and stop them in order.

``serve`` supervises N API processes, and ``dev`` also a scheduler. The supervisor restarts a child
that dies, with growing delays. A child that exits with ``EXIT_CONFIG`` would do so again, so
everything stops with that code.

Children are started with exec, never by forking a trio program. They inherit the listening socket.
Each holds one end of a socket pair (``supervisor_link.py``) and stops when the other end closes, so
they do not outlive a supervisor that was killed.
"""

from __future__ import annotations

import logging
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

import trio

from ojs_cluster.server.config.load import EXIT_CONFIG
from ojs_cluster.server.processes.stop_signals import stop_signals
from ojs_cluster.server.processes.supervisor_link import HEARTBEAT, READY

log = logging.getLogger("ojs.supervisor")

BACKOFF_MIN_S = 0.1
BACKOFF_MAX_S = 10.0
STEADY_S = 10.0
"""A child that ran this long has recovered: its next restart is immediate again."""
STARTING_WATCHDOGS = 6
"""Factor on the watchdog's time until a child is ready: it imports, and reads files."""
STARTING_S = 60.0
"""Least watchdog time in seconds until a child is ready. Many children that start at once are slow,
and a restart would not make them faster."""
_SLICES = 8
"""Parts of the watchdog's time; the child must be silent in each."""


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """One child to keep running.

    Attributes:
        name: for the log, unique.
        module: run with ``python -m``; gets ``--name`` and ``--control-fd`` besides ``args``.
        args: further arguments.
        env: its whole environment.
        pass_fds: descriptors it inherits under the same numbers.
    """

    name: str
    module: str
    env: Mapping[str, str] = field(repr=False)
    args: tuple[str, ...] = ()
    pass_fds: tuple[int, ...] = ()


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
            watchdog_s: a child whose event loop is blocked for this long is killed and restarted;
                until it is ready it has ``STARTING_WATCHDOGS`` times as long, and at least
                ``STARTING_S``.
            listeners: sockets that the children serve. The supervisor closes its copies when it
                stops, so that the last child to close its own closes the port.
            forward_hangup: pass SIGHUP on to the children instead of stopping at it.
        """
        self._specs = tuple(specs)
        self._stop_timeout_s = stop_timeout_s
        self._watchdog_s = watchdog_s
        self._listeners = tuple(listeners)
        self._forward_hangup = forward_hangup
        self._stopping = trio.Event()
        self._ready_names: set[str] = set()
        self._heartbeats_from: set[str] = set()
        """Children that have sent a heartbeat, and so handle signals."""
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
            nursery.start_soon(self._heed_signals)
            async with trio.open_nursery() as children:
                for spec in self._specs:
                    children.start_soon(self._keep, spec)
                await self._stopping.wait()
                for listener in self._listeners:
                    listener.close()
                self._signal_all(signal.SIGTERM)
                nursery.start_soon(self._kill_stragglers)
            nursery.cancel_scope.cancel()
        return self._exit_code

    def stop(self) -> None:
        """Begin to stop, as a first SIGTERM does."""
        self._stopping.set()

    # -- signals ------------------------------------------------------------------------------

    async def _heed_signals(self) -> None:
        also = {signal.SIGHUP} if self._forward_hangup else set()
        with trio.open_signal_receiver(*{*stop_signals(), *also}) as received:
            async for number in received:
                name = signal.Signals(number).name
                if number in also:
                    self._pass_hangup_on()
                elif self._stopping.is_set():
                    log.warning("%s again: killing the children", name)
                    self._signal_all(signal.SIGKILL)
                else:
                    log.info("%s: draining", name)
                    self.stop()

    def _pass_hangup_on(self) -> None:
        """Send SIGHUP to the children that handle it; it would end one that has just started."""
        for name in self._heartbeats_from & self._processes.keys():
            self._processes[name].send_signal(signal.SIGHUP)

    def _signal_all(self, number: signal.Signals) -> None:
        for process in self._processes.values():
            process.send_signal(number)  # does nothing to one that has ended

    async def _kill_stragglers(self) -> None:
        """SIGKILL what is left after the timeout; cancelled when every child has ended."""
        await trio.sleep(self._stop_timeout_s)
        for name in self._processes:
            log.warning("%s did not stop in time: killing it", name)
        self._signal_all(signal.SIGKILL)

    # -- one child ----------------------------------------------------------------------------

    async def _keep(self, spec: ChildSpec) -> None:
        delay = 0.0
        while True:
            with trio.move_on_after(delay):
                await self._stopping.wait()
            if self._stopping.is_set():
                return
            began = trio.current_time()
            try:
                code = await self._run_once(spec)
                ended = _how_it_ended(code)
            except OSError as error:
                # Too few processes, memory or descriptors: running children must go on.
                code, ended = None, f"could not be started ({error.strerror})"
            if self._stopping.is_set():
                return
            if code == EXIT_CONFIG:
                log.error("%s refuses to run, see above: stopping", spec.name)
                self._exit_code = EXIT_CONFIG
                self.stop()
                return
            steady = trio.current_time() - began >= STEADY_S
            delay = BACKOFF_MIN_S if steady or not delay else min(delay * 2, BACKOFF_MAX_S)
            log.warning("%s %s; starting it again in %.1f s", spec.name, ended, delay)

    async def _run_once(self, spec: ChildSpec) -> int:
        """Start the child, listen to it, and return its exit code (negative: a signal).

        Raises:
            OSError: the child could not be started.
        """
        ours, theirs = socket.socketpair()
        with trio.socket.from_stdlib_socket(ours) as link:
            with theirs:
                process = await self._start(spec, theirs.fileno())
            self._processes[spec.name] = process
            try:
                if self._stopping.is_set():  # the signal came while it was being started
                    process.send_signal(signal.SIGTERM)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._listen, spec.name, link, process)
                    code = await process.wait()
                    nursery.cancel_scope.cancel()
            finally:
                del self._processes[spec.name]
                self._heartbeats_from.discard(spec.name)
        return code

    async def _start(self, spec: ChildSpec, control_fd: int) -> trio.Process:
        command = [sys.executable, "-P", "-m", spec.module, "--name", spec.name]
        command += ["--control-fd", str(control_fd), *spec.args]
        return await trio.lowlevel.open_process(
            command,
            stdin=subprocess.DEVNULL,
            env=dict(spec.env),
            pass_fds=(*spec.pass_fds, control_fd),
            # A terminal's Ctrl-C must reach this process only: it decides the order.
            start_new_session=True,
        )

    async def _listen(self, name: str, link: trio.socket.SocketType, process: trio.Process) -> None:
        heard, ready, silent = b"", False, 0
        while True:
            # In slices: if this process was stopped during one, it counts as one slice.
            # The child's heartbeats of that time are unread, or it was stopped too.
            allowed_s = self._watchdog_s
            if not ready:
                allowed_s = max(allowed_s * STARTING_WATCHDOGS, STARTING_S)
            with trio.move_on_after(allowed_s / _SLICES) as silence:
                data = await link.recv(256)
            if silence.cancelled_caught:
                silent += 1
                if silent < _SLICES:
                    continue
                log.error("%s has sent no heartbeat for %.0f s: killing it", name, allowed_s)
                process.kill()
                return
            if not data:
                return
            silent = 0
            self._heartbeats_from.add(name)
            heard = (heard + data.replace(HEARTBEAT, b""))[-len(READY) :]
            if heard == READY:
                heard, ready = b"", True
                log.debug("%s is ready", name)
                self._ready_names.add(name)
                if len(self._ready_names) == len(self._specs):
                    self.all_ready.set()


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
