"""The content of events: the members of their ``data`` (spec: ojs-events 5).

``append_event.lua`` describes the one-letter fields that all entries have: ``t``, ``j``, ``y`` and
``q``. The others depend on the kind of event, and this module names them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import orjson

from ojs_cluster.core.timestamps import format_ms


def content_of(at_ms: int, fields: Mapping[bytes, bytes]) -> tuple[bytes, bytes]:
    """Return the subject of an event, and the members of its data without braces.

    Args:
        at_ms: when the event happened, in Unix milliseconds.
        fields: the fields of the stream entry, with one job id.
    """
    kind = fields[b"t"]
    queue = b'"queue":' + orjson.dumps(fields[b"q"].decode())
    if kind.startswith(b"queue."):
        subject, data = fields[b"q"], queue
    elif kind in (b"backpressure.warning", b"backpressure.cleared"):
        subject = fields[b"q"]
        data = b'%b,"depth":%b,"bound":%b' % (queue, fields[b"d"], fields[b"b"])
    elif kind == b"backpressure.rejected":
        subject = fields[b"q"]
        data = b'%b,"depth":%b,"bound":%b,"job_type":%b' % (
            *(queue, fields[b"d"], fields[b"b"]),
            orjson.dumps(fields[b"y"].decode()),
        )
    elif kind.startswith(b"tenant."):
        subject, data = fields[b"tn"], _tenant_data(fields)
    elif kind.startswith(b"cron."):
        subject, data = fields[b"c"], _cron_data(at_ms, fields)
    elif kind.startswith(b"rate_limit."):
        subject, data = fields[b"k"], _limit_data(fields)
    elif kind.startswith(b"problem."):
        subject, data = fields[b"i"], _problem_data(fields)
    elif kind.startswith(b"workflow."):
        subject, data = fields[b"j"], fields[b"D"]
    else:
        subject = fields[b"j"]
        data = b'"job_id":"%b","job_type":%b,%b' % (
            subject,
            orjson.dumps(fields[b"y"].decode()),
            queue,
        )
        for name, member in _MEMBERS.get(kind, {}).items():
            value = fields.get(name)
            if value is not None:
                data += b"," + member(value)
    return subject, data


def _limit_data(fields: Mapping[bytes, bytes]) -> bytes:
    """Return the data of a rate limit event.

    An event from the shard of the key has the id of a job, but neither its type nor its queue.
    """
    members = [_text(b"key")(fields[b"k"])]
    if b"n" in fields:
        members += [_time(b"until")(fields[b"n"]), b'"reason":"rate_limit_until"']
    for name, member in (
        (b"j", _text(b"job_id")),
        (b"y", _text(b"job_type")),
        (b"q", _text(b"queue")),
        (b"s", _text(b"strategy")),
        (b"l", _number(b"limit")),
        (b"u", _number(b"current")),
    ):
        if fields.get(name):
            members.append(member(fields[name]))
    return b",".join(members)


def _tenant_data(fields: Mapping[bytes, bytes]) -> bytes:
    data = _text(b"tenant_id")(fields[b"tn"])
    if b"l" in fields:
        data += b",%b" % _text(b"limit")(fields[b"l"])
        data += b',"current":%b,"maximum":%b' % (fields[b"u"], fields[b"m"])
    return data


def _problem_data(fields: Mapping[bytes, bytes]) -> bytes:
    members = {
        "problem_id": fields[b"i"].decode(),
        "since": format_ms(int(fields[b"b"])).decode(),
        **orjson.loads(fields[b"D"]),
    }
    return orjson.dumps(members)[1:-1]


def _cron_data(fired_ms: int, fields: Mapping[bytes, bytes]) -> bytes:
    members: list[tuple[bytes, bytes | None]] = [
        (b"cron_name", fields[b"c"]),
        (b"cron_expression", fields[b"x"]),
        (b"timezone", fields[b"z"]),
        (b"queue", fields[b"q"]),
        (b"job_type", fields[b"y"]),
        (b"reason", fields.get(b"w")),
        (b"active_job_id" if b"w" in fields else b"job_id", fields[b"j"] or None),
        (b"scheduled_time", format_ms(int(fields[b"s"]))),
        (b"actual_time", format_ms(fired_ms)),
    ]
    text = b",".join(
        b'"%b":%b' % (label, orjson.dumps(value.decode()))
        for label, value in members
        if value is not None
    )
    return text + b',"run_count":' + fields[b"r"] if b"r" in fields else text


def _number(label: bytes) -> Callable[[bytes], bytes]:
    return lambda value: b'"%b":%b' % (label, value)


def _time(label: bytes) -> Callable[[bytes], bytes]:
    return lambda value: b'"%b":"%b"' % (label, format_ms(int(float(value))))


def _text(label: bytes) -> Callable[[bytes], bytes]:
    return lambda value: b'"%b":%b' % (label, orjson.dumps(value.decode()))


def _error(label: bytes) -> Callable[[bytes], bytes]:
    # An entry holds the JSON object of an error without its closing brace.
    return lambda value: b'"%b":%b}' % (label, value)


_MEMBERS: dict[bytes, dict[bytes, Callable[[bytes], bytes]]] = {
    b"job.scheduled": {b"n": _time(b"scheduled_at")},
    b"job.started": {b"w": _text(b"worker_id"), b"a": _number(b"attempt")},
    b"job.completed": {b"a": _number(b"attempt"), b"d": _number(b"duration_ms")},
    b"job.failed": {b"a": _number(b"attempt"), b"e": _error(b"error")},
    b"job.discarded": {b"a": _number(b"total_attempts"), b"e": _error(b"last_error")},
    b"job.retrying": {
        b"a": _number(b"attempt"),
        b"m": _number(b"max_attempts"),
        b"n": _time(b"next_retry_at"),
        b"e": _error(b"error"),
    },
    b"job.heartbeat": {
        b"w": _text(b"worker_id"),
        b"a": _number(b"attempt"),
        b"n": _time(b"visible_until"),
    },
    b"job.progress": {
        b"w": _text(b"worker_id"),
        b"a": _number(b"attempt"),
        b"p": _number(b"progress_percent"),
        b"g": _text(b"progress_message"),
    },
    b"job.checkpointed": {
        b"w": _text(b"worker_id"),
        b"a": _number(b"attempt"),
        b"n": _number(b"sequence"),
    },
    b"job.expired": {b"c": _time(b"created_at"), b"x": _time(b"expired_at")},
}
"""Per event type: the stream fields that become members of ``data``, with their writers."""
