"""Load on a release while something happens to it, and the count at its end."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator, Sequence

import trio

from tests.cluster.census import count, verdict
from tests.cluster.entry import Entry
from tests.cluster.release import AUTHORIZATION, Release
from tests.cluster.tools import WAIT_S
from tests.support.load import Load, running_load

_JOBS = 200
_CLIENT_S = 60


@contextlib.asynccontextmanager
async def busy(
    release: Release, *, avoid: Sequence[str] = (), unbroken: bool = False, jobs: int = _JOBS
) -> AsyncIterator[Load]:
    """Keep producers and workers busy; afterwards every acknowledged job is done exactly once.

    Args:
        avoid: nodes that are about to go, which clients must not connect to.
        unbroken: no request may fail, as far as the way into the cluster can tell.
        jobs: how many are done before and after what happens, at least.
    """
    queues = tuple(f"{letter}-{uuid.uuid4().hex[:12]}" for letter in "abc")
    with release.entry(avoid=avoid) as way:
        async with running_load(
            way.url, headers=AUTHORIZATION, timeout_s=_CLIENT_S, queues=queues
        ) as load:
            await load.progress(jobs, WAIT_S)
            yield load
            await load.progress(jobs, WAIT_S)
            await load.drain(WAIT_S)
        await trio.to_thread.run_sync(check, way, load, unbroken)


def check(way: Entry, load: Load, unbroken: bool) -> None:
    """Compare what clients were told with what the server lists."""
    said = verdict(load.ledger, count(way.url, AUTHORIZATION, load.queues))
    assert not said, "\n".join(said)
    if unbroken and way.through_service:
        assert not load.ledger.retried, "\n".join(["requests failed", *load.ledger.retried])
