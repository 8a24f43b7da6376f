"""The list of known tenants, and which of them a process registers."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_cluster.store.context import Store
from ojs_cluster.store.ground.process_state import tenants
from tests.store.tenants.shortcuts import limit, put_for


async def test_known_tenants_are_listed_and_forgotten(store: Store, db: Any) -> None:
    await limit(store, "configured", max_scheduled=1)
    for tenant in ("a", "b"):
        await put_for(store, tenant)
    seen, total, _ = await tenants.list_known(store, limit=10)
    assert (total, set(dict(seen))) == (3, {"configured", "a", "b"})
    assert len((await tenants.list_known(store, offset=2, limit=10)).entries) == 1
    known = store.keys.meta.known_tenants
    db.zadd(known, {"a": 1, "configured": 1})
    await put_for(store, "c")
    assert set(db.zrange(known, 0, -1)) == {b"b", b"c", b"configured"}
    await store.run_meta("tenant_seen", [known, store.keys.meta.tenants], ["d", 10**12, 3])
    assert set(db.zrange(known, 0, -1)) == {b"c", b"configured", b"d"}


async def test_a_process_registers_a_bounded_number_of_tenants(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ojs_cluster.store.ground.process_state.tenant_table._MAX_REMEMBERED", 2)
    for tenant in ("a", "b", "c", "b", "a"):
        await put_for(store, tenant)
    assert set(dict((await tenants.list_known(store, limit=10)).entries)) == {"a", "b"}
    store.tenants._renewal_times["a"] = 0  # its registration is old
    await put_for(store, "c")
    assert set(dict((await tenants.list_known(store, limit=10)).entries)) == {"a", "b", "c"}
