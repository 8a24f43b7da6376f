"""A cron job that is large, slow or malformed does not delay others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from ojs_cluster.core.errors import Internal, OJSError
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.features.cron import cron
from ojs_cluster.store.features.cron.cron_store import RedisCronStore
from ojs_cluster.store.features.cron.firing import fire_due
from ojs_cluster.store.features.cron.firing_store import DueCrons
from ojs_cluster.store.open import open_store
from tests.store.cron.test_cron import QUEUE, definition, look
from tests.store.shortcuts import DAY, take
from tests.support.patience import patient_client
from tests.support.prelude import PRELUDE
from tests.support.timeshift import age_cron

LARGE = 900 * 1024


@pytest.fixture
async def frugal(backend: Embedded) -> AsyncIterator[Store]:
    """A client that accepts replies of 5 MiB: one cron job with its firing, never two."""
    settings = patient_client(backend, max_reply_bytes=5 * 1024 * 1024)
    async with open_store(settings, prelude=PRELUDE) as opened:
        yield opened


async def test_large_cron_jobs_of_one_occurrence_all_fire(frugal: Store, db: Any) -> None:
    names = [f"large-{number}" for number in range(8)] + ["small"]
    for name in names:
        await cron.register(frugal, definition(name, args=["x" * (LARGE * (name != "small"))]))
        age_cron(db, frugal.keys.meta, name, DAY)

    await look(frugal)

    fired = 0
    while jobs := await take(frugal, QUEUE, count=1):
        fired += len(jobs)
    assert fired == len(names)


@pytest.mark.parametrize(
    "field", ["expression", "timezone", "queue", "job", "version", "anchor", "next_occurrence"]
)
@pytest.mark.parametrize("value", [None, "x"])
async def test_a_malformed_cron_job_is_postponed_and_the_others_fire(
    store: Store, db: Any, field: str, value: str | None
) -> None:
    for name in ("bad", "well"):
        await cron.register(store, definition(name))
        age_cron(db, store.keys.meta, name, DAY)
    key = store.keys.meta.cron("bad")
    if value is None:
        db.hdel(key, field)
    else:
        db.hset(key, field, value)

    result = await fire_due(RedisCronStore(store), 10)

    assert result.done == 2
    assert (await cron.get(store, "well")).runs == 1
    assert [c.name for c in (await cron.list_crons(store, limit=10, offset=0))[0]][-1] == "well"
    db.zadd(store.keys.meta.crons, {"bad": 1})
    await fire_due(RedisCronStore(store), 10)  # and again
    await cron.delete(store, "bad")
    assert db.zscore(store.keys.meta.crons, "bad") is None


async def test_a_cron_job_that_cannot_be_postponed_does_not_stop_others(
    store: Store, db: Any
) -> None:
    class Broken(RedisCronStore):
        async def due(self, limit: int) -> DueCrons:
            return replace(await super().due(limit), small=())  # each is read by itself

        async def load(self, name: str) -> Any:
            if name == "bad":
                raise Internal("cannot be read")
            return await super().load(name)

        async def record_outcome(self, name: str, *args: Any, **kwargs: Any) -> None:
            if name == "bad":
                raise OJSError("cannot be written")
            await super().record_outcome(name, *args, **kwargs)

    for name in ("bad", "well"):
        await cron.register(store, definition(name))
        age_cron(db, store.keys.meta, name, DAY)

    with pytest.raises(OJSError):
        await fire_due(Broken(replace(store)), 10)

    assert (await cron.get(store, "well")).runs == 1
