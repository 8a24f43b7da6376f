"""Work beside plain jobs whose state lies in several shards: workflows and unique jobs."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import trio

from tests.support.load import ATTEMPTS, JSON, Load, call

ENDED = ("completed", "failed", "cancelled")


@dataclass(slots=True)
class Mixed:
    """Producers of such work, run by the workers of ``load``."""

    load: Load
    workflows: set[str] = field(default_factory=set)
    """Acknowledged workflows."""
    jobs: set[str] = field(default_factory=set)
    """Acknowledged unique jobs."""
    _stop: trio.Event = field(default_factory=trio.Event)

    async def produce(self) -> None:
        """Create one thing after the other until told to stop."""
        while not self._stop.is_set():
            kind = random.choice((self._workflow, self._unique))
            path, body = kind()
            answer, _ = await call(self.load.client, self.load.ledger, path, body)
            if answer.status_code == 201 and "workflow" in answer.json():
                self.workflows.add(answer.json()["workflow"]["id"])
            elif answer.status_code == 201:
                self.jobs.add(answer.json()["job"]["id"])
            else:
                # Another of the same uniqueness is there, or this one, stored by an earlier try.
                assert answer.status_code == 409, answer.text
            await trio.sleep(random.uniform(0.02, 0.1))

    def stop(self) -> None:
        self._stop.set()

    async def ended(self, timeout_s: float = 180.0) -> Counter[str]:
        """Wait until every workflow that the server knows has ended; how, or 'lost'."""
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

    def _unique(self) -> tuple[str, JSON]:
        options = self._options() | {"unique": {"keys": ["type"], "on_conflict": "reject"}}
        type_ = f"kill.unique{random.randrange(20)}"
        return "/ojs/v1/jobs", {"type": type_, "args": [], "options": options}
