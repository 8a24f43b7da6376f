"""The stateless part of the store: what a function needs to run a script in Redis."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ojs_cluster.keys import Keyspace, Shard
from ojs_cluster.redis.client import Client
from ojs_cluster.redis.script import Script
from ojs_cluster.redis.server_clock import ServerClock
from ojs_cluster.store.ground.background import Background
from ojs_cluster.store.ground.settings import StoreSettings

Arg = bytes | str | int | float


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """A Redis client, its clock, the key layout, the scripts, the settings, and background tasks.

    The caches of a ``Store`` take a ``Runtime`` and not the whole store, so no cache depends on
    another one. They take it with each call and do not keep it, because an outbox effect passes
    another client, which waits for a shorter time (``Store.for_effect``).
    """

    redis: Client
    keys: Keyspace
    settings: StoreSettings
    scripts: Mapping[str, Script]
    background: Background
    clock: ServerClock = field(default_factory=ServerClock)

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
            shard: the shard where the script runs.
            name: file name of the script, without ``.lua``.
            keys: KEYS as the comment at the top of the script lists them.
            args: ARGV as the same comment lists them.
            idempotent: whether a second run changes nothing, so that the client may repeat the call
                after a lost reply.

        Raises:
            BackendUnavailable: Redis did not answer in time.
        """
        # This is not a coroutine function: a further coroutine would make every script slower.
        return self.redis.script(shard.slot, self.scripts[name], keys, args, idempotent=idempotent)

    async def run_meta(
        self, name: str, keys: Sequence[bytes], args: Sequence[Arg], *, idempotent: bool = True
    ) -> Any:
        """Run one script on the keys of the meta tag; otherwise as ``run``."""
        return await self.redis.script(
            self.keys.meta.slot, self.scripts[name], keys, args, idempotent=idempotent
        )
