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
import logging
from collections.abc import Collection
from math import inf
from typing import Final

import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.core.tenants.settings import NO_WEIGHT, TenantSettings
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.process_state.tenants import TENANTS, read_all
from ojs_cluster.store.ground.versioned_table import Snapshot

log = logging.getLogger("ojs.store")

_DIGEST: Final = "#"
"""Field of the copies that tells two sets of weights apart. No tenant has this name."""
_CHECK_S: Final = 60.0
"""Time in seconds after which the janitor checks all copies, although no setting has changed."""
_ANSWER_S: Final = 1.0
"""Time in seconds that the janitor waits for a shard before it leaves it for later."""


async def mirror_weights(store: Store) -> None:
    """Make the copies of all shards agree with the settings.

    Raises:
        BackendUnavailable: Redis did not answer in time. Some copies may be old; the janitor
            corrects them.
    """
    corrected = True
    while corrected:
        corrected, silent = await _correct(store, await read_all(store), list(store.keys), inf)
        if silent:
            raise next(iter(silent.values()))


class WeightsCheck:
    """The check of the janitor: corrects copies that another process has left behind.

    A shard that does not answer delays the check of no other shard. The next call tries it again.
    """

    def __init__(self) -> None:
        """Begin without a copy of the settings, so the first call checks all shards."""
        self._version = b""
        self._checked_at = -inf
        self._silent: Collection[Shard] = ()

    async def check(self, store: Store) -> bool:
        """Correct the copies if settings have changed, or if the last check is a minute old.

        Returns:
            Whether all shards have answered.

        Raises:
            BackendUnavailable: the master of the meta tag did not answer in time. The next call
                tries again.
        """
        began = trio.current_time()
        is_due = began - self._checked_at >= _CHECK_S
        known = b"" if is_due or self._silent else self._version
        snapshot = await TENANTS.read_changed(store, known)
        if snapshot is None:
            return True
        everywhere = is_due or snapshot.version != self._version
        shards: Collection[Shard] = list(store.keys) if everywhere else self._silent
        checked_at = began if everywhere else self._checked_at
        self._checked_at = -inf  # until all shards have been tried
        silent: dict[Shard, BackendUnavailable] = {}
        corrected = True
        while corrected:
            corrected, found = await _correct(store, snapshot, shards, _ANSWER_S)
            silent |= found
            if corrected:
                shards = [shard for shard in store.keys if shard not in silent]
                snapshot = await read_all(store)
        for shard, error in silent.items():
            if shard not in self._silent:
                log.warning("the weights of shard %d are not checked: %s", shard.index, error)
        self._version, self._checked_at, self._silent = snapshot.version, checked_at, silent
        return not silent


async def _correct(
    store: Store, snapshot: Snapshot[TenantSettings], shards: Collection[Shard], answer_s: float
) -> tuple[bool, dict[Shard, BackendUnavailable]]:
    """Write the copies that differ from the settings.

    Args:
        store: the store.
        snapshot: the settings.
        shards: the shards whose copies are compared.
        answer_s: maximum time in seconds to wait for a shard.

    Returns:
        Whether any copy differed, and the shards that did not answer, with their failures.
    """
    weights: list[str] = []
    for tenant, settings in snapshot.records.items():
        if settings.fairness_weight != NO_WEIGHT:
            weights += tenant, f"{settings.fairness_weight:.12g}"
    digest = hashlib.sha256("\n".join(weights).encode()).hexdigest()[:16] if weights else ""
    corrected = False
    silent: dict[Shard, BackendUnavailable] = {}

    async def correct(shard: Shard) -> None:
        nonlocal corrected
        key = shard.tenant_weights
        found = await store.redis.call(shard.slot, "HGET", key, _DIGEST, idempotent=True)
        if (found or b"") != digest.encode():
            args = [_DIGEST, digest, *weights] if weights else []
            await store.run(shard, "tenant_weights_set", [key], args, idempotent=True)
            corrected = True

    async def try_to_correct(shard: Shard) -> None:
        if answer_s < inf and not store.redis.is_responsive(shard.slot):
            silent[shard] = BackendUnavailable("its master is away", outcome="not_applied")
            return
        try:
            with trio.move_on_after(answer_s) as scope:
                await correct(shard)
        except BackendUnavailable as error:
            silent[shard] = error
        else:
            if scope.cancelled_caught:
                silent[shard] = BackendUnavailable("no answer in time", outcome="unknown")

    await run_concurrently(shards, try_to_correct)
    return corrected, silent
