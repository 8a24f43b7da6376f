"""Maintenance mode: which requests are refused, why, and since when (spec: ojs-admin-api 12.1).

The mode is one hash under the meta tag. Each process reads it every few seconds, so no request
waits for it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from ojs_cluster.redis.errors import RedisReplyError
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.validate_job import read_number
from ojs_cluster.store.ground.runtime import Arg

log = logging.getLogger("ojs.store")

Refusable = Literal["enqueue", "fetch"]
"""A class of requests that maintenance mode can refuse."""
REFUSABLE: Final[tuple[Refusable, ...]] = ("enqueue", "fetch")


@dataclass(frozen=True, slots=True)
class Maintenance:
    """Maintenance mode while it is on. Times are Unix milliseconds.

    Args:
        refused: the classes of requests that are refused.
        reason: why, for operators and clients; may be empty.
        since_ms: when it was switched on.
        ends_ms: when the operator expects its end, None if unknown. It does not end by itself.
        principal: name of the API key that has switched it on.
    """

    refused: frozenset[str]
    reason: str = ""
    since_ms: int = 0
    ends_ms: int | None = None
    principal: str = ""


async def read_maintenance(store: Store) -> Maintenance | None:
    """Return the mode, None while it is off or its record is damaged.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    meta = store.keys.meta
    try:
        flat: Any = await store.redis.call(meta.slot, "HGETALL", meta.maintenance, idempotent=True)
    except RedisReplyError as error:  # the key has another type
        log.warning("maintenance mode cannot be read: %s", error)
        return None
    return _read(flat)


async def set_maintenance(
    store: Store,
    refused: Iterable[str],
    *,
    reason: str = "",
    ends_ms: int | None = None,
    principal: str = "",
) -> Maintenance | None:
    """Switch the mode on, or off if ``refused`` is empty; return it. A repetition changes nothing.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    classes = ",".join(name for name in REFUSABLE if name in frozenset(refused))
    args: list[Arg] = [
        *("1" if classes else "", "refused", classes, "reason", reason),
        *("ends", "" if ends_ms is None else ends_ms, "principal", principal),
    ]
    return _read(await store.run_meta("maintenance_set", [store.keys.meta.maintenance], args))


def _read(flat: Sequence[bytes]) -> Maintenance | None:
    """Return the mode that a hash holds. Damaged fields count as absent."""
    items = iter(flat)
    fields = dict(zip(items, items, strict=False))
    names = fields.get(b"refused", b"").decode(errors="replace").split(",")
    refused = frozenset(name for name in REFUSABLE if name in names)
    if not refused:
        return None
    return Maintenance(
        refused,
        fields.get(b"reason", b"").decode(errors="replace"),
        read_number(fields.get(b"since")),
        read_number(fields.get(b"ends")) or None,
        fields.get(b"principal", b"").decode(errors="replace"),
    )
