"""The stateless part of the store: what a function needs to call Redis."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ojs_cluster.keys import Keyspace, Shard
from ojs_cluster.redis.client import Client
from ojs_cluster.redis.script import Script
from ojs_cluster.store.background import Background
from ojs_cluster.store.settings import StoreSettings

Arg = bytes | str | int | float


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """A Redis client, the key layout, the scripts, the settings and the background tasks.

    The parts of a ``Store`` take this and not the store itself, so no part depends on another. They
    take it with each call and do not keep it: an outbox effect calls them with a client that waits
    for a shorter time (``Store.for_effect``).
    """

    redis: Client
    keys: Keyspace
    settings: StoreSettings
    scripts: Mapping[str, Script]
    background: Background

    def run(
        self,
        shard: Shard,
        name: str,
        keys: Sequence[bytes],
        args: Sequence[Arg] = (),
        *,
        idempotent: bool = False,
    ) -> Awaitable[Any]:
        """Run one transition on one shard.

        Args:
            shard: where the script runs.
            name: file name of the script, without ``.lua``.
            keys: KEYS as in the head of the script.
            args: ARGV as in the head of the script.
            idempotent: whether a second run changes nothing more, so that the client may repeat
                the call after a lost reply.

        Raises:
            BackendUnavailable: Redis did not answer in time.
        """
        # Not a coroutine of its own: every script would pay for one more.
        return self.redis.script(shard.slot, self.scripts[name], keys, args, idempotent=idempotent)

    async def run_meta(
        self, name: str, keys: Sequence[bytes], args: Sequence[Arg], *, idempotent: bool = True
    ) -> Any:
        """Run one script on the keys of the meta tag; otherwise as ``run``."""
        return await self.redis.script(
            self.keys.meta.slot, self.scripts[name], keys, args, idempotent=idempotent
        )
