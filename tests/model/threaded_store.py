"""A store for synchronous code: hypothesis runs state machines synchronously."""

from __future__ import annotations

import queue
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import trio

from ojs_cluster.redis.settings import ClientSettings
from ojs_cluster.store.context import Store
from ojs_cluster.store.open import open_store
from tests.support.prelude import PRELUDE

T = TypeVar("T")
_START_S = 120.0


class ThreadedStore:
    """A store whose event loop runs in its own thread."""

    def __init__(self, store: Store, token: trio.lowlevel.TrioToken) -> None:
        self.store = store
        self._token = token

    def call(self, operation: Callable[[Store], Awaitable[T]]) -> T:
        """Run ``operation(store)`` to its end; return or raise its result."""
        return trio.from_thread.run(operation, self.store, trio_token=self._token)


@contextmanager
def open_threaded_store(url: str, *, shards: int) -> Iterator[ThreadedStore]:
    """Open a store on ``url`` whose scripts refuse keys of another tag."""
    opened: queue.SimpleQueue[ThreadedStore | BaseException] = queue.SimpleQueue()
    stop = trio.Event()

    async def main() -> None:
        async with open_store(
            ClientSettings.from_url(url), shards=shards, prelude=PRELUDE
        ) as store:
            opened.put(ThreadedStore(store, trio.lowlevel.current_trio_token()))
            await stop.wait()

    def run() -> None:
        try:
            trio.run(main)
        except BaseException as error:  # the other thread waits for news of any kind
            opened.put(error)

    thread = threading.Thread(target=run, name="store", daemon=True)
    thread.start()
    threaded_store = opened.get(timeout=_START_S)
    if isinstance(threaded_store, BaseException):
        raise threaded_store
    try:
        yield threaded_store
    finally:
        threaded_store._token.run_sync_soon(stop.set)
        thread.join()
