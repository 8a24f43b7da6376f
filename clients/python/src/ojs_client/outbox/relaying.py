"""The relay: sends the jobs of committed transactions to the server.

A row is locked while its job is sent, and deleted in the same transaction after the server has
answered. If the relay, the database or the server dies in between, the job is sent again with the
same id, and the server answers that it has it.

Polling was preferred to ``NOTIFY``: transactions that notify commit one after another, which would
slow down the application for a gain of a quarter of a second.
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
import psycopg

from ojs_client.backoff import Backoff
from ojs_client.errors import ApiError, ConnectionFailed, NotFound
from ojs_client.options import Duration, seconds
from ojs_client.outbox.rows import Failure, OutboxRows, Row
from ojs_client.transport import Repeat, Transport, segment

log: Final = logging.getLogger("ojs_client.outbox")

_MAX_BYTES: Final = 1024 * 1024
_PURGE_S: Final = 3600.0
_MAX_PAUSE_S: Final = 30.0
_ONE_BY_ONE_S: Final = 60.0
"""How long jobs are sent one by one, in seconds: less than a relay may keep its rows."""
_MAX_ATTEMPTS: Final = 10
_OF_THE_SERVER: Final = (401, 408, 429, 502, 503, 504)
"""Statuses that say nothing about the job: it waits for as long as they come."""


async def run(
    database: str,
    *,
    url: str | None,
    api_key: str | None,
    poll: Duration,
    portion: int,
    keep_once: Duration,
    keep_refused: Duration,
    transport: Any,
) -> None:
    """Send jobs until the task is cancelled; ``outbox.relay`` describes it."""
    if portion < 1:
        raise ValueError("a portion has at least one job")
    rows = OutboxRows(database)
    try:
        async with Transport(url, api_key=api_key, transport=transport) as connected:
            keep_s = (seconds(keep_once), seconds(keep_refused))
            await _Relay(rows, connected, seconds(poll), portion, keep_s).run()
    finally:
        rows.close()


@dataclass(slots=True)
class _Pause:
    """A queue whose jobs the server does not take at the moment, and when they are tried again."""

    until: float = 0.0
    backoff: Backoff = field(default_factory=lambda: Backoff(1.0, _MAX_PAUSE_S))


@dataclass(slots=True)
class _Relay:
    rows: OutboxRows
    transport: Transport
    poll_s: float
    portion: int
    keep_s: tuple[float, float]
    backoff: Backoff = field(default_factory=lambda: Backoff(0.1, 5.0))
    pauses: dict[str, _Pause] = field(default_factory=dict)
    purge_at: float = -math.inf

    async def run(self) -> None:
        while True:
            try:
                moved = await self._round()
                self.backoff.reset()
            except psycopg.ProgrammingError:
                raise  # the tables do not exist: time does not change that
            except (psycopg.Error, ConnectionFailed) as error:
                wait_s = self.backoff.next_s()
                log.warning("the outbox waits for %.1f s: %s", wait_s, error)
                self.rows.close()
                await anyio.sleep(wait_s)
                continue
            if not moved:
                await anyio.sleep(self.poll_s)

    async def _round(self) -> bool:
        """Send one portion; return whether a row has left the queue."""
        now = anyio.current_time()
        if now >= self.purge_at:
            if lost := await anyio.to_thread.run_sync(self.rows.forget, *self.keep_s):
                log.warning("%d jobs are deleted: they were refused too long ago", lost)
            self.purge_at = now + _PURGE_S
        paused = [queue for queue, pause in self.pauses.items() if pause.until > now]
        claimed = await anyio.to_thread.run_sync(self.rows.claim, self.portion, paused)
        if not claimed:
            return False
        portion = _Portion(_of_one_request(claimed))
        try:
            await self._send(portion)
        finally:  # also if it is cancelled or a connection breaks: the server has the first jobs
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self.rows.settle, portion.sent, portion.failed)
        return bool(portion.sent) or any(each.is_final for each in portion.failed.values())

    async def _send(self, portion: _Portion) -> None:
        body = b'{"jobs":[%b]}' % b",".join(row.job for row in portion.rows)
        try:
            await self.transport.request("POST", "/jobs/batch", body, repeat=Repeat.NEVER)
        except ApiError as error:
            # The server has stored all or none. One job may prevent it, or one shard.
            log.info("sends %d jobs one by one: %s", len(portion.rows), error)
            stop_at = anyio.current_time() + _ONE_BY_ONE_S
            for row in portion.rows:
                if anyio.current_time() > stop_at:
                    break
                await self._send_one(row, portion)
        else:
            portion.sent += [row.position for row in portion.rows]
            for queue in {row.queue for row in portion.rows}:
                self.pauses.pop(queue, None)

    async def _send_one(self, row: Row, portion: _Portion) -> None:
        if row.queue in portion.paused:  # its jobs keep their order
            return
        try:
            await self._store(row)
        except ApiError as error:
            failure = Failure(str(error), _is_final(error, row.attempts + 1))
            portion.failed[row.position] = failure
            if failure.is_final:
                log.warning("job %s of queue %s is refused: %s", row.job_id, row.queue, error)
                return
            pause = self.pauses.setdefault(row.queue, _Pause())
            wait_s = pause.backoff.next_s(error.retry_after_s)
            pause.until = anyio.current_time() + wait_s
            portion.paused.add(row.queue)
            log.warning("jobs of queue %s wait for %.1f s: %s", row.queue, wait_s, error)
        else:
            self.pauses.pop(row.queue, None)
            portion.sent.append(row.position)

    async def _store(self, row: Row) -> None:
        """Enqueue a job, unless an earlier try has.

        Raises:
            ApiError: the server does not take it.
            ConnectionFailed: the server did not answer.
        """
        try:
            await self.transport.request("POST", "/jobs", row.job, repeat=Repeat.NEVER)
        except ApiError as error:
            if error.code != "duplicate" or error.details.get("existing_job_id") != row.job_id:
                raise
            if not await self._is_same(row):
                raise

    async def _is_same(self, row: Row) -> bool:
        """Return whether the job of this id is that of the row, and not another one."""
        try:
            found = await self.transport.request("GET", f"/jobs/{segment(row.job_id)}")
        except ApiError as error:
            if isinstance(error, NotFound) or error.status == 403:
                return True  # it has ended meanwhile, or the API key may not read it
            raise
        job, sent = found["job"], json.loads(row.job)
        return bool(job["type"] == sent["type"] and job["args"] == sent["args"])


@dataclass(slots=True)
class _Portion:
    """Rows that are sent together, and what has become of them."""

    rows: list[Row]
    sent: list[int] = field(default_factory=list)
    failed: dict[int, Failure] = field(default_factory=dict)
    paused: set[str] = field(default_factory=set)


def _of_one_request(rows: list[Row]) -> list[Row]:
    """Return the first rows, as many as fit into one request."""
    size = 0
    for count, row in enumerate(rows):
        size += len(row.job)
        if count and size > _MAX_BYTES:
            return rows[:count]
    return rows


def _is_final(error: ApiError, attempt: int) -> bool:
    """Return whether a job is refused, so that it delays its queue no more.

    An error without a code comes from a proxy. With another API key, the server may take the job.
    """
    if error.status in _OF_THE_SERVER:
        return False
    is_certain = error.status < 500 and error.status != 403 and error.code != "http_error"
    return (is_certain and not error.retryable) or attempt >= _MAX_ATTEMPTS
