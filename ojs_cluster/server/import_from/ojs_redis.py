"""Read the jobs of the reference server, ``ojs-backend-redis``. The jobs keep their ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

import orjson

from ojs_cluster.core.jobs.ids import is_job_id
from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.timestamps import parse_timestamp
from ojs_cluster.server.import_from.foreign_job import (
    MALFORMED,
    ForeignError,
    ForeignItem,
    ForeignJob,
    ForeignQueue,
    NotCarried,
)
from ojs_cluster.server.import_from.source import Source, as_text

_JSON = ("retry", "unique", "tags")
_NUMBERS = ("priority", "timeout_ms", "visibility_timeout_ms")
_UNKNOWN = "x:"
"""Prefix of the fields of attributes that the reference server does not know."""


def read_ojs_redis(source: Source) -> Iterator[ForeignItem]:
    """Yield available, scheduled, retryable and dead jobs."""
    for queue in source.members("ojs:queues"):
        if source.exists(f"ojs:queue:{queue}:paused"):
            yield ForeignQueue(queue)
        available = source.scores(f"ojs:queue:{queue}:available")
        yield from _jobs(source, available, State.AVAILABLE)
        if running := source.size("set", f"ojs:queue:{queue}:active"):
            reason = "is active: stop its worker, then import again"
            yield NotCarried(queue, reason, count=running)
    for key, state in (
        ("ojs:scheduled", State.SCHEDULED),
        ("ojs:retry", State.RETRYABLE),
        ("ojs:dead", State.DISCARDED),
    ):
        yield from _jobs(source, source.scores(key), state)
    for name in source.members("ojs:cron:names"):
        yield NotCarried("", "is a cron job: register it again", name)


def _jobs(
    source: Source, entries: Iterable[tuple[bytes, float]], state: State
) -> Iterator[ForeignItem]:
    scores = dict[str, float]()
    """Of the jobs of one page: ``source.hashes`` reads the keys in advance by the page."""

    def keys() -> Iterator[str]:
        for raw, score in entries:
            key = f"ojs:job:{as_text(raw)}"
            scores[key] = score
            yield key

    for key, values in source.hashes(keys()):
        job_id = key.removeprefix("ojs:job:")
        score = scores.pop(key)
        queue = as_text(values.get("queue", b""))
        if "workflow_id" in values:
            yield NotCarried(queue, "is part of a workflow: start the workflow again", job_id)
            continue
        try:
            yield _job(job_id, queue, values, state, round(score))
        except MALFORMED:
            yield NotCarried(queue, "is incomplete or malformed", job_id)


def _job(job_id: str, queue: str, values: dict[str, bytes], state: State, score: int) -> ForeignJob:
    due_ms = score if state in (State.SCHEDULED, State.RETRYABLE) else None
    finished_ms = score if state is State.DISCARDED else None
    options: dict[str, object] = {
        name: orjson.loads(values[name]) for name in _JSON if name in values
    } | {name: int(values[name]) for name in _NUMBERS if name in values}
    if "expires_at" in values:
        options["expires_at"] = values["expires_at"].decode()
    if "max_attempts" in values and "retry" not in options:
        options["retry"] = {"max_attempts": int(values["max_attempts"])}
    for name, value in values.items():
        if name.startswith(_UNKNOWN):
            options[name.removeprefix(_UNKNOWN)] = orjson.loads(value)
    args, meta = values.get("args", b"[]"), values.get("meta", b"{}")
    for text in (args, meta):
        orjson.loads(text)  # The conversion needs valid JSON.
    attempt = int(values.get("attempt") or 0)
    return ForeignJob(
        source_id=job_id,
        type=values["type"].decode(),
        queue=queue,
        args=args,
        state=state,
        created_ms=_ms(values.get("created_at")),
        due_ms=due_ms,
        finished_ms=finished_ms,
        attempt=attempt,
        options=options,
        meta=meta,
        errors=_errors(values, attempt, _last_failure_ms(values, due_ms, finished_ms)),
        job_id=job_id if is_job_id(job_id) else None,
    )


def _last_failure_ms(values: dict[str, bytes], due_ms: int | None, finished_ms: int | None) -> int:
    """Return when the last attempt failed, or when it began if that is not recorded."""
    if finished_ms is not None:
        return finished_ms
    if due_ms is not None and "retry_delay_ms" in values:
        return due_ms - int(values["retry_delay_ms"])
    return _ms(values.get("started_at")) or _ms(values.get("created_at")) or 0


def _errors(values: dict[str, bytes], attempt: int, at_ms: int) -> tuple[ForeignError, ...]:
    """Return the failed attempts, all with the time of the last one.

    The reference server records no other times. It counts the attempts of its errors from 0.
    """
    history = orjson.loads(values.get("error_history") or b"[]") or []
    if not history and "error" in values:
        history = [orjson.loads(values["error"])]
    first = max(1, attempt - len(history) + 1)
    return tuple(
        ForeignError(
            str(error.get("type") or error.get("code") or "Error"),
            str(error.get("message") or ""),
            first + i,
            at_ms,
        )
        for i, error in enumerate(history)
        if isinstance(error, dict)
    )


def _ms(text: bytes | None) -> int | None:
    with suppress(ValueError):
        return parse_timestamp(text.decode()).ms if text else None
    return None
