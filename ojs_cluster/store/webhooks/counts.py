"""Counts of webhook delivery attempts by subscription and outcome, summed over all shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.fanout import run_concurrently

OUTCOMES = ("delivered", "failed", "dead", "full")
"""``delivered``: attempts that succeeded. ``failed``: attempts that failed and will be repeated.
``dead``: last attempts that failed. ``full``: events that were not added, because too many
deliveries were pending."""


@dataclass(slots=True)
class DeliveryCounts:
    """The deliveries of one subscription since its creation.

    Attributes:
        numbers: by outcome (``OUTCOMES``).
        last_ms: Unix time of the last attempt in ms; 0 before the first.
        last_status: status of the response to that attempt; 0 for no response.
    """

    numbers: Counter[str] = field(default_factory=Counter)
    last_ms: int = 0
    last_status: int = 0

    @property
    def failed(self) -> int:
        """Number of attempts that have failed."""
        return self.numbers["failed"] + self.numbers["dead"]


async def read_counts(store: Store) -> dict[str, DeliveryCounts]:
    """Return the counts by subscription id. The id '' stands for all subscriptions together.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    found: dict[str, DeliveryCounts] = {}

    async def read(shard: Shard) -> None:
        flat: Any = await store.redis.call(
            shard.slot, "HGETALL", shard.webhook_counts, idempotent=True
        )
        for name, subscription_id, value in _parse(flat):
            counts = found.setdefault(subscription_id, DeliveryCounts())
            if name in OUTCOMES:
                counts.numbers[name] += value[0]
            elif name == "last" and len(value) == 2 and value[0] > counts.last_ms:
                counts.last_ms, counts.last_status = value

    await run_concurrently(store.keys, read)
    return found


def _parse(flat: list[bytes]) -> Iterator[tuple[str, str, list[int]]]:
    """Yield the name, the subscription and the numbers of each field that is not damaged."""
    items = iter(flat)
    for field_name, value in zip(items, items, strict=True):
        name, _, subscription_id = field_name.decode(errors="replace").partition(":")
        numbers = value.split(b" ")
        if all(each.isdigit() and len(each) < 19 for each in numbers):
            yield name, subscription_id, [int(each) for each in numbers]
