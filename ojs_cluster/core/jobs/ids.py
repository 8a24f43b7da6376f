"""Job ids: UUIDv7 (RFC 9562) whose ``rand_a`` bits name the job's shard.

Because the id names the shard, an operation by id takes one round trip and needs no index. The
other bits are random. But ids that one process generates in the same millisecond sort in the order
of their creation (``OrderedIds``), because jobs that return to the front of their queue are sorted
by id.
"""

from __future__ import annotations

import os
import re
from typing import Final

RAND_A_VALUES: Final = 4096
"""Number of values of ``rand_a``, which is 12 bits wide. ``keys.MAX_SHARDS`` is lower."""

_STEP_BACK_MS: Final = 1000
"""A step of the clock back by less than this time in milliseconds does not change the order."""
_JOB_ID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_full_match: Final = _JOB_ID.fullmatch
_MASK_62: Final = (1 << 62) - 1  # rand_b is 62 bits wide
_MASK_48: Final = (1 << 48) - 1  # the random bits of rand_b in an id with an order
_ORDER_COUNT: Final = 1 << 14  # the order takes the first 14 bits of rand_b


def is_job_id(text: str) -> bool:
    """Return whether ``text`` is a UUIDv7 in lower case, the only form that OJS allows."""
    return _full_match(text) is not None


def shard_of(job_id: str, shards: int) -> int:
    """Return the index of the shard that a valid id names.

    Lua finds it in the same way: ``index_job.lua``, ``purge_queue.lua`` and ``purge.lua``.

    Args:
        job_id: the id.
        shards: number of shards.
    """
    return int(job_id[15:18], 16) % shards


def new_job_id(
    shard: int,
    shards: int,
    now_ms: int,
    random: bytes | None = None,
    order: int | None = None,
) -> str:
    """Return a new id whose owner shard is ``shard``.

    (Rejected: a pool of random bytes, which would save half a microsecond. A forked process would
    have the same pool and generate the same ids.)

    Args:
        shard: index of the shard.
        shards: number of shards.
        now_ms: Unix time in milliseconds.
        random: 10 random bytes, by default from the system.
        order: number whose lowest 14 bits replace the first random bits, so that ids sort by it;
            None for random bits. 48 random bits remain.

    Raises:
        ValueError: ``shard`` or ``shards`` is out of range.
    """
    if not 0 <= shard < shards <= RAND_A_VALUES:
        raise ValueError(f"shard {shard} of {shards} does not fit in {RAND_A_VALUES}")
    bits = int.from_bytes(os.urandom(10) if random is None else random)
    # Several values of rand_a name the same shard: shard, shard + shards, shard + 2 * shards, ...
    multiples = RAND_A_VALUES // shards
    if order is None:
        multiple, rand_b = bits >> 62, bits & _MASK_62
    else:  # ids sort by rand_a before the order, so rand_a is constant within a millisecond
        multiple, rand_b = now_ms, (order % _ORDER_COUNT) << 48 | bits & _MASK_48
    rand_a = shard + shards * (multiple % multiples)
    rand_b |= 1 << 63  # the RFC 4122 variant, binary 10
    return "%08x-%04x-7%03x-%04x-%012x" % (  # noqa: UP031 - an f-string takes twice as long
        now_ms >> 16 & 0xFFFFFFFF,
        now_ms & 0xFFFF,
        rand_a,
        rand_b >> 48,
        rand_b & 0xFFFFFFFFFFFF,
    )


def id_in_shard(job_id: str, shard: int, shards: int) -> str:
    """Return a valid id with ``rand_a`` changed to name ``shard``; always the same one."""
    rest = int(job_id[15:18], 16) // shards % (RAND_A_VALUES // shards)
    return f"{job_id[:15]}{shard + shards * rest:03x}{job_id[18:]}"


class OrderedIds:
    """Generates ids. Those of one shard sort in the order of their creation.

    A measurement of the clock of Redis may step the time back by some milliseconds. Until the
    latest time is reached again, ids have that time. The order is lost when the time steps back by
    a second or more, and after 16384 ids with one time, those of all shards together.

    Args:
        shards: number of shards.
    """

    def __init__(self, shards: int) -> None:
        self._shards = shards
        self._now_ms = self._order = 0

    def new(self, shard: int, now_ms: int) -> str:
        """Return a new id that sorts after the earlier ids of its shard, if the order is kept.

        Args:
            shard: index of the shard.
            now_ms: Unix time in milliseconds.
        """
        if self._now_ms - _STEP_BACK_MS < now_ms < self._now_ms:
            now_ms = self._now_ms
        self._order = self._order + 1 if now_ms == self._now_ms else 0
        self._now_ms = now_ms
        return new_job_id(shard, self._shards, now_ms, order=self._order)
