"""Read and remove groups of errors.

The script that records a failed attempt counts its error (``store/include/jobs/error_groups.lua``),
so jobs that never fail cost nothing. A shard keeps a bounded number of groups: those with the most
recent failures.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from ojs_cluster.core.access.scopes import QueuePatterns
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.error_group_names import error_group_name
from ojs_cluster.store.ground.fanout import run_concurrently

KEPT_MS: Final = 7 * 86_400_000
"""How long a group is kept after its last failure, in milliseconds."""
_VALUE: Final = re.compile(rb"(\d{1,15}) (\d{1,14}) (\d{1,14}) ([0-9a-f-]{36})")
"""A stored group: count, Unix times of the first and the last failure in ms, id of the last job."""
_OPEN_ESCAPE: Final = re.compile(r"(?<!\\)(?:\\\\)*\\(?:u[0-9a-fA-F]{0,3})?\Z")
"""An incomplete JSON escape at the end of a text that was cut off."""


@dataclass(slots=True)
class ErrorGroup:
    """Failed attempts with one type of error and one normalised message.

    Args:
        type: the type of the error.
        message: the message, in which an asterisk stands for words with digits.
        count: number of failed attempts since the group exists.
        first_ms: time of the first of them in Unix milliseconds.
        last_ms: time of the last of them in Unix milliseconds.
        job_id: the job that failed last.
        queues: number of failed attempts by queue.
    """

    type: str
    message: str
    count: int
    first_ms: int
    last_ms: int
    job_id: str
    queues: dict[str, int] = field(default_factory=dict)


async def read_error_groups(
    store: Store, *, queue: str | None = None, within: QueuePatterns | None = None
) -> list[ErrorGroup]:
    """Return the groups of all shards, those that failed last first.

    Args:
        store: the store.
        queue: only failures of this queue, None for all queues.
        within: patterns of the queues that the API key may access.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    found: dict[tuple[str, str], ErrorGroup] = {}
    shards = await store.partitions.occupied_shards(store, queue) if queue else store.keys

    async def read(shard: Shard) -> None:
        flat: Any = await store.redis.call(
            shard.slot, "HGETALL", shard.error_groups, idempotent=True
        )
        items = iter(flat)
        _add(found, dict(zip(items, items, strict=True)), queue, within)

    await run_concurrently(shards, read)
    return sorted(found.values(), key=order_of)


def order_of(group: ErrorGroup) -> tuple[int, str]:
    """Return the key by which groups are listed.

    No part of it is text of an error, because a cursor shows the key, also to users from whom such
    texts are hidden. A job fails only once in a millisecond.
    """
    return -group.last_ms, group.job_id


def group_of(error: bytes) -> tuple[str, str]:
    """Return the type and the normalised message of an error, as its group has them.

    Args:
        error: the JSON of an error of a job.
    """
    kind, message = error_group_name(error).split("\n", 1)
    return _text(kind), _text(message)


async def purge_error_groups(store: Store, shard: Shard, limit: int) -> int:
    """Remove groups of a shard without a failure for ``KEPT_MS``; return their number.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    keys = [shard.error_groups, shard.error_group_times]
    return int(
        await store.run(shard, "purge_error_groups", keys, [KEPT_MS, limit], idempotent=True)
    )


def _add(
    found: dict[tuple[str, str], ErrorGroup],
    stored: Mapping[bytes, bytes],
    queue: str | None,
    within: QueuePatterns | None,
) -> None:
    for name, value in stored.items():
        match = _VALUE.fullmatch(value)
        parts = name.decode(errors="replace").split("\n")
        if match is None or len(parts) != 3:
            continue  # a damaged group
        of_queue, kind, message = parts[0], _text(parts[1]), _text(parts[2])
        if (queue or of_queue) != of_queue or not (within is None or within.admits(of_queue)):
            continue
        count, first, last = (int(match[number]) for number in (1, 2, 3))
        group = found.setdefault(
            (kind, message), ErrorGroup(kind, message, 0, first, 0, match[4].decode())
        )
        group.count += count
        group.first_ms = min(group.first_ms, first)
        if last >= group.last_ms:
            group.last_ms, group.job_id = last, match[4].decode()
        group.queues[of_queue] = group.queues.get(of_queue, 0) + count


def _text(stored: str) -> str:
    """Return the text of a JSON string without quotes, which may end inside of an escape."""
    text = _OPEN_ESCAPE.sub("", stored.rstrip("\ufffd"))
    with suppress(ValueError):
        return str(json.loads(f'"{text}"'))
    return text
