"""Import jobs into the running installation, and kill the import at times."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tests.chaos.history import Answer, Enqueue, History, NewJob
from tests.chaos.names import FOR_GOOD, IMPORTED, QUEUE_LIMIT
from tests.chaos.producers import new_id

_JOBS: Final = 12
_DUE_S: Final = 3.0
"""Seconds until the scheduled jobs are due."""


def write_archive(path: Path, chance: random.Random, now_ms: int) -> dict[str, str]:
    """Write an archive of a queue with a limit and waiting jobs; return the state of each job."""
    jobs = {new_id(chance): chance.choice(("available", "scheduled")) for _ in range(_JOBS)}
    lines: list[dict[str, Any]] = [
        {"export": {"version": 1, "exported_at": "2026-01-01T00:00:00Z", "shards": 64}},
        {"queue": {"name": IMPORTED, "limits": f"{QUEUE_LIMIT},-,-"}},
        *({"job": _line(*job, number, now_ms)} for number, job in enumerate(jobs.items())),
        {"end": {"counts": {"queues": 1, "jobs": _JOBS}}},
    ]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return jobs


def _line(id_: str, state: str, number: int, now_ms: int) -> dict[str, Any]:
    attempts = FOR_GOOD["max_attempts"]
    common: dict[str, Any] = {"id": id_, "type": "chaos.imported", "queue": IMPORTED}
    common |= {"max_attempts": attempts}
    envelope = {"specversion": "1.0", **common, "priority": 0, "args": [number], "meta": {}}
    line = {**common, "envelope": envelope, "created_ms": now_ms}
    if state == "scheduled":
        return line | {"state": state, "due_ms": now_ms + round(_DUE_S * 1000)}
    return line | {"state": state, "position": number + 1}


def record(history: History, jobs: Mapping[str, str], answer: Answer) -> None:
    """Record an import, which stores each job on its own."""
    history.imported.update(jobs)
    for id_, state in jobs.items():
        job = NewJob(id_, IMPORTED, due_s=_DUE_S if state == "scheduled" else 0)
        history.enqueues.append(Enqueue((job,), answer))
