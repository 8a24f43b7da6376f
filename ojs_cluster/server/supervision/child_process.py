"""The common part of the supervisor's child processes: arguments, logs, signals, heartbeat."""

from __future__ import annotations

import argparse
import contextlib
import logging
import mmap
import os
import resource
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

import trio

from ojs_cluster.server.config.load import EXIT_CONFIG, ConfigError, Settings, load
from ojs_cluster.server.logs import configure_logging
from ojs_cluster.server.supervision.stop_signals import stop_signals
from ojs_cluster.server.supervision.supervisor_link import HEARTBEAT_S, SupervisorLink

log = logging.getLogger("ojs.process")


class StartRefused(Exception):
    """This process cannot run as configured, and a restart would not help."""


@dataclass(frozen=True, slots=True)
class ChildProcess:
    """What a child process knows about itself.

    Attributes:
        name: name of the process, such as ``api-0``.
        settings: the configuration.
        listen_fds: descriptors of the inherited listening sockets.
        stop: set when the process has to stop.
        ready: function that reports to the supervisor that the process works.
        index: number of this process among the API processes of its supervisor, from 0.
        shared_fd: descriptor of the memory that the API processes share; None for a process that
            shares none.
    """

    name: str
    settings: Settings
    listen_fds: tuple[int, ...]
    stop: trio.Event
    ready: Callable[[], None]
    index: int = 0
    shared_fd: int | None = None

    def shared_memory(self, size: int) -> mmap.mmap | None:
        """Map ``size`` bytes of the memory that the API processes share; None without it.

        The bytes are zero when the supervisor starts. The child processes choose the size, because
        the supervisor does not import the routes, on which the size depends. The memory never
        shrinks, because another process may have mapped all of it.
        """
        if self.shared_fd is None:
            return None
        if os.fstat(self.shared_fd).st_size < size:
            os.ftruncate(self.shared_fd, size)
        return mmap.mmap(self.shared_fd, size)


def run_child_process(work: Callable[[ChildProcess], Awaitable[None]]) -> int:
    """Read arguments and environment, run ``work`` until it ends; return the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--listen-fd", type=int, action="append", default=[])
    parser.add_argument("--index", type=int, default=0)
    parser.add_argument("--shared-fd", type=int)
    args = parser.parse_args()
    # Until trio handles signals, a stop signal ends the process without a traceback.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    try:
        settings = load(os.environ)
    except ConfigError as problem:
        print(problem, file=sys.stderr)
        return EXIT_CONFIG
    configure_logging(
        settings.log.level, settings.log.format, process=args.name, secrets=settings.secrets
    )
    raise_file_limit()
    ignore_hangup_until_keys_watch(settings)
    link = SupervisorLink(args.control_fd)
    try:
        trio.run(_supervised, work, settings, args, link)
    except BaseException as error:
        refusals = [leaf for leaf in leaf_exceptions(error) if isinstance(leaf, StartRefused)]
        if not refusals:
            log.exception("ended by an unexpected error")
            return 1
        for refusal in refusals:
            log.error("%s", refusal)  # noqa: TRY400 - the message is enough for the operator
        return EXIT_CONFIG
    return 0


async def _supervised(
    work: Callable[[ChildProcess], Awaitable[None]],
    settings: Settings,
    args: argparse.Namespace,
    link: SupervisorLink,
) -> None:
    """Run ``work`` and send heartbeats; set its stop event when the supervisor ends."""
    stop = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def on_supervisor_end() -> None:
        log.warning("the supervisor has ended: draining")
        with contextlib.suppress(trio.RunFinishedError):
            token.run_sync_soon(stop.set)

    listen = settings.listen
    link.watch(on_supervisor_end, exit_after_s=listen.shutdown_delay_s + listen.shutdown_timeout_s)
    async with trio.open_nursery() as nursery:
        await nursery.start(set_at_stop_signal, stop)
        nursery.start_soon(_send_heartbeats, link)
        child = ChildProcess(
            name=args.name,
            settings=settings,
            listen_fds=tuple(args.listen_fd),
            stop=stop,
            ready=link.ready,
            index=args.index,
            shared_fd=args.shared_fd,
        )
        await work(child)
        nursery.cancel_scope.cancel()


async def _send_heartbeats(link: SupervisorLink) -> None:
    while True:
        link.send_heartbeat()
        await trio.sleep(HEARTBEAT_S)


async def set_at_stop_signal(
    stop: trio.Event, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Set ``stop`` at a stop signal; run until cancelled."""
    with trio.open_signal_receiver(*stop_signals()) as received:
        task_status.started()
        async for _ in received:
            stop.set()


def ignore_hangup_until_keys_watch(settings: Settings) -> None:
    """Ignore SIGHUP until ``ApiKeys.watch`` handles it, if a file of API keys is configured.

    While SIGHUP is ignored, ``stop_signals`` does not count it as a stop signal.
    """
    if settings.access.keys_file:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


def raise_file_limit() -> None:
    """Raise the soft limit on open files to the hard limit; each connection needs a descriptor."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # macOS reports an unlimited hard limit, but refuses it as a soft limit.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def leaf_exceptions(error: BaseException) -> Iterator[BaseException]:
    """Yield all exceptions of a group and of the groups in it, or a single exception itself."""
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from leaf_exceptions(member)
    else:
        yield error
