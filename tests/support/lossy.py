"""A broker whose replies can get lost: the call is applied, the caller never hears of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.keys import Shard
from ojs_cluster.redis import Arg, Client, Reply, Script
from ojs_cluster.store.context import Store


class LossyClient:
    """A client that loses the reply of chosen scripts.

    As the real client does, an idempotent call is repeated and its second reply is given; any other
    raises ``BackendUnavailable`` with outcome "unknown".

    Args:
        lose: told the script's name and how many calls of it came before; true loses the reply.
    """

    def __init__(self, client: Client, lose: Callable[[str, int], bool]) -> None:
        self._client = client
        self._lose = lose
        self.calls: dict[str, int] = {}
        self.lost: list[str] = []

    async def script(
        self,
        slot: int,
        script: Script,
        keys: Sequence[bytes],
        args: Sequence[Arg],
        *,
        idempotent: bool = False,
    ) -> Reply:
        before = self.calls.get(script.name, 0)
        self.calls[script.name] = before + 1
        reply = await self._client.script(slot, script, keys, args, idempotent=idempotent)
        if not self._lose(script.name, before):
            return reply
        self.lost.append(script.name)
        if idempotent:
            return await self._client.script(slot, script, keys, args, idempotent=True)
        raise BackendUnavailable("the reply was lost", outcome="unknown")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def lossy(store: Store, *names: str, times: int = 1_000_000) -> tuple[Store, LossyClient]:
    """``store`` over a client that loses the first ``times`` replies of the scripts named."""
    client = LossyClient(store.redis, lambda name, before: name in names and before < times)
    return replace(store, redis=cast(Client, client)), client


class AbsentClient:
    """A client to which some slots do not answer, and nothing sent to them is applied.

    Args:
        slots: may be changed at any time.
    """

    def __init__(self, client: Client, slots: set[int]) -> None:
        self._client = client
        self.slots = slots

    async def script(self, slot: int, *args: Any, **kind: Any) -> Reply:
        self._ask(slot)
        return await self._client.script(slot, *args, **kind)

    async def call(self, slot: int, *args: Any, **kind: Any) -> Reply:
        self._ask(slot)
        return await self._client.call(slot, *args, **kind)

    def _ask(self, slot: int) -> None:
        if slot in self.slots:
            raise BackendUnavailable("no answer", outcome="not_applied")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def without(store: Store, *shards: Shard) -> Store:
    """``store`` over a client to which these shards do not answer."""
    client = AbsentClient(store.redis, {shard.slot for shard in shards})
    return replace(store, redis=cast(Client, client))
