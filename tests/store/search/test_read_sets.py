"""Members of sorted sets: of many small sets, of a large one, and after a position."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_cluster.store.context import Store
from ojs_cluster.store.engine import read_sets
from ojs_cluster.store.engine.read_sets import read_members, read_sizes
from tests.store.shortcuts import shard_of


async def test_a_large_set_is_not_read_by_a_script(
    store: Store, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_sets, "_MEMBERS", 3)
    shard = shard_of(store)
    members = {name: [b"%d" % n for n in range(size)] for name, size in (("a", 2), ("b", 5))}
    keys = {name: shard.queue_available(name) for name in members}
    for name, key in keys.items():
        db.zadd(key, {member: score for score, member in enumerate(members[name])})
    by_script: list[bytes] = []
    run = Store.run

    async def noted(self: Store, at: Any, script: str, read: Any, *args: Any, **kw: Any) -> Any:
        by_script.extend(read if script == "sorted_set_members" else ())
        return await run(self, at, script, read, *args, **kw)

    monkeypatch.setattr(Store, "run", noted)
    sizes = await read_sizes(store, [(shard, key) for key in keys.values()])
    sizes[shard, keys["b"]] = 4

    found = await read_members(store, sizes)

    assert found == {(shard, keys["a"]): members["a"], (shard, keys["b"]): members["b"][:4]}
    assert by_script == [keys["a"]]


async def test_a_part_of_a_set_starts_after_a_score_and_the_bytes_of_a_name(
    store: Store, db: Any
) -> None:
    shard = shard_of(store)
    key = shard.queue_available("a")
    entries = sorted(
        (n // 5, name)
        for n, name in enumerate(b"a Z zz \xff\x00 z \xc3\xa9 A aa a\x00 _".split(b" "))
    )
    db.zadd(key, {name: score for score, name in entries})
    positions = [*entries, (-1, b""), (0, b""), (0, b"b"), (1, b"\xff\xff"), (2, b"")]

    for descending in (False, True):
        for position in positions:
            size, *flat = await store.run(
                shard, "sorted_set_after", [key], [*position, int(descending), 3], idempotent=True
            )
            following = [
                each
                for each in sorted(entries, reverse=descending)
                if each != position and (each > position) != descending
            ]
            found = [(int(score), name) for name, score in zip(flat[::2], flat[1::2], strict=True)]
            assert (size, found) == (len(entries), following[:3]), (position, descending)
