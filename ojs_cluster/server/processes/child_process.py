"""What every child process of the supervisor does around its own work."""

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
from ojs_cluster.server.processes.stop_signals import stop_signals
from ojs_cluster.server.processes.supervisor_link import BEAT_S, ParentLink

log = logging.getLogger("ojs.process")


class Refused(Exception):
    """This process must not run as configured, and starting it again would not help."""


@dataclass(frozen=True, slots=True)
class Child:
    """What a child's work is given.

    Attributes:
        name: such as `api-0`.
        settings: the configuration.
        listen_fds: inherited listening sockets.
        slot: this child's number among those of its kind.
        shared_fd: of memory that they share, if the supervisor gave them some.
        stop: set when the work has to end.
        ready: tells the supervisor that the work goes on as it should.
    """

    name: str
    settings: Settings
    listen_fds: tuple[int, ...]
    stop: trio.Event
    ready: Callable[[], None]
    slot: int = 0
    shared_fd: int | None = None

    def shared_memory(self, size: int) -> mmap.mmap | None:
        """Map ``size`` bytes that the children of this kind share; zeroed when the first maps them.

        The children and not the supervisor decide the size, which would have to import the routes
        for it. The memory never shrinks: another child may have mapped all of it.
        """
        if self.shared_fd is None:
            return None
        if os.fstat(self.shared_fd).st_size < size:
            os.ftruncate(self.shared_fd, size)
        return mmap.mmap(self.shared_fd, size)


def run_child(work: Callable[[Child], Awaitable[None]]) -> int:
    """Read arguments and environment, run the work until it stops; returns the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--listen-fd", type=int, action="append", default=[])
    parser.add_argument("--slot", type=int, default=0)
    parser.add_argument("--shared-fd", type=int)
    args = parser.parse_args()
    # Before trio's handlers exist, a stop signal must not print a traceback.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    try:
        settings = load(os.environ)
    except ConfigError as problem:
        print(problem, file=sys.stderr)
        return EXIT_CONFIG
    log_as = settings.log
    configure_logging(log_as.level, log_as.format, process=args.name, secrets=settings.secrets)
    raise_file_limit()
    leave_hangup_to_keys(settings)
    link = ParentLink(args.control_fd)
    try:
        trio.run(_supervised, work, settings, args, link)
    except BaseException as error:
        refusals = [leaf for leaf in leaves(error) if isinstance(leaf, Refused)]
        if not refusals:
            log.exception("ended by an unexpected error")
            return 1
        for refusal in refusals:
            log.error("%s", refusal)  # noqa: TRY400 - a traceback would say nothing more
        return EXIT_CONFIG
    return 0


async def _supervised(
    work: Callable[[Child], Awaitable[None]],
    settings: Settings,
    args: argparse.Namespace,
    link: ParentLink,
) -> None:
    stop = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def on_gone() -> None:
        log.warning("the supervisor is gone: draining")
        with contextlib.suppress(trio.RunFinishedError):
            token.run_sync_soon(stop.set)

    listen = settings.listen
    link.watch(on_gone, exit_after_s=listen.shutdown_delay_s + listen.shutdown_timeout_s)
    async with trio.open_nursery() as nursery:
        await nursery.start(heed_stop_signals, stop)
        nursery.start_soon(_beat, link)
        fds = tuple(args.listen_fd)
        await work(Child(args.name, settings, fds, stop, link.ready, args.slot, args.shared_fd))
        nursery.cancel_scope.cancel()


async def _beat(link: ParentLink) -> None:
    while True:
        link.beat()
        await trio.sleep(BEAT_S)


async def heed_stop_signals(
    stop: trio.Event, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Set `stop` at a stop signal; runs until cancelled."""
    with trio.open_signal_receiver(*stop_signals()) as received:
        task_status.started()
        async for _ in received:
            stop.set()


def leave_hangup_to_keys(settings: Settings) -> None:
    """Ignore SIGHUP where a file of API keys is configured, until the process watches the file.

    An ignored SIGHUP is no stop signal either (`stop_signals`).
    """
    if settings.access.keys_file:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


def raise_file_limit() -> None:
    """Lift the soft limit of open files to the hard one: each connection needs a descriptor."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # macOS reports an unlimited hard limit and then refuses it.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Give the exceptions inside a group, or the exception itself."""
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from leaves(part)
    else:
        yield error
