"""Acks and nacks, sent in batches and repeated until the server has them."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import anyio
from anyio.abc import TaskGroup

from ojs_client.backoff import Backoff
from ojs_client.errors import ApiError, ConnectionFailed, OJSError
from ojs_client.options import JSON
from ojs_client.transport import Repeat, Transport, encode
from ojs_client.worker.held_jobs import HeldJob, HeldJobs
from ojs_client.worker.signal import Signal

log: Final = logging.getLogger("ojs_client.worker")

BATCH_ITEMS: Final = 100
BATCH_S: Final = 0.010
"""Maximum time in seconds that the first item of a batch waits for others."""
_BATCH_BYTES: Final = 512 * 1024
_MAX_PENDING: Final = 1000
_FLUSH_LIMIT_S: Final = 10.0
"""Maximum time in seconds that a drain waits until the server has all acks and nacks."""
_SENDERS: Final = 4
"""Maximum number of concurrent requests with new acks or nacks."""
_RETRY_SENDERS: Final = 2
"""Maximum number of concurrent requests with repeated acks or nacks. It is separate from
``_SENDERS``, because one shard that does not answer would otherwise delay the acks of all other
shards."""
_MAX_RETRY_AFTER_S: Final = 3.0
"""Maximum ``Retry-After`` that is obeyed, in seconds. With longer pauses an ack would be given up
after fewer tries."""
_REFUSED: Final = (400, 413, 422)
"""Statuses of a batch that the server refuses as a whole. It may accept a half of the batch."""
_REPEAT_LEASES: Final = 3
"""An ack or nack is given up this many lease lengths after its first failure."""

Kind = Literal["ack", "nack"]


@dataclass(slots=True, eq=False)
class Settlement:
    """An ack or nack of a held job.

    Attributes:
        kind: whether it is an ack or a nack.
        job: the job.
        body: its JSON in the list of a batch request.
        failures: number of requests that contained it and failed.
        give_up_at: when it is given up, on the clock of the event loop.
    """

    kind: Kind
    job: HeldJob
    body: bytes
    failures: int = 0
    give_up_at: float = math.inf


@dataclass(slots=True)
class _Retries:
    """Batches of acks or nacks that failed, each with the time from which it is sent again."""

    batches: list[tuple[float, list[Settlement]]] = field(default_factory=list)
    changed: Signal = field(default_factory=Signal)

    def __len__(self) -> int:
        return sum(len(batch) for _, batch in self.batches)

    def add(self, batch: list[Settlement], due_at: float) -> None:
        self.batches.append((due_at, batch))
        self.changed.set()

    def all_due(self) -> None:
        """Make all items due now."""
        self.batches = [(-math.inf, batch) for _, batch in self.batches]
        self.changed.set()

    def take_due(self) -> dict[Kind, deque[Settlement]]:
        """Remove and return the items that are due."""
        now, due = anyio.current_time(), dict[Kind, deque[Settlement]]()
        for due_at, batch in self.batches:
            if due_at <= now:
                due.setdefault(batch[0].kind, deque()).extend(batch)
        self.batches = [entry for entry in self.batches if entry[0] > now]
        return due

    async def wait(self) -> None:
        """Return when items are due, or when items were added."""
        next_at = min((due_at for due_at, _ in self.batches), default=math.inf)
        with anyio.move_on_after(next_at - anyio.current_time()):
            await self.changed.wait()
        self.changed.clear()


def ack(job: HeldJob, result: JSON) -> Settlement:
    """Return the ack of a job.

    Raises:
        TypeError: the result has no JSON form.
        ValueError: the result has no JSON form.
        RecursionError: the result is nested too deeply.
    """
    item = {"job_id": job.id, "lease_id": job.lease_id, "result": result}
    return Settlement("ack", job, encode(item))


def nack(job: HeldJob, error: dict[str, JSON] | None) -> Settlement:
    """Return the nack of a job; without an error it requeues the job as it is."""
    item: dict[str, JSON] = {"job_id": job.id, "lease_id": job.lease_id}
    item |= {"requeue": True} if error is None else {"error": error}
    return Settlement("nack", job, encode(item))


def release(job: HeldJob) -> Settlement:
    """Return the nack that undoes the fetch of a job that has not started. No attempt counts."""
    item = {"job_id": job.id, "lease_id": job.lease_id, "requeue": True, "started": False}
    return Settlement("nack", job, encode(item))


@dataclass(slots=True)
class Settler:
    """Collects acks and nacks and sends them.

    The items of a batch are acks or nacks. A batch is sent when it is full, 10 ms after its first
    item, or when no handler runs, because then no further item comes. The server recognizes a
    repeated item by its lease, so items are sent again after any failure.

    Args:
        transport: sends the batches.
        held: the held jobs; a job is removed when the server has its ack or nack.
        worker_id: the worker.
        is_idle: whether no handler runs.
        on_settled: called after each batch.
    """

    transport: Transport
    held: HeldJobs
    worker_id: str
    is_idle: Callable[[], bool]
    on_settled: Callable[[], None]
    _waiting: dict[Kind, deque[Settlement]] = field(
        default_factory=lambda: {"ack": deque(), "nack": deque()}
    )
    _retries: _Retries = field(default_factory=_Retries)
    _in_flight: int = 0
    _added: Signal = field(default_factory=Signal)
    _batch_ready: Signal = field(default_factory=Signal)
    _empty: Signal = field(default_factory=Signal)

    @property
    def pending(self) -> int:
        """Number of acks and nacks that the server does not have yet."""
        return self._in_flight + sum(map(len, self._waiting.values())) + len(self._retries)

    def add(self, settlement: Settlement) -> None:
        """Add an ack or nack. It does not wait, so it also works while a task is cancelled."""
        settlement.job.ended = True
        self._waiting[settlement.kind].append(settlement)
        self._empty.clear()
        self._added.set()
        if self.is_idle() or len(self._waiting[settlement.kind]) >= BATCH_ITEMS:
            self._batch_ready.set()

    def handler_ended(self) -> None:
        """Send the waiting items at once if no handler runs."""
        if self.is_idle():
            self._batch_ready.set()

    @property
    def is_full(self) -> bool:
        """Whether so many acks and nacks are pending that the worker must not fetch."""
        return self.pending >= _MAX_PENDING

    async def flush(self) -> None:
        """Return when the server has all acks and nacks, or after some seconds."""
        self._batch_ready.set()
        self._retries.all_due()
        with anyio.move_on_after(_FLUSH_LIMIT_S):
            if self.pending:
                await self._empty.wait()
        if self.pending:
            log.error("%d acks are lost: their jobs will run again", self.pending)

    async def run(self) -> None:
        """Send batches until the task is cancelled."""
        senders = anyio.Semaphore(_SENDERS, fast_acquire=True)
        async with anyio.create_task_group() as group:
            group.start_soon(self._retry, group)
            while True:
                await self._added.wait()
                self._added.clear()
                if not self._batch_ready.is_set():
                    with anyio.move_on_after(BATCH_S):
                        await self._batch_ready.wait()
                self._batch_ready.clear()
                for waiting in self._waiting.values():
                    await self._send_all(waiting, senders, group)

    async def _retry(self, group: TaskGroup) -> None:
        senders = anyio.Semaphore(_RETRY_SENDERS, fast_acquire=True)
        while True:
            # Take items only when one can be sent. All items that are due by then share requests.
            await senders.acquire()
            senders.release()
            due = self._retries.take_due()
            count = sum(map(len, due.values()))
            self._in_flight += count
            for items in due.values():
                await self._send_all(items, senders, group, counted=True)
            if not due:
                await self._retries.wait()

    async def _send_all(
        self,
        items: deque[Settlement],
        senders: anyio.Semaphore,
        group: TaskGroup,
        *,
        counted: bool = False,
    ) -> None:
        while items:
            await senders.acquire()
            batch = _take(items)
            self._in_flight += 0 if counted else len(batch)
            group.start_soon(self._settle, batch, senders)

    async def _settle(self, batch: list[Settlement], senders: anyio.Semaphore) -> None:
        count = len(batch)
        try:
            await self._send(batch)
        finally:
            self._in_flight -= count
            senders.release()
            if not self.pending:
                self._empty.set()
            self.on_settled()

    async def _send(self, batch: list[Settlement]) -> None:
        """Send a batch once, and schedule the items that have to be sent again."""
        kind, retry_after_s = batch[0].kind, 0.0
        while batch:
            try:
                results = _results(await self._request(kind, batch), len(batch))
                batch = [
                    item
                    for item, result in zip(batch, results, strict=True)
                    if not self._done(item, result)
                ]
                break
            except (ApiError, ConnectionFailed) as error:
                if isinstance(error, ApiError) and error.status in _REFUSED:
                    batch = self._without_refused(batch, error)
                    continue
                log.warning("%d %ss are repeated: %s", len(batch), kind, error)
                retry_after_s = error.retry_after_s or 0.0
                break
        if batch:
            self._send_later(batch, retry_after_s)

    def _send_later(self, batch: list[Settlement], retry_after_s: float) -> None:
        now = anyio.current_time()
        for item in batch:
            item.failures += 1
            item.give_up_at = min(item.give_up_at, now + _REPEAT_LEASES * self.held.lease_s)
        self._give_up([item for item in batch if item.give_up_at <= now], None)
        batch = [item for item in batch if item.give_up_at > now]
        if batch:
            # The pause is that of the item with the fewest failures.
            backoff = Backoff(first_s=0.05, failures=min(item.failures for item in batch) - 1)
            wait_s = backoff.next_s(min(retry_after_s, _MAX_RETRY_AFTER_S))
            latest_give_up_at = max(item.give_up_at for item in batch)
            self._retries.add(batch, min(now + wait_s, latest_give_up_at))

    async def _request(self, kind: Kind, batch: Sequence[Settlement]) -> Any:
        items = b",".join(item.body for item in batch)
        worker = encode(self.worker_id)
        body = b'{"worker_id":%b,"%bs":[%b]}' % (worker, kind.encode(), items)
        return await self.transport.request(
            "POST", f"/workers/{kind}/batch", body, repeat=Repeat.NEVER, timeout_s=10
        )

    def _done(self, item: Settlement, result: Any) -> bool:
        """Handle the result of one item; return whether it need not be sent again."""
        status = result["status"]
        if status == 200:
            self.held.remove(item.job)
            return True
        error = result.get("error")
        error = error if isinstance(error, dict) else {}
        if error.get("retryable") and status != 409:
            return False
        if item.kind == "ack" and status not in (404, 409):
            self._refuse(item, error.get("message", ""))
            return True
        log.warning(
            "job %s: the server refused the %s: %s", item.job.id, item.kind, error.get("message")
        )
        self.held.remove(item.job)
        return True

    def _refuse(self, ack: Settlement, message: str) -> None:
        """Discard a job whose result the server refuses, for example because it is too large.

        Without this nack, the lease would expire and the job would run again.
        """
        log.error("job %s: the server refused its result: %s", ack.job.id, message)
        refused = {"code": "result_refused", "message": message, "retryable": False}
        self.add(nack(ack.job, refused))

    def _without_refused(self, batch: list[Settlement], error: ApiError) -> list[Settlement]:
        """Return the items to send again after the server refused a whole batch.

        The batch is halved until the item that causes the refusal is alone.
        """
        if len(batch) > 1:
            for item in batch[len(batch) // 2 :]:
                self._waiting[item.kind].append(item)
            self._added.set()
            self._batch_ready.set()
            return batch[: len(batch) // 2]
        if batch[0].kind == "ack":
            self._refuse(batch[0], error.message)
        else:
            self._give_up(batch, error)
        return []

    def _give_up(self, batch: Sequence[Settlement], error: OJSError | None) -> None:
        reason = error or "no answer in time"
        for item in batch:
            log.error(
                "job %s: its %s is lost, it may run again: %s", item.job.id, item.kind, reason
            )
            self.held.remove(item.job)


def _take(items: deque[Settlement]) -> list[Settlement]:
    """Remove and return the items of one request."""
    batch, size = list[Settlement](), 0
    while items and len(batch) < BATCH_ITEMS:
        size += len(items[0].body)
        if batch and size > _BATCH_BYTES:
            break
        batch.append(items.popleft())
    return batch


def _results(reply: Any, count: int) -> list[dict[str, JSON]]:
    """Return the results of a batch.

    Raises:
        ConnectionFailed: the reply has another form, as from a proxy.
    """
    results = reply.get("results")
    if (
        isinstance(results, list)
        and len(results) == count
        and all(isinstance(result, dict) and "status" in result for result in results)
    ):
        return results
    raise ConnectionFailed(f"the reply does not have {count} results", applied=None)
