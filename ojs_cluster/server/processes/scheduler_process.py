"""The scheduler as a process: alone (``ojs-cluster scheduler``) or as a child of ``dev``."""

from __future__ import annotations

import contextlib
import logging
import os
import sys

import trio

from ojs_cluster.http.traffic import Traffic
from ojs_cluster.server.api_keys import ApiKeys
from ojs_cluster.server.audit import make_audit
from ojs_cluster.server.commands.serve import log_warnings, start_logging
from ojs_cluster.server.config.load import EXIT_CONFIG, Settings
from ojs_cluster.server.http.scheduler_http import SchedulerEntryPoint
from ojs_cluster.server.processes.child_process import (
    ChildProcess,
    StartRefused,
    ignore_hangup_until_keys_watch,
    leaf_exceptions,
    run_child_process,
    set_at_stop_signal,
)
from ojs_cluster.server.processes.store_opening import open_store_when_ready
from scheduler.main import run_scheduler
from scheduler.stats import Stats

log = logging.getLogger("ojs.scheduler")


async def schedule(settings: Settings, stop: trio.Event) -> None:
    """Run a scheduler until ``stop`` is set; then release its leases and return.

    Raises:
        StartRefused: the data in Redis cannot be used as configured, or the port is taken.
    """
    stats = Stats()
    traffic = Traffic()
    audit = make_audit(settings, "scheduler", traffic)
    keys = ApiKeys(settings.access, os.environ, audit)
    entry_point = SchedulerEntryPoint(settings, stats, keys.access, audit, traffic)
    leading = trio.CancelScope()
    opened = False

    async def cancel_on_stop() -> None:
        # The Redis client's tasks run in the nursery. Cancelled together with the scheduler, they
        # could not release its leases, and the next leader would wait until they expire.
        await stop.wait()
        (leading if opened else nursery.cancel_scope).cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel_on_stop)
        if settings.listen.scheduler_port:
            nursery.start_soon(_keep_keys, keys, stop)
        await nursery.start(entry_point.serve, stop)
        async with contextlib.AsyncExitStack() as stack:
            store = await open_store_when_ready(stack, settings)
            opened = True
            entry_point.open(store)
            if settings.listen.scheduler_port:
                nursery.start_soon(audit.run, store)
            with leading:
                await run_scheduler(store, settings.scheduler, stats=stats)
            await audit.finish(store)
        nursery.cancel_scope.cancel()


async def _keep_keys(keys: ApiKeys, stop: trio.Event) -> None:
    await keys.load(stop)
    await keys.watch()


async def work(child: ChildProcess) -> None:
    """Do the work of a child process."""
    child.ready()
    await schedule(child.settings, child.stop)


def run_scheduler_command(settings: Settings) -> int:
    """Run one scheduler until a stop signal; return the exit code."""
    start_logging(settings, "scheduler")
    ignore_hangup_until_keys_watch(settings)
    log_warnings(settings)
    try:
        trio.run(_alone, settings)
    except (Exception, BaseExceptionGroup) as error:
        refusals = [leaf for leaf in leaf_exceptions(error) if isinstance(leaf, StartRefused)]
        for refusal in refusals:
            log.error("%s", refusal)  # noqa: TRY400 - a traceback would say nothing more
        if not refusals:
            raise
        return EXIT_CONFIG
    return 0


async def _alone(settings: Settings) -> None:
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(set_at_stop_signal, stop)
        await schedule(settings, stop)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    sys.exit(run_child_process(work))
