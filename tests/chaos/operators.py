"""What operators do in a run: they cancel, retry, purge, pause, drain, delete queues, and look."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import trio

from tests.chaos.client import JSON, V1, ChaosClient
from tests.chaos.history import Command, CommandKind, ForeignLook
from tests.chaos.names import (
    CROWDED,
    DEAD,
    FREE,
    HASTY,
    PAUSED,
    PURGED,
    QUEUES,
    SOURCE,
    TARGET,
)
from tests.chaos.producers import Known, Producer

_OLD: Final = "1h"
_SWITCH_S: Final = 2.0
_LONG_SWITCH_S: Final = 45.0
"""Longest time in seconds of some pauses: a new number of partitions takes effect in it."""
_ABSENT: Final = 404


class Operator(Producer):
    """One operator.

    Args:
        queue: the queue that this operator switches.
    """

    def __init__(self, client: ChaosClient, known: Known, queue: str = PAUSED) -> None:
        super().__init__(client, known)
        self.queue = queue

    async def operate(self) -> None:
        """Do one random operation of an operator."""
        acts: Sequence[Callable[[], Awaitable[Any]]] = (
            self._look,
            self._look,
            self._cancel,
            self._activate,
            self._retry_dead,
            self._purge,
            self._purge_old,
            self._cancel_old,
            self._move,
            self._look_for_tenant,
            self._repeat,
            self._quiet,
            self._cancel_workflow,
            self._read_pages,
        )
        await self.chance.choice(acts)()

    async def _look(self) -> None:
        if self.known.jobs:
            await self.client.look(self.chance.choice(self.known.jobs[-200:]))

    async def _cancel(self) -> None:
        if self.known.jobs:
            id_ = self.chance.choice(self.known.jobs[-20:])
            await self.client.command("cancel", id_, f"{V1}/jobs/{id_}/cancel")

    async def _activate(self) -> None:
        if self.known.pending:
            id_ = self.known.pending.pop()
            if self.chance.random() < 0.3:
                await self.client.command("cancel", id_, f"{V1}/jobs/{id_}/cancel")
            else:
                await self.client.command("activate", id_, f"{V1}/jobs/{id_}/activate")

    async def _retry_dead(self) -> None:
        told = await self.client.send("GET", f"{V1}/dead-letter?queue={DEAD}&limit=20")
        found = [job["id"] for job in told.body.get("jobs", ())]
        if found:
            id_ = self.chance.choice(sorted(found))
            await self.client.command("retry", id_, f"{V1}/dead-letter/{id_}/retry")

    async def _purge(self) -> None:
        path = f"{V1}/queues/{PURGED}/purge"
        await self.client.command("purge", PURGED, path, {"confirm": True})

    async def switch(self) -> None:
        """Pause or drain the operator's queue, and resume it after seconds."""
        queue = self.queue
        kind: CommandKind = "drain" if queue == PAUSED and self.chance.random() < 0.3 else "pause"
        await self.client.command(kind, queue, f"{V1}/queues/{queue}/{kind}")
        longest_s = _LONG_SWITCH_S if self.chance.random() < 0.3 else _SWITCH_S
        with trio.move_on_after(self.chance.uniform(0, longest_s)):
            await self.known.stop.wait()
        await self.client.insist_on("resume", queue, f"{V1}/queues/{queue}/resume")

    async def _quiet(self) -> None:
        body: JSON = {"worker_ids": [f"beating-{self.chance.randrange(2)}"]}
        path = f"{V1}/admin/workers/directive"
        await self.client.send("POST", path, {**body, "directive": "quiet"})
        await trio.sleep(self.chance.uniform(0, 1))
        await self.client.insist("POST", path, {**body, "directive": "resume"})

    async def _cancel_workflow(self) -> None:
        if self.known.workflows and self.chance.random() < 0.3:
            id_ = self.chance.choice(self.known.workflows[-5:])
            await self.client.command("cancel_workflow", id_, f"{V1}/workflows/{id_}/cancel")

    async def _read_pages(self) -> None:
        pages = ("/queues", "/jobs?limit=20", "/workflows?limit=20", "/admin/stats", "/cron")
        await self.client.send("GET", V1 + self.chance.choice(pages))

    async def _purge_old(self) -> None:
        """Delete old dead letters. The run has none, so nothing may be deleted."""
        await self.client.send("POST", f"{V1}/dead-letter/purge?older_than={_OLD}")

    async def _cancel_old(self) -> None:
        """Cancel old jobs. The run has none, so nothing may be cancelled."""
        body: JSON = {"filter": {"queue": self.chance.choice(QUEUES), "older_than": _OLD}}
        await self.client.send("POST", f"{V1}/jobs/bulk/cancel", body)

    async def _move(self) -> None:
        """Delete a queue, and move its jobs to another one."""
        body = {"strategy": "move", "target_queue": TARGET}
        told = await self.client.send("DELETE", f"{V1}/queues/{SOURCE}", body)
        answer = told.answer
        if told.done and told.body.get("state") != "deleted":
            answer = replace(answer, outcome="unknown")
        self.client.history.commands.append(Command("move", SOURCE, answer))

    async def _look_for_tenant(self) -> None:
        """Request a job of one tenant for another one."""
        if not self.known.of_tenants:
            return
        owner, job = self.chance.choice(self.known.of_tenants[-100:])
        tenant = self.chance.choice([each for each in (CROWDED, HASTY, FREE) if each != owner])
        told = await self.client.send("GET", f"{V1}/jobs/{job}", headers={"X-OJS-Tenant": tenant})
        if told.done or told.answer.status == _ABSENT:
            self.client.history.foreign_looks.append(ForeignLook(tenant, job, told.done))

    async def _repeat(self) -> None:
        """Repeat an earlier request with an idempotency key."""
        if self.known.requests:
            key = self.chance.choice(list(self.known.requests)[-20:])
            await self.client.enqueue_keyed(key, self.known.requests[key])
