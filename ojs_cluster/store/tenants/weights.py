"""Copy the weights of tenants to all shards, where fetches read them.

A fetch of a queue with a fair share runs in the shard of the queue, and its script may touch no
other hash tag. So each shard has a hash of all weights other than 1. There are at most
``MAX_TENANTS`` of them, because weights are settings.

The settings under the meta tag are authoritative. A process that changes a weight writes the
copies, and repeats this until a pass finds all copies in agreement with the present settings. So
when two processes change weights at once, all copies get the later ones. If the process dies first,
or a shard does not answer, or a shard has lost its copy, the janitor corrects the copies.
"""

from __future__ import annotations

import hashlib
from typing import Final

import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.core.tenants.settings import NO_WEIGHT
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.fanout import run_concurrently
from ojs_cluster.store.tenants.tenants import TenantSnapshot, read_all, read_changed

_DIGEST: Final = "#"
"""Field of the copies that tells two sets of weights apart. No tenant has this name."""
_CHECK_S: Final = 60.0
"""Time in seconds after which the janitor checks all copies, although no setting has changed."""


async def mirror_weights(store: Store) -> None:
    """Make the copies of all shards agree with the settings.

    Raises:
        BackendUnavailable: Redis did not answer in time. Some copies may be old; the janitor
            corrects them.
    """
    while await _correct(store, await read_all(store)):
        pass


class WeightsCheck:
    """The check of the janitor: corrects copies that another process has left behind."""

    def __init__(self) -> None:
        """Begin without a copy of the settings, so the first call checks all shards."""
        self._version = b""
        self._checked_at = float("-inf")

    async def check(self, store: Store) -> None:
        """Correct the copies if settings have changed, or if the last check is a minute old.

        Raises:
            BackendUnavailable: Redis did not answer in time. The next call tries again.
        """
        began = trio.current_time()
        is_due = began - self._checked_at >= _CHECK_S
        snapshot = await read_changed(store, b"" if is_due else self._version)
        if snapshot is None or (not is_due and snapshot.version == self._version):
            return
        self._checked_at = float("-inf")
        while await _correct(store, snapshot):
            snapshot = await read_all(store)
        self._version, self._checked_at = snapshot.version, began


async def _correct(store: Store, snapshot: TenantSnapshot) -> bool:
    """Write the copies that differ from the settings; return whether there was any.

    Each shard that answers is corrected, also when others do not.

    Raises:
        BackendUnavailable: a shard did not answer in time.
    """
    weights: list[str] = []
    for tenant, settings in sorted(snapshot.settings().items()):
        if settings.fairness_weight != NO_WEIGHT:
            weights += tenant, f"{settings.fairness_weight:.12g}"
    digest = hashlib.sha256("\n".join(weights).encode()).hexdigest()[:16] if weights else ""
    corrected: list[Shard] = []
    failures: list[BackendUnavailable] = []

    async def correct(shard: Shard) -> None:
        key = shard.tenant_weights
        try:
            found = await store.redis.call(shard.slot, "HGET", key, _DIGEST, idempotent=True)
            if (found or b"") != digest.encode():
                args = [_DIGEST, digest, *weights] if weights else []
                await store.run(shard, "tenant_weights_set", [key], args, idempotent=True)
                corrected.append(shard)
        except BackendUnavailable as error:
            failures.append(error)

    await run_concurrently(store.keys, correct)
    if failures:
        raise failures[0]
    return bool(corrected)
