"""The lock that decides which scheduler leads."""

from __future__ import annotations

from dataclasses import dataclass

from ojs_cluster.store.context import Store


@dataclass(frozen=True, slots=True)
class Lease:
    """Leadership of ``group`` by ``identity`` for ``ttl_ms`` from the last renewal.

    ``token`` is larger than that of every earlier leader.
    """

    group: str
    identity: str
    token: int
    ttl_ms: int


async def acquire(store: Store, group: str, identity: str, ttl_ms: int) -> Lease | None:
    """Lead if nobody does. None when somebody else leads.

    Raises
    ------
    BackendUnavailable: Redis did not answer in time.
    """
    token = await _run(store, group, "acquire", identity, 0, ttl_ms)
    return Lease(group, identity, token, ttl_ms) if token else None


async def renew(store: Store, lease: Lease) -> bool:
    """Lead for another ``ttl_ms``; False when the lease is over and may be another's."""
    return bool(await _run(store, lease.group, "renew", lease.identity, lease.token, lease.ttl_ms))


async def release(store: Store, lease: Lease) -> bool:
    """Stop leading so that the next can start at once; False when it was over already."""
    return bool(
        await _run(store, lease.group, "release", lease.identity, lease.token, lease.ttl_ms)
    )


async def _run(
    store: Store, group: str, action: str, identity: str, token: int, ttl_ms: int
) -> int:
    meta = store.keys.meta
    return int(
        await store.run_meta(
            "lead", [meta.leader(group), meta.fence(group)], [action, identity, token, ttl_ms]
        )
    )
