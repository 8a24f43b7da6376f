"""How subscriptions change, and what each process knows of them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import trio

from ojs_cluster.core.webhooks import Secret, Subscription
from ojs_cluster.store.context import Store
from ojs_cluster.store.ground.process_state import subscriptions
from ojs_cluster.store.ground.process_state.subscriptions import ROTATION_MS, SUBSCRIPTIONS
from ojs_cluster.store.ground.runtime import Runtime
from ojs_cluster.store.ground.versioned_table import Snapshot
from tests.store.shortcuts import clock_ms
from tests.store.webhook_jobs import SECRET, subscribe

NEW_SECRET = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"


async def test_a_secret_that_was_replaced_before_keeps_its_end(store: Store) -> None:
    made = await subscribe(store)
    until_ms = made.created_ms + ROTATION_MS // 2
    await subscriptions.change(
        store,
        made.id,
        lambda old: msgspec.structs.replace(
            old, secrets=(Secret("y" * 20), Secret(SECRET, until_ms))
        ),
    )
    rotated = await subscriptions.rotate(store, made.id, NEW_SECRET)
    assert [each.text for each in rotated.secrets] == [NEW_SECRET, "y" * 20, SECRET]
    assert rotated.secrets[2].until_ms == until_ms
    assert rotated.signing_keys(until_ms - 1) == [NEW_SECRET, "y" * 20, SECRET]
    assert rotated.signing_keys(until_ms) == [NEW_SECRET, "y" * 20]
    assert rotated.signing_keys(until_ms + ROTATION_MS) == [NEW_SECRET]


async def test_a_version_is_not_used_again_after_a_loss_of_the_record(
    store: Store, db: Any
) -> None:
    await subscribe(store)
    key = store.keys.meta.webhooks
    before = int(db.hget(key, "#"))
    while await clock_ms(store, store.keys.meta.slot) <= before:
        pass
    db.delete(key)
    await subscribe(store)
    assert int(db.hget(key, "#")) > before


async def test_an_inactive_subscription_selects_nothing(store: Store) -> None:
    await subscribe(store, active=False)
    await store.webhooks.read(store)
    assert store.webhooks.packed == b""
    assert not store.webhooks.selects("job.completed")


async def test_a_late_reply_does_not_replace_a_newer_copy(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_changed, was_read, release = SUBSCRIPTIONS.read_changed, trio.Event(), trio.Event()
    await subscribe(store)

    async def late(runtime: Runtime, known: bytes) -> Snapshot[Subscription] | None:
        found = await read_changed(runtime, known)
        if not was_read.is_set():
            was_read.set()
            await release.wait()
        return found

    monkeypatch.setattr(store.webhooks._copy, "_read_changed", late)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.webhooks.read, store)
        await was_read.wait()
        newer = await subscribe(store)
        await store.webhooks.read(store)
        release.set()
    assert store.webhooks.get(newer.id) is not None
