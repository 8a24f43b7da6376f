"""Longer timeouts of the product for tests, so that a slow machine does not look like a failure.

Some steps wait only a second or two for another process and leave the rest to the scheduler. A
client gives up on a server after five seconds. A test of such a timeout sets it itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
import trio

from ojs_cluster.http.access import audit
from ojs_cluster.redis import client, connection, router
from ojs_cluster.redis.settings import ClientSettings
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store import open as opening
from ojs_cluster.store.engine.fetch import (
    fetch,
    isolation,
    long_poll,
    partition_fetch,
    ranked_fetch,
)
from ojs_cluster.store.engine.jobs import isolation_flags
from ojs_cluster.store.engine.outbox import outbox
from ojs_cluster.store.engine.queues import queues
from ojs_cluster.store.engine.tenants import admission
from ojs_cluster.store.engine.unique import unique
from ojs_cluster.store.features.cron import firing
from ojs_cluster.store.features.events import readers, replay
from ojs_cluster.store.features.search import lists
from ojs_cluster.store.features.tenants import weights
from ojs_cluster.store.ground import background, versioned_table
from ojs_cluster.store.ground.process_state import (
    job_counts,
    limit_keys,
    partitions,
    registry,
    tenant_table,
    touch,
    unreachable_shards,
)
from ojs_cluster.store.operators.operations import health, metrics, nodes, processes
from ojs_cluster.ui import session_secret

LONG_S: Final = 60.0

_TIMES: Final = (
    (unreachable_shards, "ANSWER_S"),
    (audit, "_FINISH_S"),
    (opening, "_CLOCK_S"),
    (background, "_INLINE_S"),
    (job_counts, "_LAST_FLUSH_TIMEOUT_S"),
    (touch, "_TOUCH_TIMEOUT_S"),
    (firing, "_CHECK_TIMEOUT_S"),
    (fetch, "RELEASE_S"),
    (isolation, "_TIMEOUT_S"),
    (isolation_flags, "_TIMEOUT_S"),
    (ranked_fetch, "READ_S"),
    (readers, "_READY_S"),
    (replay, "_CATCH_UP_S"),
    (limit_keys, "_MAX_WAIT_S"),
    (health, "PATIENCE_S"),
    (nodes, "PATIENCE_S"),
    (processes, "_LAST_REPORT_S"),
    (versioned_table, "_MAX_WAIT_S"),
    (admission, "_MAX_WAIT_S"),
    (tenant_table, "_FIRST_WAIT_S"),
    (weights, "_ANSWER_S"),
    (session_secret, "_PATIENCE_S"),
    (outbox, "DELIVER_S"),
    (partition_fetch, "PEEK_S"),
    (partitions, "_MAX_WAIT_S"),
    (queues, "_MAX_REGISTRY_WAIT_S"),
    (metrics, "PATIENCE_S"),
    (lists, "MAX_PAGE_S"),
    (registry, "MAX_WAIT_S"),
    (connection, "IMPATIENT_S"),
    (router, "IMPATIENT_S"),
    (client, "IMPATIENT_S"),
    (unique, "CLAIM_TIMEOUT_S"),
    (long_poll, "SUBSCRIBE_S"),
)


def be_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the timeouts of the product to values that suffice on any machine."""
    for module, name in _TIMES:
        assert hasattr(module, name), f"{module.__name__}.{name}"
        monkeypatch.setattr(module, name, LONG_S)
    monkeypatch.setattr(
        unreachable_shards, "PAUSE_S", 0.0
    )  # a call that a test lets fail stops no other
    # A test may look at the outbox when a transition has returned.
    monkeypatch.setattr(outbox, "RECORD_DELAY_S", 0.0)


def patient_client(backend: Embedded, **overrides: Any) -> ClientSettings:
    """Return settings of a client that waits for a busy server."""
    times = dict.fromkeys(("connect_timeout_s", "reply_timeout_s", "call_timeout_s"), LONG_S)
    return ClientSettings.from_url(backend.url, **{**times, **overrides})


TURN_S: Final = 0.02


@asynccontextmanager
async def cancelled_after_turns(seconds: float) -> AsyncIterator[trio.CancelScope]:
    """Cancel a block after a time in which the event loop turned again and again.

    A deadline by the clock also passes while other processes use the processor, and then the code
    under test had no chance. One turn counts 20 ms here, however long it took.

    Args:
        seconds: the time on an idle machine.
    """

    async def count(scope: trio.CancelScope) -> None:
        for _ in range(round(seconds / TURN_S)):
            await trio.sleep(TURN_S)
        scope.cancel()

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as counting:
            counting.start_soon(count, scope)
            yield scope
            counting.cancel_scope.cancel()
