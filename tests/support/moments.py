"""Something happens right before, or right after, a chosen call of a script.

Moments are named by what the process does, never by time: the n-th call is the n-th call on a slow
machine and on a fast one.
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
    """``when`` the reply of the ``number``-th call (from 1) of ``script`` is had, or still not."""

    when: Literal["before", "after"]
    script: str
    number: int


Action = Callable[[Moment], Awaitable[None]]


class MomentsClient:
    """A client that tells of both moments of every script, and goes on when it was heard.

    What is done at a moment is shielded from cancellation, so it may cancel the caller itself.
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
    """``store`` as seen by a process at each of whose moments ``action`` is awaited."""
    return replace(store, redis=cast(Client, MomentsClient(store.redis, action)))
