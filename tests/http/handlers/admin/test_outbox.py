"""An effect that cannot succeed: growing pauses, outbox dead letter, list, retry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.http.app import App
from ojs_cluster.keys import Shard
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.outbox.outbox import ATTEMPTS, LONGEST_PAUSE_MS, drain
from tests.http.api import Api
from tests.http.test_metrics import scrape
from tests.support.servers import observer

OUTBOX = "/ojs/v1/admin/outbox"


class Effects:
    """Handlers of effects that fail while ``broken`` is set, and record their payloads."""

    def __init__(self) -> None:
        self.broken: set[bytes] = set()
        self.away = False
        self.tried: list[bytes] = []

    async def __call__(self, _store: Store, _shard: Shard, payload: bytes) -> None:
        self.tried.append(payload)
        if self.away:
            raise BackendUnavailable("no answer", outcome="not_applied")
        if payload in self.broken:
            raise ValueError(f"cannot do '{payload.decode()}'")


@pytest.fixture
def effects() -> Effects:
    return Effects()


@pytest.fixture
def store(any_api: Api, effects: Effects) -> Store:
    table: Mapping[str, Any] = {"poison": effects}
    return replace(any_api.app.store, effects=table)


@pytest.fixture
def api(any_api: Api, store: Store) -> Api:
    app = any_api.app
    return Api(App(store, app.settings, app.access))


def append_effect(db: Any, shard: Shard, number: int, payload: str, kind: str = "poison") -> None:
    db.hset(shard.outbox, str(number), f"{kind} 0 {payload}")
    db.zadd(shard.outbox_due, {str(number): 1})


async def try_all(store: Store, db: Any, shard: Shard, times: int) -> None:
    """Make every entry due and deliver it, several times."""
    for _ in range(times):
        for number in db.zrange(shard.outbox_due, 0, -1):
            db.zadd(shard.outbox_due, {number: 1})
        await drain(store, shard, 100)


async def test_a_poison_effect_becomes_an_outbox_dead_letter_and_blocks_no_other(
    api: Api, store: Store, effects: Effects, backend: Embedded
) -> None:
    shard = store.keys.shard(3)
    effects.broken = {b"bad"}
    db: Any
    with observer(backend) as db:
        append_effect(db, shard, 1, "bad")
        append_effect(db, shard, 2, "good")
        await try_all(store, db, shard, 1)
        assert effects.tried == [b"bad", b"good"]
        tries: list[float] = []
        for _ in range(ATTEMPTS - 2):
            await try_all(store, db, shard, 1)
            tries += db.zmscore(shard.outbox_due, ["1"])
        assert db.zcard(shard.outbox_dead_letters) == 0
        seconds, micros = db.time()
        assert tries == sorted(tries)
        assert tries[-1] <= seconds * 1000 + micros // 1000 + LONGEST_PAUSE_MS
        await try_all(store, db, shard, 1)
        assert len(effects.tried) == ATTEMPTS + 1
        await try_all(store, db, shard, 3)  # an outbox dead letter now, so not tried again
        assert len(effects.tried) == ATTEMPTS + 1
        append_effect(db, shard, 3, "later")
        await try_all(store, db, shard, 1)
        assert effects.tried[-1] == b"later"

    page = (await api.get(OUTBOX)).json
    [entry] = page["entries"]
    assert entry["id"] == "3-1"
    assert (entry["kind"], entry["shard"], entry["attempts"]) == ("poison", 3, ATTEMPTS)
    assert (entry["payload"], entry["last_error"]) == ("bad", "ValueError: cannot do 'bad'")
    assert entry["last_tried_at"].endswith("Z")
    assert (page["total"], page["pagination"]["has_more"]) == (1, False)
    assert (await scrape(api))("ojs_outbox_dead_letters") == 1


async def test_a_retried_dead_letter_has_all_its_attempts_and_is_removed(
    api: Api, store: Store, effects: Effects, backend: Embedded
) -> None:
    shard = store.keys.shard(3)
    effects.broken = {b"bad"}
    with observer(backend) as db:
        append_effect(db, shard, 1, "bad")
        await try_all(store, db, shard, ATTEMPTS)
        reply = await api.post(f"{OUTBOX}/retry", {"ids": ["3-1", "3-2", "9999-1", "x", "-1-1"]})
        assert (reply.json["retried"], len(reply.json["not_found"])) == (1, 4)
        effects.tried.clear()
        await try_all(store, db, shard, ATTEMPTS)  # still broken: it has to wait again
        assert len(effects.tried) == ATTEMPTS
        assert (await api.get(OUTBOX)).json["total"] == 1

        effects.broken = set()
        assert (await api.post(f"{OUTBOX}/retry", {"all": True})).json == {"retried": 1, "left": 0}
        await try_all(store, db, shard, 1)

        assert (await api.get(OUTBOX)).json["entries"] == []
        assert (
            not db.exists(shard.outbox)
            + db.exists(shard.outbox_due)
            + db.exists(shard.outbox_dead_letters)
        )


async def test_a_page_ends_where_the_next_begins(api: Api, store: Store, backend: Embedded) -> None:
    wanted = []
    with observer(backend) as db:
        for index in (0, 2, 7):
            shard = store.keys.shard(index)
            for number in range(1, 8):
                db.hset(shard.outbox, str(number), f"poison {ATTEMPTS} p{number}")
                db.zadd(shard.outbox_dead_letters, {str(number): 1000 + number // 4})
                wanted.append(f"{index}-{number}")
    seen: list[str] = []
    cursor = ""
    while True:
        page = (await api.get(f"{OUTBOX}?limit=5&cursor={cursor}")).json
        assert (len(page["entries"]), page["total"]) != (0, 0)
        seen += [entry["id"] for entry in page["entries"]]
        if not page["pagination"]["has_more"]:
            break
        cursor = page["pagination"]["next_cursor"]
    assert seen == wanted


async def test_an_unavailable_redis_is_no_failed_attempt_of_an_effect(
    api: Api, store: Store, effects: Effects, backend: Embedded
) -> None:
    shard = store.keys.shard(3)
    effects.away = True
    with observer(backend) as db:
        append_effect(db, shard, 1, "fine")
        await try_all(store, db, shard, ATTEMPTS + 1)
        assert db.hget(shard.outbox, "1") == b"poison 0 fine"


async def test_an_effect_of_an_unknown_kind_is_kept(
    api: Api, store: Store, backend: Embedded
) -> None:
    shard = store.keys.shard(3)
    with observer(backend) as db:
        append_effect(db, shard, 1, "x", kind="of.tomorrow")
        await try_all(store, db, shard, ATTEMPTS)
    [entry] = (await api.get(OUTBOX)).json["entries"]
    assert entry["kind"] == "of.tomorrow"


@pytest.mark.parametrize("body", [{}, {"ids": ["1-1"], "all": True}, {"ids": ["1-1"] * 1001}, []])
async def test_a_retry_must_name_its_entries(api: Api, body: Any) -> None:
    assert (await api.post(f"{OUTBOX}/retry", body)).status == 400


async def test_a_cursor_of_another_form_is_refused(api: Api) -> None:
    for cursor in ("x", "WzEsMl0", "W10", "W3RydWUsdHJ1ZSx0cnVlXQ"):
        assert (await api.get(f"{OUTBOX}?cursor={cursor}")).status == 400
