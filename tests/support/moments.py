"""Run an action right before or right after a chosen call of a script.

A moment is named by what the process does, never by time. So the n-th call is the same one on slow
and on fast machines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple, cast

import trio

from ojs_cluster.redis import Arg, Client, Reply, Script
from ojs_cluster.store.context import Store


class Moment(NamedTuple):
    """The point ``when`` the ``number``-th call (from 1) of ``script`` is not sent yet, or has its
    reply.
    """

    when: Literal["before", "after"]
    script: str
    number: int


Action = Callable[[Moment], Awaitable[None]]


class MomentsClient:
    """A client that awaits an action at both moments of every script.

    The action is shielded from cancellation, so it may cancel the caller itself.
    """

    def __init__(self, client: Client, action: Action) -> None:
        self._client = client
        self._action = action
        self._calls: Counter[str] = Counter()

    async def script(
        self,
        slot: int,
        script: Script,
        keys: Sequence[bytes],
        args: Sequence[Arg],
        *,
        idempotent: bool = False,
    ) -> Reply:
        self._calls[script.name] += 1
        number = self._calls[script.name]
        await self._tell(Moment("before", script.name, number))
        reply = await self._client.script(slot, script, keys, args, idempotent=idempotent)
        await self._tell(Moment("after", script.name, number))
        return reply

    async def _tell(self, moment: Moment) -> None:
        with trio.CancelScope(shield=True):
            await self._action(moment)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def at_moments(store: Store, action: Action) -> Store:
    """Return ``store`` for a process that awaits ``action`` at each of its moments."""
    return replace(store, redis=cast(Client, MomentsClient(store.redis, action)))
