"""Acks and nacks, sent in batches and repeated until the server has them."""

from __future__ import annotations

import logging
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
from ojs_client.worker.leases import HeldJob, Leases
from ojs_client.worker.signal import Signal

log = logging.getLogger("ojs_client.worker")

BATCH_ITEMS: Final = 100
BATCH_S: Final = 0.010
"""How long the first ack of a batch waits for others, in seconds."""
_BATCH_BYTES: Final = 512 * 1024
_SENDERS: Final = 4
_REFUSED: Final = (400, 413, 422)
"""Statuses of a batch that the server cannot accept. It may accept the halves of the batch."""
_REPEAT_LEASES: Final = 3
"""After how many lengths of a lease without an answer an ack is given up."""

Kind = Literal["ack", "nack"]


@dataclass(frozen=True, slots=True)
class Settlement:
    """An ack or nack of a held job. ``body`` is its item in the request."""

    kind: Kind
    job: HeldJob
    body: bytes


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


@dataclass(slots=True)
class Settler:
    """Collects acks and nacks and sends them.

    A batch is sent when it is full, 10 ms after its first item, or when no handler runs that could
    add to it. The server recognizes a repeated ack by its lease, so batches are repeated after any
    failure.

    Args:
        transport: sends the batches.
        leases: the held jobs; a job is removed when its ack or nack is in.
        worker_id: the worker.
        is_idle: whether no handler runs.
        on_settled: called after each batch.
    """

    transport: Transport
    leases: Leases
    worker_id: str
    is_idle: Callable[[], bool]
    on_settled: Callable[[], None]
    _waiting: dict[Kind, deque[Settlement]] = field(
        default_factory=lambda: {"ack": deque(), "nack": deque()}
    )
    _in_flight: int = 0
    _added: Signal = field(default_factory=Signal)
    _batch_ready: Signal = field(default_factory=Signal)
    _empty: Signal = field(default_factory=Signal)

    @property
    def pending(self) -> int:
        """Number of acks and nacks that the server does not have yet."""
        return self._in_flight + sum(map(len, self._waiting.values()))

    def add(self, settlement: Settlement) -> None:
        """Add an ack or nack. It does not wait, so it also works while a task is cancelled."""
        settlement.job.ended = True
        self._waiting[settlement.kind].append(settlement)
        self._empty.clear()
        self._added.set()
        if self.is_idle() or len(self._waiting[settlement.kind]) >= BATCH_ITEMS:
            self._batch_ready.set()

    def handler_ended(self) -> None:
        """Send the waiting items if no handler runs that could add to them."""
        if self.is_idle():
            self._batch_ready.set()

    async def flush(self) -> None:
        """Return when the server has all acks and nacks."""
        self._batch_ready.set()
        if self.pending:
            await self._empty.wait()

    async def run(self) -> None:
        """Send batches until the task is cancelled."""
        senders = anyio.Semaphore(_SENDERS)
        async with anyio.create_task_group() as group:
            while True:
                await self._added.wait()
                self._added.clear()
                if not self._batch_ready.is_set():
                    with anyio.move_on_after(BATCH_S):
                        await self._batch_ready.wait()
                self._batch_ready.clear()
                for kind in ("ack", "nack"):
                    await self._send_waiting(kind, senders, group)

    async def _send_waiting(self, kind: Kind, senders: anyio.Semaphore, group: TaskGroup) -> None:
        while self._waiting[kind]:
            await senders.acquire()
            batch = self._take(kind)
            self._in_flight += len(batch)
            group.start_soon(self._settle, kind, batch, senders)

    def _take(self, kind: Kind) -> list[Settlement]:
        waiting, batch, size = self._waiting[kind], list[Settlement](), 0
        while waiting and len(batch) < BATCH_ITEMS:
            size += len(waiting[0].body)
            if batch and size > _BATCH_BYTES:
                break
            batch.append(waiting.popleft())
        return batch

    async def _settle(self, kind: Kind, batch: list[Settlement], senders: anyio.Semaphore) -> None:
        count = len(batch)
        try:
            await self._repeat(kind, batch)
        finally:
            self._in_flight -= count
            senders.release()
            if not self.pending:
                self._empty.set()
            self.on_settled()

    async def _repeat(self, kind: Kind, batch: list[Settlement]) -> None:
        backoff = Backoff(first_s=0.05)
        give_up_at = anyio.current_time() + _REPEAT_LEASES * self.leases.lease_s
        while batch:
            try:
                reply = await self._request(kind, batch)
                batch = [
                    item
                    for item, result in zip(batch, reply["results"], strict=True)
                    if not self._done(item, result)
                ]
                wait_s = backoff.next_s()
            except (ApiError, ConnectionFailed) as error:
                if isinstance(error, ApiError) and error.status in _REFUSED:
                    batch = self._without_refused(batch, error)
                    continue
                log.warning("%d %ss are repeated: %s", len(batch), kind, error)
                wait_s = backoff.next_s(getattr(error, "retry_after_s", None))
            if batch:
                if anyio.current_time() + wait_s > give_up_at:
                    self._give_up(batch, None)
                    return
                await anyio.sleep(wait_s)

    async def _request(self, kind: Kind, batch: Sequence[Settlement]) -> Any:
        items = b",".join(item.body for item in batch)
        worker = encode(self.worker_id)
        body = b'{"worker_id":%b,"%bs":[%b]}' % (worker, kind.encode(), items)
        return await self.transport.request(
            "POST", f"/ojs/v1/workers/{kind}/batch", body, repeat=Repeat.NEVER, timeout_s=10
        )

    def _done(self, item: Settlement, result: Any) -> bool:
        """Handle the result of one item; return whether it need not be sent again."""
        status = result["status"]
        if status == 200:
            self.leases.remove(item.job)
            return True
        error = result.get("error") or {}
        if error.get("retryable") and status != 409:
            return False
        if item.kind == "ack" and status not in (404, 409):
            self._refuse(item, error.get("message", ""))
            return True
        log.warning(
            "job %s: the server refused the %s: %s", item.job.id, item.kind, error.get("message")
        )
        self.leases.remove(item.job)
        return True

    def _refuse(self, ack: Settlement, message: str) -> None:
        """Discard a job whose result the server refuses, such as one that is too large.

        Without the nack the job would run again and again.
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
                "job %s: its %s is lost, it will run again: %s", item.job.id, item.kind, reason
            )
            self.leases.remove(item.job)
