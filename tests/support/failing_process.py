"""A process that fails at a chosen Redis command: it is killed, or it loses the reply."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal, cast

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.redis import Client, Reply
from ojs_cluster.store.context import Store
from ojs_cluster.store.ground.background import Background
from ojs_cluster.store.ground.process_state.busy_workers import BusyWorkers
from ojs_cluster.store.ground.process_state.depth_reader import DepthReader
from ojs_cluster.store.ground.process_state.partitions import PartitionTable
from ojs_cluster.store.ground.process_state.registry import QueueRegistry
from ojs_cluster.store.ground.process_state.touch import FetchTouches
from ojs_cluster.store.ground.process_state.unreachable_shards import UnreachableShards

Mode = Literal["killed", "applied", "deaf"]
MODES: tuple[Mode, ...] = ("killed", "applied", "deaf")
"""``killed``: the process dies before the command is sent. ``applied``: it dies after Redis has
applied the command. ``deaf``: it lives, but the reply is lost.
"""


class Died(BaseException):
    """The process is dead. None of its code runs on, error handlers included."""


def _do_nothing() -> None:
    """Do nothing after a command."""


class FailingClient:
    """A client whose process fails at its ``at``-th command.

    ``watch`` is called after every applied command.
    """

    def __init__(
        self, client: Client, at: int, mode: Mode, watch: Callable[[], None] = _do_nothing
    ) -> None:
        self._client = client
        self._at = at
        self._mode = mode
        self._watch = watch
        self._commands = 0
        self._dead = False

    @property
    def has_failed(self) -> bool:
        """Whether the process has reached the command."""
        return self._commands >= self._at

    async def script(self, *args: Any, idempotent: bool = False) -> Reply:
        command = partial(self._client.script, *args, idempotent=idempotent)
        return await self._run(command, idempotent)

    async def call(self, *args: Any, idempotent: bool = False) -> Reply:
        command = partial(self._client.call, *args, idempotent=idempotent)
        return await self._run(command, idempotent)

    async def _run(self, command: Callable[[], Awaitable[Reply]], idempotent: bool) -> Reply:
        if self._dead:
            raise Died
        self._commands += 1
        if self._commands != self._at:
            return await self._apply(command)
        self._dead = self._mode != "deaf"
        if self._mode != "killed":
            await self._apply(command)
        if self._dead:
            raise Died
        if idempotent:
            return await self._apply(command)  # as the real client does
        raise BackendUnavailable("the reply was lost", outcome="unknown")

    async def _apply(self, command: Callable[[], Awaitable[Reply]]) -> Reply:
        reply = await command()
        self._watch()
        return reply

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def process_of(store: Store, client: FailingClient) -> Store:
    """Return ``store`` for another process: with that client and empty caches."""
    return replace(
        store,
        redis=cast(Client, client),
        queues=QueueRegistry(),
        fetch_touches=FetchTouches(),
        partitions=PartitionTable(),
        unreachable_shards=UnreachableShards(),
        depth_reader=DepthReader(),
        busy_workers=BusyWorkers(),
        background=Background(),
    )


async def fail_at(
    store: Store,
    at: int,
    mode: Mode,
    act: Callable[[Store], Awaitable[object]],
    watch: Callable[[], None] = _do_nothing,
) -> tuple[bool, bool]:
    """Run an operation in another process that fails at a command.

    Returns:
        Whether the process reached that command, and whether it reported success.
    """
    client = FailingClient(store.redis, at, mode, watch)
    try:
        await act(process_of(store, client))
    except Died:
        return True, False
    except BaseExceptionGroup as group:
        if group.split(Died)[1] is not None:
            raise
        return True, False
    except BackendUnavailable:
        if mode != "deaf" or not client.has_failed:
            raise
        return True, False
    return client.has_failed, True


async def dies_at(
    store: Store,
    at: int,
    applied: bool,
    operation: Callable[[Store], Awaitable[object]],
    watch: Callable[[], None] = _do_nothing,
) -> bool:
    """Run an operation in a process that dies at a command; return False when it ended before."""
    failed, _ = await fail_at(store, at, "applied" if applied else "killed", operation, watch)
    return failed
