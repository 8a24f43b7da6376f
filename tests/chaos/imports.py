"""Import jobs into the running installation, and kill the import at times."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any, Final

from tests.chaos.history import Answer, Enqueue, History, NewJob
from tests.chaos.names import FOR_GOOD, IMPORTED, QUEUE_LIMIT
from tests.chaos.producers import new_id

_JOBS: Final = 12


def write_archive(path: Path, chance: random.Random, now_ms: int) -> list[str]:
    """Write an archive of a queue with a limit and waiting jobs; return the ids of the jobs."""
    ids = [new_id(chance) for _ in range(_JOBS)]
    lines: list[dict[str, Any]] = [
        {"export": {"version": 1, "exported_at": "2026-01-01T00:00:00Z", "shards": 64}},
        {"queue": {"name": IMPORTED, "limits": f"{QUEUE_LIMIT},-,-"}},
        *({"job": _line(id_, number, now_ms)} for number, id_ in enumerate(ids)),
        {"end": {"counts": {"queues": 1, "jobs": _JOBS}}},
    ]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return ids


def _line(id_: str, number: int, now_ms: int) -> dict[str, Any]:
    attempts = FOR_GOOD["max_attempts"]
    common: dict[str, Any] = {"id": id_, "type": "chaos.imported", "queue": IMPORTED}
    common |= {"max_attempts": attempts}
    envelope = {"specversion": "1.0", **common, "priority": 0, "args": [number], "meta": {}}
    line = {**common, "envelope": envelope, "created_ms": now_ms}
    if number % 3 == 0:
        return line | {"state": "scheduled", "due_ms": now_ms + 3000}
    return line | {"state": "available", "position": number + 1}


def record(history: History, ids: list[str], answer: Answer) -> None:
    """Record an import, which stores each job on its own."""
    history.imported.update(ids)
    history.enqueues += [Enqueue((NewJob(id_, IMPORTED),), answer) for id_ in ids]
