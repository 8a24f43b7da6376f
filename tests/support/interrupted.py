"""Run an action between two calls to Redis: another process acts, or this process dies."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, cast

from ojs_cluster.redis import Client, Reply
from ojs_cluster.store.context import Store


class Died(BaseException):
    """The process is dead. No error handler catches this, as none would run after SIGKILL."""


class InterruptedClient:
    """A client that runs ``action`` before one of its calls, counted from 0."""

    def __init__(self, client: Client, action: Callable[[], Awaitable[None]], before: int) -> None:
        self._client = client
        self._action = action
        self._left = before

    async def _count(self) -> None:
        self._left -= 1
        if self._left == -1:
            await self._action()

    async def script(self, *args: Any, **kind: Any) -> Reply:
        await self._count()
        return await self._client.script(*args, **kind)

    async def call(self, *args: Any, **kind: Any) -> Reply:
        await self._count()
        return await self._client.call(*args, **kind)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def interrupted(store: Store, action: Callable[[], Awaitable[None]], *, before: int) -> Store:
    """Return ``store`` for a process in which ``action`` runs before call number ``before``."""
    return replace(store, redis=cast(Client, InterruptedClient(store.redis, action, before)))
