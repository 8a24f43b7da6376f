"""A client that records its requests and the responses."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import httpx
import trio

from tests.chaos.history import (
    Answer,
    Command,
    CommandKind,
    Enqueue,
    History,
    Item,
    Keyed,
    NewJob,
    Outcome,
    Seen,
    Settle,
)

JSON = dict[str, Any]

V1: Final = "/ojs/v1"
_REPEATED_FOR_S: Final = 60.0
"""How long a client repeats a request, in seconds."""
_REFUSED_BELOW: Final = 500
_OUTCOMES: Final[dict[str, Outcome]] = {
    "not_applied": "refused",
    "stored_unconfirmed": "unconfirmed",
}


@dataclass(frozen=True, slots=True)
class Told:
    """A response with its body, which is empty when it cannot be parsed."""

    answer: Answer
    body: JSON

    @property
    def done(self) -> bool:
        return self.answer.outcome == "done"

    @property
    def details(self) -> JSON:
        found: JSON = self.body.get("error", {}).get("details", {})
        return found


class ChaosClient:
    """Sends requests to several nodes and records every response in the history.

    ``chance`` chooses the node and the next step, so equal seeds decide alike.
    """

    def __init__(
        self,
        http: httpx.AsyncClient,
        urls: Sequence[str],
        history: History,
        chance: random.Random,
        patience_s: float = _REPEATED_FOR_S,
    ) -> None:
        self._http = http
        self._urls = urls
        self.history = history
        self.chance = chance
        self._patience_s = patience_s

    async def send(
        self,
        method: str,
        path: str,
        body: JSON | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Told:
        """Send one request without repeating it."""
        told = await self._send(method, path, body, headers)
        self.history.requests[f"{method} {route_of(path)} {told.answer.outcome}"] += 1
        return told

    async def _send(
        self, method: str, path: str, body: JSON | None, headers: Mapping[str, str] | None
    ) -> Told:
        url = f"{self.chance.choice(self._urls)}{path}"
        sent = trio.current_time()
        try:
            response = await self._http.request(method, url, json=body, headers=headers)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            return Told(Answer(sent, trio.current_time(), "refused", 0, "", "no connection"), {})
        except httpx.TransportError as error:
            return Told(Answer(sent, trio.current_time(), "unknown", 0, "", repr(error)), {})
        return self._read(f"{method} {path}", sent, response)

    def _read(self, request: str, sent: float, response: httpx.Response) -> Told:
        status, answered = response.status_code, trio.current_time()
        try:
            body: JSON = response.json()
        except ValueError:
            body = {}
        error = body.get("error") if status >= 400 else None
        error = error if isinstance(error, dict) else {}
        code, message = str(error.get("code", "")), str(error.get("message", ""))
        if response.is_success:
            outcome: Outcome = "done"
        elif status < _REFUSED_BELOW:
            outcome = "refused"
        else:
            told = str(error.get("details", {}).get("outcome"))
            outcome = _OUTCOMES.get(told, "unknown")
            if status == 500:
                self.history.errors.append(f"{request} {response.text}")
        return Told(Answer(sent, answered, outcome, status, code, message), body)

    async def insist(self, method: str, path: str, body: JSON | None = None) -> Told:
        """Repeat an idempotent request until there is a definite response."""
        deadline = trio.current_time() + self._patience_s
        while True:
            told = await self.send(method, path, body)
            again = told.answer.status >= _REFUSED_BELOW or not told.answer.status
            if not again or trio.current_time() > deadline:
                return told
            await trio.sleep(self.chance.uniform(0.05, 0.4))

    # -- enqueue ------------------------------------------------------------------------------

    async def enqueue(self, jobs: Sequence[tuple[NewJob, JSON]]) -> Told:
        """Enqueue jobs, as a batch when there are several; repeat the request when all have ids."""
        repeatable = all(job.id for job, _ in jobs)
        bodies = [body for _, body in jobs]
        path = f"{V1}/jobs" if len(jobs) == 1 else f"{V1}/jobs/batch"
        request = bodies[0] if len(jobs) == 1 else {"jobs": bodies}
        deadline = trio.current_time() + self._patience_s
        doubtful = False
        while True:
            told = self._noted(
                [job for job, _ in jobs], doubtful, await self.send("POST", path, request)
            )
            doubtful = doubtful or told.answer.outcome in ("unknown", "unconfirmed")
            again = told.answer.status >= _REFUSED_BELOW or not told.answer.status
            if not (again and repeatable) or trio.current_time() > deadline:
                return told
            await trio.sleep(self.chance.uniform(0.05, 0.4))

    def _noted(self, jobs: Sequence[NewJob], doubtful: bool, told: Told) -> Told:
        ids = [job.id for job in jobs]
        answer = told.answer
        # The conflicting job has an id of this request, so an earlier try has stored it, and with
        # it all jobs of a batch. If that is not true, the rule `lost` reports it.
        if doubtful and answer.code == "duplicate" and told.details.get("existing_job_id") in ids:
            answer = replace(answer, outcome="done")
        existing = bool(told.body.get("deduplicated"))
        if told.done and not existing:
            given = [told.body["job"]] if len(jobs) == 1 else told.body["jobs"]
            jobs = [replace(job, id=it["id"]) for job, it in zip(jobs, given, strict=True)]
        elif answer.outcome == "unconfirmed" and len(jobs) == 1 and not jobs[0].id:
            jobs = [replace(jobs[0], id=str(told.details.get("job_id", "")))]
        self.history.enqueues.append(Enqueue(tuple(jobs), answer, existing))
        return Told(answer, told.body)

    async def enqueue_keyed(self, key: str, body: JSON) -> tuple[Item, ...]:
        """Send a bulk request with an idempotency key until it is answered; return its items."""
        deadline = trio.current_time() + self._patience_s
        while True:
            told = await self.send("POST", f"{V1}/jobs/bulk", body, {"Idempotency-Key": key})
            items = tuple(_item(it) for it in told.body.get("items", ()))
            self.history.keyed.append(Keyed(key, told.answer, items))
            again = told.answer.status >= _REFUSED_BELOW or not told.answer.status
            if not again or trio.current_time() > deadline:
                return items
            await trio.sleep(self.chance.uniform(0.05, 0.4))

    # -- the rest -----------------------------------------------------------------------------

    async def settle(self, kind: Any, job: JSON, worker: str, body: JSON) -> Told:
        """Report the end of an attempt until the server confirms or refuses it."""
        path = f"{V1}/workers/{'ack' if kind == 'ack' else 'nack'}"
        holder = {"job_id": job["id"], "lease_id": job["lease_id"], "worker_id": worker}
        deadline = trio.current_time() + self._patience_s
        while True:
            with self._noting(kind, [job], worker):
                told = await self.send("POST", path, {**holder, **body})
            self.note_settle(kind, job, worker, told.answer)
            again = told.answer.status >= _REFUSED_BELOW or not told.answer.status
            if not again or trio.current_time() > deadline:
                return told
            await trio.sleep(self.chance.uniform(0.05, 0.4))

    async def ack_many(self, jobs: Sequence[JSON], worker: str) -> Told:
        """Acknowledge jobs in one request, sent once. The caller records the results."""
        acks = [{"job_id": job["id"], "lease_id": job["lease_id"]} for job in jobs]
        with self._noting("ack", jobs, worker):
            return await self.send(
                "POST", f"{V1}/workers/ack/batch", {"worker_id": worker, "acks": acks}
            )

    @contextmanager
    def _noting(self, kind: Any, jobs: Sequence[JSON], worker: str) -> Iterator[None]:
        """Record an unknown outcome if the worker dies while it waits for the response."""
        sent = trio.current_time()
        try:
            yield
        except trio.Cancelled:
            for job in jobs:
                self.note_settle(kind, job, worker, Answer(sent, trio.current_time(), "unknown"))
            raise

    def note_settle(self, kind: Any, job: JSON, worker: str, answer: Answer) -> None:
        """Record that a worker has ended an attempt."""
        self.history.settles.append(
            Settle(kind, job["id"], job["lease_id"], worker, job["attempt"], answer)
        )

    async def command(
        self, kind: CommandKind, subject: str, path: str, body: JSON | None = None
    ) -> Told:
        """Send one request that changes a job, a workflow or a queue."""
        told = await self.send("POST", path, body)
        self.history.commands.append(Command(kind, subject, told.answer))
        return told

    async def insist_on(self, kind: CommandKind, subject: str, path: str) -> Told:
        """Repeat a request that changes a queue until there is a definite response."""
        deadline = trio.current_time() + self._patience_s
        while True:
            told = await self.command(kind, subject, path)
            again = told.answer.status >= _REFUSED_BELOW or not told.answer.status
            if not again or trio.current_time() > deadline:
                return told
            await trio.sleep(self.chance.uniform(0.05, 0.4))

    async def look(self, job_id: str) -> str | None:
        """Return the state of a job, None when there was no response or no job."""
        told = await self.send("GET", f"{V1}/jobs/{job_id}")
        if not told.done:
            return None
        job = told.body["job"]
        answer = Answer(told.answer.sent, told.answer.answered, "done")
        self.history.seen.append(Seen(job_id, job["state"], job["attempt"], answer))
        return str(job["state"])


def _item(item: JSON) -> Item:
    if "job" in item:
        return Item(item["job"]["id"])
    error = item["error"]
    return Item("", str(error["code"]), bool(error["retryable"]))


_ID: Final = re.compile(r"/(?:[0-9a-f]{8}-[0-9a-f-]{27}|chaos-[\w-]+|tenant-[\w-]+)")


def route_of(path: str) -> str:
    """Return the path of a request without ids, names and query."""
    return _ID.sub("/*", path.partition("?")[0])
