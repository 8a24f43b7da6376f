"""The locks that decide which scheduler works on which shard.

Each shard has one, under its own tag, and so has the meta tag. A lock fails exactly when its shard
does: no other shard's master can keep a shard from being scheduled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ojs_cluster.store.context import Store

Renewal = Literal["kept", "wanted", "lost"]
"""What became of a lease: it has its whole life again; so it has, and another candidate should lead
this shard; it is over, and may be another's."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Leadership of a shard by ``identity`` for ``ttl_ms`` from the last renewal.

    ``token`` is larger than that of every earlier leader of the shard. ``keys.META`` as ``shard``
    stands for the meta tag.
    """

    shard: int
    group: str
    identity: str
    token: int
    ttl_ms: int


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a candidate.

    Args:
        lease: None when the candidate does not lead.
        ends_in_ms: the end of the other candidate's lease, unless it is renewed; 0 when the lock is
            free, and another candidate is preferred.
    """

    lease: Lease | None
    ends_in_ms: int = 0


async def acquire(
    store: Store, shard: int, group: str, identity: str, ttl_ms: int, *, insist: bool = False
) -> Answer:
    """Stand as a candidate for a shard, and lead it if its lock is free.

    Args:
        insist: lead also when another candidate is preferred.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    found = await _run(
        store, shard, group, "acquire", identity, 0, ttl_ms, "insist" if insist else ""
    )
    token, ends_in_ms, _ = found
    if token:
        return Answer(Lease(shard, group, identity, token, ttl_ms))
    return Answer(None, max(0, ends_in_ms))


async def renew(store: Store, lease: Lease) -> Renewal:
    """Lead for another ``ttl_ms``.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    token, _, wanted = await _run_on(store, lease, "renew")
    if not token:
        return "lost"
    return "wanted" if wanted else "kept"


async def release(store: Store, lease: Lease) -> bool:
    """Stop leading so that the next can start at once; False when it was over already.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    return bool((await _run_on(store, lease, "release"))[0])


async def leave(store: Store, shard: int, group: str, identity: str, ttl_ms: int) -> None:
    """Stop leading the shard, if this identity does, and being a candidate for it.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    await _run(store, shard, group, "leave", identity, 0, ttl_ms)


async def _run_on(store: Store, lease: Lease, action: str) -> list[int]:
    return await _run(
        store, lease.shard, lease.group, action, lease.identity, lease.token, lease.ttl_ms
    )


async def _run(
    store: Store,
    shard: int,
    group: str,
    action: str,
    identity: str,
    token: int,
    ttl_ms: int,
    how: str = "",
) -> list[int]:
    tag = store.keys.tag(shard)
    # The meta tag counts as the shard after the last.
    number = shard % (len(store.keys) + 1)
    reply = await store.redis.script(
        tag.slot,
        store.scripts["lead"],
        [tag.leader(group), tag.fencing_counter(group), tag.candidates(group)],
        [action, identity, token, ttl_ms, number, how],
        idempotent=True,
    )
    assert isinstance(reply, list)  # noqa: S101 - for mypy: as the script says
    return [int(value) for value in reply]
