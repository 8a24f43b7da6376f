"""A process that dies at a chosen Redis command, before or after the command was applied."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, cast

from ojs_cluster.redis import Arg, Client, Reply, Script
from ojs_cluster.store.context import Store


class Died(BaseException):
    """The acting process is gone: nothing of it runs on, no handler of errors either."""


def _look_away() -> None:
    """Watch nothing."""


class Mortal:
    """A client whose process dies at its ``at``-th command, before or after Redis applied it.

    ``watch`` is called after every command that was applied.
    """

    def __init__(
        self, client: Client, at: int, *, applied: bool, watch: Callable[[], None] = _look_away
    ) -> None:
        self._client = client
        self._at = at
        self._applied = applied
        self._watch = watch
        self.commands = 0
        self.dead = False

    async def script(
        self,
        slot: int,
        script: Script,
        keys: Sequence[bytes],
        args: Sequence[Arg],
        *,
        idempotent: bool = False,
    ) -> Reply:
        return await self._run(
            lambda: self._client.script(slot, script, keys, args, idempotent=idempotent)
        )

    async def call(self, slot: int, *args: Arg, idempotent: bool = False) -> Reply:
        return await self._run(lambda: self._client.call(slot, *args, idempotent=idempotent))

    async def _run(self, command: Callable[[], Awaitable[Reply]]) -> Reply:
        if self.dead:
            raise Died
        self.commands += 1
        if self.commands < self._at:
            reply = await command()
            self._watch()
            return reply
        self.dead = True
        if self._applied:
            await command()
            self._watch()
        raise Died

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


async def dies_at(
    store: Store,
    at: int,
    applied: bool,
    operation: Callable[[Store], Awaitable[object]],
    watch: Callable[[], None] = _look_away,
) -> bool:
    """Run an operation in a process that dies at a command; False when it ended before that."""
    client = Mortal(store.redis, at, applied=applied, watch=watch)
    mortal = replace(store, redis=cast(Client, client))
    try:
        await operation(mortal)
    except Died:
        return True
    except BaseExceptionGroup as group:
        if group.split(Died)[1] is not None:
            raise
        return True
    return False
