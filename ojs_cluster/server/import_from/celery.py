"""Read the tasks of Celery from a Redis broker (message protocol 2).

Waiting messages are in lists named after their queue; a message with a priority is in a list whose
name has the priority as a suffix. A worker holds messages that are not due, and those that it runs,
in the hash ``unacked``. Failed tasks are in the result backend, if it is the same database and
``result_extended`` is on.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.raw_json import Raw, array_items, object_members
from ojs_cluster.core.timestamps import format_ms
from ojs_cluster.server.import_from.foreign_job import (
    MALFORMED,
    ForeignError,
    ForeignItem,
    ForeignJob,
    NotCarried,
)
from ojs_cluster.server.import_from.source import Source

_SEPARATOR = "\x06\x16"
_INTERNAL = ("celeryev", ".pidbox")
_FOLLOW_UPS = ("callbacks", "errbacks", "chain", "chord")
_RESULT = "celery-task-meta-"
_MAX_PRIORITY = 9
"""The highest priority, to which Celery's transport limits others."""


def read_celery(source: Source) -> Iterator[ForeignItem]:
    """Yield waiting, delayed and failed tasks."""
    queues = _queues(source)
    for queue in sorted(set(queues.values())):
        keys = source.keys(f"{source.prefix}{queue}{_SEPARATOR}", "*")
        for key in [source.prefix + queue, *keys]:
            for raw in source.list_from_tail(key):
                yield _message(raw, queue)
    now_ms = source.now_ms()
    for _, raw in source.hash_values(f"{source.prefix}unacked"):
        yield _held_message(raw, queues, now_ms)
    for raw in source.texts(f"{source.prefix}{_RESULT}"):
        failed = _result(raw, queues)
        if failed is not None:
            yield failed


def _queues(source: Source) -> dict[str, str]:
    """Return the queues that producers or workers have declared, by their routing keys."""
    found = dict[str, str]()
    for key in source.keys(f"{source.prefix}_kombu.binding.", "*"):
        if not key.endswith(_INTERNAL):
            for member in source.members(key):
                routing_key, *_, queue = member.split(_SEPARATOR)
                found[routing_key or queue] = queue
    return found


def _held_message(raw: bytes, queues: Mapping[str, str], now_ms: int) -> ForeignItem:
    """Return a message that a worker holds: one that is not due, or one that it runs."""
    try:
        message, _, routing_key = orjson.loads(raw)
        queue = queues.get(routing_key, str(routing_key))
    except MALFORMED:
        return NotCarried("", "is no message of Celery's protocol 2")
    item = _message(orjson.dumps(message), queue)
    # A task that is due runs: workers keep the message, with its eta, until the task has ended.
    if isinstance(item, ForeignJob) and (item.due_ms is None or item.due_ms <= now_ms):
        reason = "is running: stop its worker, then import again"
        return NotCarried(item.queue, reason, item.source_id)
    return item


def _message(raw: bytes, queue: str) -> ForeignItem:
    try:
        message = orjson.loads(raw)
        headers, properties = message["headers"], message["properties"]
        task_id = str(headers["id"])
        task = str(headers["task"])
    except MALFORMED:
        return NotCarried(queue, "is no message of Celery's protocol 2")
    if message.get("content-type") != "application/json":
        reason = f"is serialised as {message.get('content-type')}, which only Python code can read"
        return NotCarried(queue, reason, task_id)
    try:
        args, kwargs, embed = _body(message["body"], properties.get("body_encoding"))
    except MALFORMED:
        return NotCarried(queue, "has a body that cannot be decoded", task_id)
    follow_ups = object_members(embed) or {}
    if headers.get("group") or any(
        bytes(follow_ups.get(name, b"null")) not in (b"null", b"[]") for name in _FOLLOW_UPS
    ):
        reason = "is part of a chain, group or chord: create a workflow instead"
        return NotCarried(queue, reason, task_id)
    try:
        due_ms, retries = _ms(headers.get("eta")), int(headers.get("retries") or 0)
        options = _options(headers, properties)
    except MALFORMED:
        return NotCarried(queue, "has malformed headers", task_id)
    waiting = State.RETRYABLE if retries else State.SCHEDULED
    return ForeignJob(
        source_id=task_id,
        type=task,
        queue=queue,
        args=_arguments(args, kwargs),
        state=State.AVAILABLE if due_ms is None else waiting,
        due_ms=due_ms,
        attempt=retries,
        options=options,
    )


def _body(text: str, encoding: str | None) -> list[Raw]:
    """Return args, kwargs, and what follows the task.

    Raises:
        ValueError: the body is not JSON.
    """
    raw = base64.b64decode(text, validate=True) if encoding == "base64" else text.encode()
    orjson.loads(raw)  # The functions of raw_json need valid JSON.
    return array_items(raw) or []


def _options(headers: dict[str, Any], properties: dict[str, Any]) -> dict[str, object]:
    options: dict[str, object] = {}
    # On Redis, a task with a lower number comes first.
    if priority := properties.get("priority"):
        options["priority"] = -min(_MAX_PRIORITY, max(0, int(priority)))
    expires_ms = _ms(headers.get("expires"))
    if expires_ms is not None:
        options["expires_at"] = format_ms(expires_ms).decode()
    hard_limit_s = (headers.get("timelimit") or [None])[0]
    if hard_limit_s:
        options["timeout_ms"] = round(float(hard_limit_s) * 1000)
    return options


def _arguments(args: Raw, kwargs: Raw) -> bytes:
    """Return the positional arguments, with the keyword arguments as a last object if any."""
    items = [bytes(item) for item in array_items(args) or ()]
    if object_members(kwargs):
        items.append(bytes(kwargs))
    return b"[%b]" % b",".join(items)


def _ms(text: str | None) -> int | None:
    if not text:
        return None
    moment = datetime.fromisoformat(text)
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def _result(raw: bytes, queues: Mapping[str, str]) -> ForeignItem | None:
    """Return the failed task of a stored result; None for a task that did not fail."""
    try:
        result = orjson.loads(raw)
        if result["status"] != "FAILURE":
            return None
        routing_key, task_id = str(result.get("queue") or "celery"), str(result["task_id"])
        queue = queues.get(routing_key, routing_key)
        if not result.get("name") or not isinstance(result.get("args"), list):
            reason = "failed, but its arguments are not stored (result_extended is off)"
            return NotCarried(queue, reason, task_id)
        members = object_members(raw) or {}
        error = _error(result)
    except MALFORMED:
        return NotCarried("", "is no result of Celery")
    return ForeignJob(
        source_id=task_id,
        type=str(result["name"]),
        queue=queue,
        args=_arguments(members["args"], members.get("kwargs", Raw(b"{}"))),
        state=State.DISCARDED,
        finished_ms=error.at_ms,
        attempt=error.attempt,
        errors=(error,),
    )


def _error(result: dict[str, Any]) -> ForeignError:
    failure = result.get("result") or {}
    messages = failure.get("exc_message") or ""
    return ForeignError(
        str(failure.get("exc_type") or "Exception"),
        ", ".join(map(str, messages)) if isinstance(messages, list) else str(messages),
        int(result.get("retries") or 0) + 1,
        _ms(result.get("date_done")) or 0,
        tuple((result.get("traceback") or "").splitlines()),
    )
