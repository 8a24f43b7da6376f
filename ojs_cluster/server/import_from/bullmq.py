"""Read the jobs of BullMQ.

Each job is a hash. Its queue has a list or sorted set per state. A score of ``delayed`` is the due
time in ms times 4096, plus a counter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from ojs_cluster.core.jobs.states import State
from ojs_cluster.server.import_from.foreign_job import (
    MALFORMED,
    ForeignError,
    ForeignItem,
    ForeignJob,
    ForeignQueue,
    NotCarried,
)
from ojs_cluster.server.import_from.source import Source, as_text

_DELAY_SCALE = 4096
_MIN_PRIORITY = -100
_MAX_INTERVAL_MS = 10 * 365 * 86_400_000


def read_bullmq(source: Source) -> Iterator[ForeignItem]:
    """Yield waiting, delayed and failed jobs of every queue."""
    prefix = source.prefix or "bull"
    for meta in source.keys(f"{prefix}:", "*:meta"):
        base = meta.removesuffix("meta")
        queue = base[len(prefix) + 1 : -1]
        if "paused" in dict(source.hash_values(meta)):
            yield ForeignQueue(queue)
        yield from _queue(source, base, queue)


def _queue(source: Source, base: str, queue: str) -> Iterator[ForeignItem]:
    for name in ("wait", "paused"):
        ids = (as_text(raw) for raw in source.list_from_tail(base + name))
        # Older versions wake workers by markers in the list.
        yield from _jobs(source, base, queue, ((job, 0) for job in ids if not job.startswith("0:")))
    for name in ("prioritized", "delayed", "failed"):
        scored = ((as_text(raw), score) for raw, score in source.scores(base + name))
        yield from _jobs(source, base, queue, scored, name)
    if running := source.size("list", f"{base}active"):
        reason = "is running: stop its worker, then import again"
        yield NotCarried(queue, reason, count=running)
    for raw, _ in source.scores(f"{base}waiting-children"):
        yield NotCarried(queue, _FLOW, as_text(raw))
    for raw, _ in source.scores(f"{base}repeat"):
        yield NotCarried(queue, "is a job scheduler: create a cron job instead", as_text(raw))


_FLOW = "is part of a flow: create a workflow instead"


def _jobs(
    source: Source, base: str, queue: str, ids: Iterable[tuple[str, float]], place: str = "wait"
) -> Iterator[ForeignItem]:
    scores = dict[str, float]()

    def keys() -> Iterator[str]:
        for job_id, score in ids:
            scores[base + job_id] = score
            yield base + job_id

    for key, values in source.hashes(keys()):
        job_id = key.removeprefix(base)
        # The next run of a scheduler is left out with its scheduler. Its earlier runs are jobs.
        if "rjk" in values and place == "delayed" and "atm" not in values:
            continue
        if "parentKey" in values or "parent" in values:
            yield NotCarried(queue, _FLOW, job_id)
            continue
        try:
            yield _job(queue, job_id, values, place, scores.pop(key))
        except MALFORMED:
            yield NotCarried(queue, "is incomplete or malformed", job_id)


def _job(
    queue: str, job_id: str, values: dict[str, bytes], place: str, score: float
) -> ForeignItem:
    options = orjson.loads(values.get("opts") or b"{}")
    orjson.loads(values["data"])  # The conversion needs valid JSON.
    attempt = int(values.get("atm") or values.get("attemptsMade") or 0)
    created_ms = int(values["timestamp"])
    state = {"delayed": State.SCHEDULED, "failed": State.DISCARDED}.get(place, State.AVAILABLE)
    if state is State.SCHEDULED and attempt:
        state = State.RETRYABLE
    return ForeignJob(
        source_id=job_id,
        type=values["name"].decode(),
        queue=queue,
        args=b"[%b]" % values["data"],
        state=state,
        created_ms=created_ms,
        due_ms=int(score) // _DELAY_SCALE if place == "delayed" else None,
        finished_ms=int(values.get("finishedOn") or score) if place == "failed" else None,
        attempt=attempt,
        options=_options(options, int(values.get("priority") or 0)),
        errors=_errors(values, attempt, created_ms),
    )


def _options(options: dict[str, Any], priority: int) -> dict[str, object]:
    found: dict[str, object] = {}
    # Jobs without a priority come first, then those with the lowest numbers.
    if priority:
        found["priority"] = max(_MIN_PRIORITY, -priority)
    retry: dict[str, object] = {"max_attempts": max(1, int(options.get("attempts") or 1))}
    backoff = options.get("backoff")
    if isinstance(backoff, int | float):
        backoff = {"type": "fixed", "delay": backoff}
    if isinstance(backoff, dict) and backoff.get("type") in ("fixed", "exponential"):
        delay_ms = min(max(1, int(backoff.get("delay") or 1)), _MAX_INTERVAL_MS)
        retry["initial_interval_ms"] = delay_ms
        retry["max_interval_ms"] = _MAX_INTERVAL_MS
        retry["jitter"] = bool(backoff.get("jitter"))
        fixed = backoff["type"] == "fixed"
        retry["backoff_strategy"] = "constant" if fixed else "exponential"
    found["retry"] = retry
    return found


def _errors(values: dict[str, bytes], attempt: int, created_ms: int) -> tuple[ForeignError, ...]:
    """Return the errors of the stored stack traces, which are those of the last attempts."""
    if "failedReason" not in values:
        return ()
    traces = [str(trace) for trace in orjson.loads(values.get("stacktrace") or b"[]") or ()]
    traces = traces or [values["failedReason"].decode()]
    at_ms = int(values.get("finishedOn") or values.get("processedOn") or created_ms)
    first = max(1, attempt - len(traces) + 1)
    return tuple(_error(trace, first + i, at_ms) for i, trace in enumerate(traces))


def _error(trace: str, attempt: int, at_ms: int) -> ForeignError:
    head, *frames = trace.splitlines() or [""]
    kind, colon, message = head.partition(": ")
    if not colon or " " in kind:
        kind, message = "Error", head
    return ForeignError(kind, message, attempt, at_ms, tuple(frame.strip() for frame in frames))
