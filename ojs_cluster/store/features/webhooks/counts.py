"""Counts of webhook delivery attempts by subscription and outcome, summed over all tags."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.ground.fanout import run_concurrently

OUTCOMES = ("delivered", "failed", "dead", "full")
"""``delivered``: attempts that succeeded. ``failed``: attempts that failed and will be repeated.
``dead``: last attempts that failed. ``full``: events that were not added, because too many
deliveries were pending."""
_OK = range(200, 300)
_MAX_REMOVED = 500
"""Maximum number of fields that one script removes."""


@dataclass(slots=True)
class DeliveryCounts:
    """The deliveries of one subscription since its creation.

    Attributes:
        numbers: by outcome (``OUTCOMES``).
        last_ms: Unix time of the last attempt in ms; 0 before the first.
        last_status: status of the response to that attempt; 0 for no response.
        last_error: why that attempt got no response; empty if it got one.
        failing_since_ms: Unix time in ms of the first failed attempt since the last success; 0 if
            the last attempt was one. If a shard had failures before and after a success in another
            shard, it is the time of that success at the earliest.
        failures_in_row: number of failed attempts since then. In that case it is an upper bound: a
            shard counts its failures since its own last success.
    """

    numbers: Counter[str] = field(default_factory=Counter)
    last_ms: int = 0
    last_status: int = 0
    last_error: str = ""
    failing_since_ms: int = 0
    failures_in_row: int = 0

    @property
    def failed(self) -> int:
        """Number of attempts that have failed."""
        return self.numbers["failed"] + self.numbers["dead"]


async def remove_old_counts(store: Store, shard: Shard) -> None:
    """Remove the counts of deleted subscriptions from a shard.

    A shard where nothing is pending for a subscription does not notice its deletion otherwise. And
    a process that does not know of the deletion yet may count once more after
    ``webhook_purge.lua``.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    fields: Any = await store.redis.call(shard.slot, "HKEYS", shard.webhook_counts, idempotent=True)
    ids = {name: _split(name)[1] for name in fields}
    if not any(ids.values()):
        return
    # Read after the fields, and ids are not reused: an absent subscription was deleted.
    await store.webhooks.read(store)
    old = [name for name, each in ids.items() if each and not store.webhooks.exists(each)]
    for at in range(0, len(old), _MAX_REMOVED):
        portion = old[at : at + _MAX_REMOVED]
        await store.run(shard, "webhook_forget", [shard.webhook_counts], portion, idempotent=True)


async def read_counts(store: Store) -> dict[str, DeliveryCounts]:
    """Return the counts by subscription id. The id '' stands for all subscriptions together.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    found: dict[str, DeliveryCounts] = {}
    errors: dict[str, str] = {}
    failures: dict[str, list[tuple[int, int, int]]] = {}
    successes: dict[str, int] = {}

    async def read(shard: Shard) -> None:
        flat: Any = await store.redis.call(
            shard.slot, "HGETALL", shard.webhook_counts, idempotent=True
        )
        texts = dict(zip(flat[::2], flat[1::2], strict=True))
        fields = {(name, each): value for name, each, value in _parse(flat)}
        for (name, subscription_id), value in fields.items():
            counts = found.setdefault(subscription_id, DeliveryCounts())
            if name == "since" and len(value) == 2:
                last_ms = fields.get(("last", subscription_id), [0])[0]
                failures.setdefault(subscription_id, []).append((value[0], value[1], last_ms))
            elif name == "success":
                successes[subscription_id] = max(value[0], successes.get(subscription_id, 0))
            if name in OUTCOMES:
                counts.numbers[name] += value[0]
            elif name == "last" and len(value) == 2 and value[0] > counts.last_ms:
                counts.last_ms, counts.last_status = value
                error = texts.get(f"error:{subscription_id}".encode(), b"")
                errors[subscription_id] = error.decode(errors="replace")

    await run_concurrently(store.keys.webhook_tags, read)
    for subscription_id, counts in found.items():
        if counts.last_ms and counts.last_status not in _OK:
            # Each shard knows its own deliveries, and the receiver may have answered another one.
            success_ms = successes.get(subscription_id, 0)
            rows = [each for each in failures.get(subscription_id, ()) if each[2] > success_ms]
            since_ms = min((ms for ms, _, _ in rows), default=counts.last_ms)
            counts.failing_since_ms = max(since_ms, success_ms)
            counts.failures_in_row = sum(number for _, number, _ in rows) or 1
            counts.last_error = errors.get(subscription_id, "")
    return found


def _parse(flat: list[bytes]) -> Iterator[tuple[str, str, list[int]]]:
    """Yield the name, the subscription and the numbers of each field that is not damaged."""
    items = iter(flat)
    for field_name, value in zip(items, items, strict=True):
        name, subscription_id = _split(field_name)
        numbers = value.split(b" ")
        if all(each.isdigit() and len(each) < 19 for each in numbers):
            yield name, subscription_id, [int(each) for each in numbers]


def _split(field_name: bytes) -> tuple[str, str]:
    """Return the name and the subscription of a field; '' for all subscriptions together."""
    name, _, subscription_id = field_name.decode(errors="replace").partition(":")
    return name, subscription_id
