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
from ojs_cluster.server.config.load import EXIT_CONFIG, Settings
from ojs_cluster.server.http.scheduler_http import SchedulerEntryPoint
from ojs_cluster.server.processes.store_opening import open_store_when_ready
from ojs_cluster.server.start_log import log_warnings, start_logging
from ojs_cluster.server.supervision.child_process import (
    ChildProcess,
    StartRefused,
    ignore_hangup_until_keys_watch,
    leaf_exceptions,
    run_child_process,
    set_at_stop_signal,
)
from ojs_cluster.store.context import Store
from ojs_cluster.store.operators.migrations.layout import wait_until_outdated
from ojs_scheduler.main import run_scheduler
from ojs_scheduler.stats import Stats

log = logging.getLogger("ojs.scheduler")


async def schedule(settings: Settings, stop: trio.Event) -> None:
    """Run a scheduler until ``stop`` is set; then release its leases and return.

    Raises:
        StartRefused: the data in Redis cannot be used as configured, or not any more, or the port
            is taken.
    """
    stats = Stats()
    traffic = Traffic()
    audit = make_audit(settings, "scheduler", traffic)
    keys = ApiKeys(settings.access, os.environ, audit)
    entry_point = SchedulerEntryPoint(settings, stats, keys.access, audit, traffic)
    scheduler_scope = trio.CancelScope()
    store_is_open = False
    refusals: list[StartRefused] = []

    async def cancel_on_stop() -> None:
        # With an open store, only the scheduler is cancelled. It needs the Redis client to release
        # its leases, which would otherwise block the next leader until they expire.
        await stop.wait()
        (scheduler_scope if store_is_open else nursery.cancel_scope).cancel()

    async def stop_when_outdated(store: Store) -> None:
        refusals.append(StartRefused(str(await wait_until_outdated(store))))
        stop.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel_on_stop)
        if settings.listen.scheduler_port:
            nursery.start_soon(_load_and_watch, keys, stop)
        await nursery.start(entry_point.serve, stop)
        async with contextlib.AsyncExitStack() as stack:
            store = await open_store_when_ready(stack, settings)
            store_is_open = True
            # No supervisor would notice that a validation blocks this process.
            store.schemas.validates_here = False
            nursery.start_soon(stop_when_outdated, store)
            if settings.listen.scheduler_port:
                nursery.start_soon(audit.run, store)
            with scheduler_scope:
                await store.webhooks.start(store, nursery)
                await store.schemas.start(store, nursery)
                await store.queue_defaults.start(store, nursery)
                entry_point.open(store)
                await run_scheduler(store, settings.scheduler, stats=stats)
            await audit.finish(store)
        nursery.cancel_scope.cancel()
    if refusals:
        raise refusals[0]


async def _load_and_watch(keys: ApiKeys, stop: trio.Event) -> None:
    await keys.load(stop)
    await keys.watch()


async def work(child: ChildProcess) -> None:
    """Run a scheduler as a child process of ``dev``. It reports at once that it works."""
    child.ready()
    await schedule(child.settings, child.stop)


def run_scheduler_command(settings: Settings) -> int:
    """Run one scheduler until a stop signal; return the exit code."""
    start_logging(settings, "scheduler")
    ignore_hangup_until_keys_watch(settings)
    log_warnings(settings)
    try:
        trio.run(_schedule_until_signal, settings)
    except (Exception, BaseExceptionGroup) as error:
        refusals = [leaf for leaf in leaf_exceptions(error) if isinstance(leaf, StartRefused)]
        for refusal in refusals:
            log.error("%s", refusal)  # noqa: TRY400 - the message is enough for the operator
        if not refusals:
            raise
        return EXIT_CONFIG
    return 0


async def _schedule_until_signal(settings: Settings) -> None:
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(set_at_stop_signal, stop)
        await schedule(settings, stop)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    sys.exit(run_child_process(work))
