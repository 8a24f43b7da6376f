"""Clients that the server tells of events: the receiver of a webhook, and a stream's reader."""

from __future__ import annotations

import json
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final

import httpx
import trio

from tests.chaos import notices
from tests.chaos.client import V1, ChaosClient
from tests.chaos.history import History, Hooked, Streamed
from tests.chaos.names import SPREAD
from tests.chaos.options import ROUNDS
from tests.support.receiver import OK, Received, Receiver, receiving, status

_HOOKED: Final = (
    *("job.retrying", "job.discarded", "job.cancelled", "job.expired"),
    *("cron.triggered", "cron.skipped"),
)
_SLOW_PATH: Final = "job.completed"
"""While a webhook selects it, no ack takes the fast path. So only some seeds select it."""
_STREAMED: Final = ("job.started", "job.retrying", "job.completed", "job.discarded")
_REFUSED: Final = 0.05
"""Share of the webhook deliveries that the receiver refuses."""
_KNOWN_AFTER_S: Final = 5.0
"""Time in seconds after which every process must know a new webhook."""
_LONGEST_READ_S: Final = 8.0
"""After at most this time the reader leaves its process, and resumes at any process."""
_UNORDERED_MS: Final = 1000
"""Longest time in ms by which events of different shards overtake each other."""
_SETTLED_S: Final = 60.0
"""Most time in seconds until the listeners have got the last event."""


class StreamReader:
    """Reads a stream of server-sent events, and resumes it at any node when it ends."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        urls: Sequence[str],
        history: History,
        streamed: Streamed,
        chance: random.Random,
    ) -> None:
        self._http = http
        self._urls = urls
        self._history = history
        self._streamed = streamed
        self._chance = chance
        self._last_id = ""
        self.ready = trio.Event()
        """Set when the position at which the stream begins is known."""

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            try:
                with trio.move_on_after(self._chance.uniform(0.5, _LONGEST_READ_S)):
                    await self._read()
            except httpx.TransportError:
                pass  # a fault: the next attempt resumes
            await trio.sleep(self._chance.uniform(0, 0.3))

    async def _read(self) -> None:
        queue = self._streamed.queue
        query = {"channel": f"queue:{queue}" if queue else "all", "types": ",".join(_STREAMED)}
        headers = {"Last-Event-ID": self._last_id} if self._last_id else {}
        url = f"{self._chance.choice(self._urls)}{V1}/events/stream"
        async with self._http.stream("GET", url, params=query, headers=headers) as response:
            if response.status_code == 500:
                await response.aread()
                self._history.errors.append(f"GET {url} {response.text}")
            if response.status_code != 200:
                return
            block: dict[str, str] = {}
            async for line in response.aiter_lines():
                if line:
                    name, _, value = line.partition(":")
                    block[name] = value.removeprefix(" ")
                else:
                    self._take(block)
                    block = {}

    def _take(self, block: dict[str, str]) -> None:
        kind, data = block.get("event", ""), json.loads(block.get("data", "{}"))
        if kind == "system.gap":
            self._streamed.gaps.append((_ms(data["gap_start"]), _ms(data["gap_end"])))
        elif kind == "system.events_dropped":
            ids = (data["oldest_dropped_id"], data["newest_dropped_id"])
            times = [int(each.removeprefix("evt_").split("-")[0]) for each in ids if each]
            # The dropped events of several shards are not in the order of their times.
            times += [times[0] - _UNORDERED_MS, times[0] + _UNORDERED_MS] if times else [0]
            self._streamed.gaps.append((min(times), max(times)))
        elif kind in _STREAMED:
            self._streamed.seen[kind, data["job_id"], _ms(data["timestamp"])] += 1
        elif kind not in ("", "server.shutdown"):
            self._history.errors.append(f"the stream has {kind} {data}")
        if "id" in block:
            self._last_id = block["id"]
            self.ready.set()


def _ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


@asynccontextmanager
async def listening(
    seed: int,
    http: httpx.AsyncClient,
    urls: Sequence[str],
    client: ChaosClient,
) -> AsyncIterator[None]:
    """Subscribe a webhook and read a stream of events while the context is open."""
    history, chance = client.history, random.Random(f"{seed} listeners")
    kinds = (*_HOOKED, _SLOW_PATH) if chance.random() < 0.3 else _HOOKED
    received: set[str] = set()

    async def accept(request: Received) -> bytes:
        await trio.lowlevel.checkpoint()
        receiver.received.clear()
        if chance.random() < _REFUSED:
            return status(503)
        received.add(request.event["id"])
        return OK

    async with receiving(Receiver(answer=accept)) as receiver, trio.open_nursery() as nursery:
        body = {"url": receiver.url(), "events": list(kinds)}
        made = await client.insist("POST", f"{V1}/webhooks/subscriptions", body)
        assert made.done, made
        since_ms = int((time.time() + _KNOWN_AFTER_S) * 1000)
        history.hooked = Hooked(frozenset(kinds), since_ms, received)
        streamed = Streamed(frozenset(_STREAMED), SPREAD if ROUNDS == 1 else "")
        reader = StreamReader(http, urls, history, streamed, chance)
        nursery.start_soon(reader.run)
        with trio.fail_after(_SETTLED_S):
            await reader.ready.wait()
        streamed.since_ms = int(time.time() * 1000) + 1
        history.streamed = streamed
        yield
        nursery.cancel_scope.cancel()


async def settle(history: History) -> None:
    """Wait until the listeners have got all events of the history, or the time for it is over."""
    with trio.move_on_after(_SETTLED_S):
        while _is_missing(history):  # noqa: ASYNC110 - others set no event
            await trio.sleep(0.5)


def _is_missing(history: History) -> bool:
    findings = (*notices.hooks(history), *notices.streams(history))
    return any(finding.text for finding in findings)
