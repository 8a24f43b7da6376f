"""A client that loses replies: the call is applied, but the caller gets no reply."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.keys import Shard
from ojs_cluster.redis import Arg, Client, Reply, Script
from ojs_cluster.redis.packed_calls import PackedReads
from ojs_cluster.redis.reply_waiters import Answer
from ojs_cluster.store.context import Store


class LossyClient:
    """A client that loses the reply of chosen scripts.

    As in the real client, an idempotent call is repeated and its second reply returned. Any other
    call raises ``BackendUnavailable`` with outcome "unknown".

    Args:
        client: the client that runs the scripts.
        lose: receives the name of the script and the number of its earlier calls; returns whether
            to
            lose the reply.
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

    async def read_each(self, reads: Sequence[PackedReads], **kind: Any) -> list[list[Answer]]:
        self.calls["read_each"] = self.calls.get("read_each", 0) + 1
        return await self._client.read_each(reads, **kind)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def lossy(store: Store, *names: str, times: int = 1_000_000) -> tuple[Store, LossyClient]:
    """Return ``store`` over a client that loses the first ``times`` replies of these scripts."""
    client = LossyClient(store.redis, lambda name, before: name in names and before < times)
    return replace(store, redis=cast(Client, client)), client


async def read_all_but(
    client: Client, away: set[int], reads: Sequence[PackedReads], **kind: Any
) -> list[list[Answer]]:
    """Do as ``read_each`` when the masters of the slots ``away`` do not answer."""
    answers = iter(await client.read_each([r for r in reads if r.slot not in away], **kind))
    return [[] if read.slot in away else next(answers) for read in reads]


class AbsentClient:
    """A client for which some slots are unreachable; nothing sent to them is applied.

    Args:
        client: the client for the other slots.
        slots: the unreachable slots, which may change at any time.
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

    async def read_each(self, reads: Sequence[PackedReads], **kind: Any) -> list[list[Answer]]:
        return await read_all_but(self._client, self.slots, reads, **kind)

    def is_silent(self, slot: int) -> bool:
        return slot in self.slots or self._client.is_silent(slot)

    def _ask(self, slot: int) -> None:
        if slot in self.slots:
            raise BackendUnavailable("no answer", outcome="not_applied")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def without(store: Store, *shards: Shard) -> Store:
    """Return ``store`` over a client for which these shards are unreachable."""
    client = AbsentClient(store.redis, {shard.slot for shard in shards})
    return replace(store, redis=cast(Client, client))
