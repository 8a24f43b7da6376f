"""Read the jobs of Sidekiq, and those that Rails' Active Job has stored through it.

A job is the JSON of an object in the list of its queue, or in the sorted sets ``schedule``,
``retry`` and ``dead``, whose scores are times in seconds.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.raw_json import Raw, array_items, object_members
from ojs_cluster.server.import_from.foreign_job import (
    MALFORMED,
    ForeignError,
    ForeignItem,
    ForeignJob,
    NotCarried,
)
from ojs_cluster.server.import_from.source import Source

_DEFAULT_RETRIES = 25
_MAX_BACKTRACE_BYTES = 1 << 20
_SECONDS_UNTIL = 1e11
"""Greater times are in milliseconds, as Sidekiq 8 writes them."""


def read_sidekiq(source: Source) -> Iterator[ForeignItem]:
    """Yield waiting, scheduled, failed and dead jobs."""
    for queue in source.members("queues"):
        for raw in source.list_from_tail(f"queue:{queue}"):
            yield _job(raw, State.AVAILABLE, queue=queue)
    for key, state in (
        ("schedule", State.SCHEDULED),
        ("retry", State.RETRYABLE),
        ("dead", State.DISCARDED),
    ):
        for raw, score in source.scores(key):
            yield _job(raw, state, score)
    for process in source.members("processes"):
        if running := source.size("hash", f"{process}:work"):
            reason = "is running: stop its process, then import again"
            yield NotCarried("", reason, process, running)


def _job(raw: bytes, state: State, score: float = 0, queue: str = "") -> ForeignItem:
    try:
        job, members = orjson.loads(raw), object_members(raw) or {}
        source_id, name = str(job["jid"]), str(job.get("wrapped") or job["class"])
        queue = queue or str(job["queue"])
        args = _arguments(members["args"], wrapped="wrapped" in job)
        if "bid" in job:
            return NotCarried(queue, "is part of a batch: create a workflow instead", source_id)
        if job.get("encrypt"):
            return NotCarried(queue, "has encrypted arguments", source_id)
        return _foreign(job, state, score, (source_id, name, queue, args))
    except MALFORMED:
        return NotCarried(queue, "is incomplete or malformed")


def _foreign(
    job: Mapping[str, Any], state: State, score: float, names: tuple[str, str, str, bytes]
) -> ForeignJob:
    source_id, name, queue, args = names
    retry = job.get("retry", True)
    retries = _DEFAULT_RETRIES if retry is True else int(retry or 0)
    # The count starts at 0 with the first failure.
    attempt = int(job["retry_count"]) + 1 if "retry_count" in job else 0
    if state is State.DISCARDED:
        attempt = max(1, attempt)
    options: dict[str, object] = {"retry": {"max_attempts": retries + 1}}
    if tags := [tag for tag in job.get("tags") or () if isinstance(tag, str) and tag]:
        options["tags"] = tags
    at_ms = round(score * 1000)
    return ForeignJob(
        source_id=source_id,
        type=name,
        queue=queue,
        args=args,
        state=state,
        created_ms=_ms(job.get("created_at")),
        due_ms=at_ms if state in (State.SCHEDULED, State.RETRYABLE) else None,
        finished_ms=at_ms if state is State.DISCARDED else None,
        attempt=attempt,
        options=options,
        errors=_errors(job, attempt),
    )


def _arguments(args: Raw, *, wrapped: bool) -> bytes:
    """Return the arguments; those of Active Job are inside of its own description of the job."""
    if not wrapped:
        return bytes(args)
    items = array_items(args) or []
    return bytes((object_members(items[0]) or {})["arguments"])


def _errors(job: Mapping[str, Any], attempt: int) -> tuple[ForeignError, ...]:
    if "error_class" not in job:
        return ()
    at_ms = _ms(job.get("retried_at")) or _ms(job.get("failed_at")) or 0
    backtrace = _backtrace(job.get("error_backtrace"))
    message = str(job.get("error_message") or "")
    return (ForeignError(str(job["error_class"]), message, max(1, attempt), at_ms, backtrace),)


def _backtrace(packed: object) -> tuple[str, ...]:
    """Return the frames of a backtrace, which Sidekiq stores compressed."""
    if not isinstance(packed, str):
        return ()
    try:
        text = zlib.decompressobj().decompress(base64.b64decode(packed), _MAX_BACKTRACE_BYTES)
        return tuple(map(str, orjson.loads(text)))
    except (ValueError, zlib.error, binascii.Error):
        return ()


def _ms(time: object) -> int | None:
    if not isinstance(time, int | float):
        return None
    return round(time if time > _SECONDS_UNTIL else time * 1000)
