"""Recognize data of development versions before 0.1, whose keys and fields had other names.

These versions recorded layout 1, as version 0.1 does, but their keys and fields were renamed since
without another number. The names tell: 0.1 and later versions never write them. Such a version may
also have written to data of layout 1, so every start looks for the names, by one small script per
shard. A shard whose master does not answer is read later, while the process serves the others.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.keys import Meta, Shard
from ojs_cluster.redis.errors import RedisReplyError
from ojs_cluster.store.ground.fanout import run_concurrently

if TYPE_CHECKING:
    from ojs_cluster.store.context import Store

_KEYS: Final = (
    "ev ob fin act dealt fence: parts cronnames run exp pend watch lost checked quiet claims refs "
    "out away parked wfs wfrun wfin deals open grants lims limlook mark"
)
"""Keys of a shard or of the meta tag that only those versions wrote."""
_RECORDS: Final = (
    "workflows wf: marks",
    "workers w: beat beats",
    "locks u: h",
    "rate_limits l: used",
    "cron_names cron: x next_tick",
)
"""Fields that only those versions wrote: an index, the prefix of its records' keys, the fields."""
_COUNTED: Final = "came"
"""Field of a queue's counters that only those versions wrote."""
_QUEUES: Final = 20
"""Number of queues whose counters are read."""


async def read_unread(store: Store) -> str:
    """Look for such data in the tags that were not read yet (``LayoutState.unread``).

    Masters that do not answer are left for the next call.

    Args:
        store: the store.

    Returns:
        The name of a key or a field that such a version has written; '' for none.
    """
    found: list[str] = []
    unread: list[Shard | Meta] = []

    async def read(tag: Shard | Meta) -> None:
        try:
            if not store.redis.is_responsive(tag.slot):
                unread.append(tag)
            elif name := await _read_tag(store, tag):
                found.append(name)
        except BackendUnavailable:
            unread.append(tag)

    await run_concurrently(store.layout.unread, read)
    store.layout.unread = unread
    return found[0] if found else ""


async def _read_tag(store: Store, tag: Shard | Meta) -> str:
    script = store.scripts["find_unnumbered"]
    args = [_KEYS, *_RECORDS]
    name: Any = await store.redis.script(tag.slot, script, [tag.schema], args, idempotent=True)
    if name or tag is not store.keys.meta:
        return str(name.decode(errors="replace"))
    with suppress(RedisReplyError):  # a damaged key is no reason to refuse the start
        names: Any = await store.redis.call(
            tag.slot, "ZRANGE", store.keys.meta.queues, 0, _QUEUES - 1, idempotent=True
        )
        for queue in names:
            shard = store.keys.shard_of_queue(queue.decode(errors="replace"))
            key = shard.queue_counters(queue.decode(errors="replace"))
            if await store.redis.call(shard.slot, "HEXISTS", key, _COUNTED, idempotent=True):
                return f"{key.decode(errors='replace')} {_COUNTED}"
    return ""
