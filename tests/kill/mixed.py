"""Load beside plain jobs, whose state is in several shards.

Workflows, unique jobs, jobs with a rate limit key, and cron jobs.
"""

from __future__ import annotations

import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

import httpx
import trio

from tests.support.load import ATTEMPTS, JSON, Load, call, eventually

ENDED = ("completed", "failed", "cancelled")
OVER = ("completed", "discarded", "cancelled")
CRONS = {"kill-allow": "allow", "kill-skip": "skip", "kill-enqueue": "enqueue"}
"""Cron jobs with an occurrence every second, by overlap policy."""


@dataclass(slots=True)
class Mixed:
    """Producers of such jobs, which the workers of ``load`` run."""

    load: Load
    workflows: set[str] = field(default_factory=set)
    """Acknowledged workflows."""
    jobs: set[str] = field(default_factory=set)
    """Acknowledged unique jobs and jobs with a rate limit key."""
    _stop: trio.Event = field(default_factory=trio.Event)

    async def produce(self) -> None:
        """Create workflows and jobs until stopped."""
        while not self._stop.is_set():
            kind = random.choice((self._workflow, self._unique, self._limited))
            path, body = kind()
            answer, _ = await call(self.load.client, self.load.ledger, path, body)
            if answer.status_code == 201 and "workflow" in answer.json():
                self.workflows.add(answer.json()["workflow"]["id"])
            elif answer.status_code == 201:
                self.jobs.add(answer.json()["job"]["id"])
            else:
                # Another job of the fingerprint exists, or this one, which an earlier try has
                # stored.
                assert answer.status_code == 409, answer.text
            await trio.sleep(random.uniform(0.02, 0.1))

    def stop(self) -> None:
        self._stop.set()

    async def schedule(self) -> None:
        """Register the cron jobs."""
        for name, policy in CRONS.items():
            body: JSON = {"name": name, "cron": "@every 1s", "type": "kill.cron", "args": []}
            # Served before all other queues, which take long on a slow machine: the next run may
            # wait for this one.
            first = {"queue": self.load.queues[0], "priority": 9}
            body |= {"overlap_policy": policy, "options": self._options() | first}
            answer, repeated = await call(self.load.client, self.load.ledger, "/ojs/v1/cron", body)
            assert answer.status_code == 201 or (repeated and answer.status_code == 409)

    async def fired_again(self, timeout_s: float = 120.0) -> None:
        """Wait until workers had runs of later occurrences of each cron job."""
        fired = self.load.ledger.occurrences
        last = max((at for _, at in fired), default="")

        for name in CRONS:
            await eventually(
                lambda: any(of == name and at > last for of, at in fired),  # noqa: B023 - awaited here
                timeout_s=timeout_s,
                what=f"{name} fired after {last}",
            )

    async def unschedule(self, timeout_s: float = 120.0) -> None:
        """Delete the cron jobs."""
        with trio.fail_after(timeout_s):
            for name in CRONS:
                while True:
                    with suppress(httpx.TransportError):
                        answer = await self.load.client.delete(f"/ojs/v1/cron/{name}")
                        if answer.status_code in (200, 204, 404):
                            break
                    await trio.sleep(0.2)

    @property
    def repeated_occurrences(self) -> dict[tuple[str, str], set[str]]:
        """Return occurrences that became several jobs."""
        return {
            occurrence: ids
            for occurrence, ids in self.load.ledger.occurrences.items()
            if len(ids) > 1
        }

    async def jobs_ended(self, timeout_s: float = 180.0) -> None:
        """Wait until every such job, and every run of a cron job, has ended."""
        over: set[str] = set()
        with trio.fail_after(timeout_s):
            while left := self._known() - self.load.ledger.completed - over:
                for id_ in left:
                    answer = await self.load.client.get(f"/ojs/v1/jobs/{id_}")
                    if answer.status_code == 404 or (
                        answer.status_code == 200 and answer.json()["job"]["state"] in OVER
                    ):
                        over.add(id_)
                await trio.sleep(0.5)

    def _known(self) -> set[str]:
        return self.jobs.union(*self.load.ledger.occurrences.values())

    async def ended(self, timeout_s: float = 180.0) -> Counter[str]:
        """Wait until every workflow has ended; return its state, or 'lost'."""
        states: dict[str, str] = {}
        with trio.fail_after(timeout_s):
            while left := self.workflows - states.keys():
                for id_ in left:
                    answer = await self.load.client.get(f"/ojs/v1/workflows/{id_}")
                    if answer.status_code == 404:
                        states[id_] = "lost"
                    elif answer.status_code == 200:
                        state = answer.json()["workflow"]["state"]
                        if state in ENDED:
                            states[id_] = state
                await trio.sleep(0.5)
        return Counter(states.values())

    def _options(self) -> JSON:
        retry = {"max_attempts": ATTEMPTS, "initial_interval": "PT0.2S", "jitter": False}
        return {"queue": random.choice(self.load.queues), "retry": retry}

    def _workflow(self) -> tuple[str, JSON]:
        steps = [{"type": "kill.step", "args": [], "options": self._options()} for _ in range(3)]
        return "/ojs/v1/workflows", {"type": "chain", "name": "kill", "steps": steps}

    def _limited(self) -> tuple[str, JSON]:
        limit = {"key": f"kill.k{random.randrange(3)}", "concurrency": 2}
        options = self._options() | {"rate_limit": limit}
        return "/ojs/v1/jobs", {"type": "kill.limited", "args": [], "options": options}

    def _unique(self) -> tuple[str, JSON]:
        options = self._options() | {"unique": {"keys": ["type"], "on_conflict": "reject"}}
        type_ = f"kill.unique{random.randrange(20)}"
        return "/ojs/v1/jobs", {"type": type_, "args": [], "options": options}
