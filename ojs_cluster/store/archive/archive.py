"""The lines of an archive: what `ojs-cluster export` writes and `ojs-cluster import` reads.

One JSON object a line, with one member that says what it is: ``export`` first, then ``queue``,
``job``, ``workflow`` and ``cron``, and ``end`` last, so that a file that was cut off is noticed.
Results of a workflow's jobs are in its line; those too many for one are in ``results`` before it.
User JSON stands in a line byte for byte as it was sent, but for the line breaks between its tokens:
a line has one, at its end, so they become blanks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from ojs_cluster.core import raw_json
from ojs_cluster.core.errors import InvalidPayload
from ojs_cluster.core.jobs.ids import is_job_id
from ojs_cluster.core.limits import STORED_LIMITS
from ojs_cluster.core.rate_limit import RateLimits, unpack_limits
from ojs_cluster.core.raw_json import Raw
from ojs_cluster.keys import MAX_PARTITIONS
from ojs_cluster.store.archive.job_lines import job_pieces, parse_job_line
from ojs_cluster.store.archive.line_values import (
    QUEUE_FIELDS,
    BadLine,
    CronLine,
    End,
    Head,
    JobLine,
    Line,
    QueueLine,
    ResultsLine,
    WorkflowLine,
    dump,
    is_number,
    number,
    text,
    texts,
)

VERSION = 1
_is_job_number = re.compile(r"[0-9]{1,4}").fullmatch
_are_times = re.compile(r"\d+ \d+ \d+").fullmatch


def encode(line: Line, **more: str | int) -> bytes:
    """One line of the file, its end included; ``more`` goes into a head for people to read."""
    match line:
        case Head(version):
            kind, pieces = "export", {"version": dump(version)}
            pieces |= {name: dump(value) for name, value in more.items()}
        case QueueLine():
            kind, pieces = "queue", _queue_pieces(line)
        case JobLine():
            kind, pieces = "job", job_pieces(line)
        case ResultsLine(workflow_id, results):
            kind, pieces = "results", {"workflow": dump(workflow_id), "of": _by_number(results)}
        case WorkflowLine():
            kind, pieces = "workflow", _workflow_pieces(line)
        case CronLine(name, fields):
            kind, pieces = "cron", {"name": dump(name), **_cron_pieces(fields)}
        case End(counts):
            kind, pieces = "end", {"counts": dump(dict(counts))}
    raw = b'{"%b":{%b}}\n' % (kind.encode(), raw_json.join(pieces))
    # Inside of a text JSON has them escaped.
    return raw if raw.count(b"\n") == 1 else raw[:-1].replace(b"\n", b" ") + b"\n"


def parse(raw: bytes) -> Line:
    """The line that ``encode`` wrote.

    Raises:
        BadLine: it is none, or what it says cannot be.
    """
    try:
        whole = raw_json.members(raw, STORED_LIMITS, around=100)
    except InvalidPayload as error:
        raise BadLine(error.message.replace("the body", "the line")) from None
    if len(whole) != 1:
        raise BadLine("the line needs one member that says what it is")
    [(kind, piece)] = whole.items()
    members = raw_json.object_members(piece)
    if kind not in _PARSERS or members is None:
        raise BadLine(f"a line cannot be {raw_json.show(kind)}")
    return _PARSERS[kind](members)


def _workflow_pieces(line: WorkflowLine) -> dict[str, Raw]:
    times: dict[str, str] = {}
    errors: dict[str, Raw] = {}
    pieces = {"id": dump(line.id)}
    for field, value in line.fields.items():
        match field[:1], field[1:].isdigit():
            case b"t", True:
                times[field[1:].decode()] = value.decode()
            case b"e", True:
                errors[field[1:].decode()] = Raw(value)
            case _ if field == b"plan":
                pieces["plan"] = Raw(value)
            case _ if field != b"start":  # the number of an outbox entry
                pieces[field.decode()] = dump(value.decode())
    pieces["times"] = dump(times)
    pieces["errors"] = Raw(b"{%b}" % raw_json.join(errors))
    pieces["definitions"] = Raw(b"[%b]" % b",".join(line.definitions))
    pieces["results"] = _by_number(line.results)
    if line.removed_ms is not None:
        pieces["removed_ms"] = dump(line.removed_ms)
    return pieces


def _by_number(results: Mapping[int, bytes]) -> Raw:
    return Raw(b"{%b}" % raw_json.join({str(job): Raw(value) for job, value in results.items()}))


def _results(members: Mapping[str, Raw], name: str) -> dict[int, bytes]:
    results = raw_json.object_members(members.get(name, Raw(b"{}"))) or {}
    if not all(_is_job_number(job) for job in results):
        raise BadLine(f"'{name}' are results by number")
    return {int(job): bytes(value) for job, value in results.items()}


def _results_line(members: Mapping[str, Raw]) -> ResultsLine:
    return ResultsLine(_workflow_id(members, "workflow"), _results(members, "of"))


def _workflow_id(members: Mapping[str, Raw], name: str) -> str:
    workflow_id = text(members, name)
    if not is_job_id(workflow_id):
        raise BadLine(f"a workflow's id cannot be {raw_json.show(workflow_id)}")
    return workflow_id


def _workflow(members: Mapping[str, Raw]) -> WorkflowLine:
    workflow_id = _workflow_id(members, "id")
    needed = ("type", "name", "state", "created", "marks")
    fields = {name.encode(): text(members, name).encode() for name in needed}
    if "finished" in members:
        fields[b"finished"] = text(members, "finished").encode()
    fields[b"plan"] = bytes(members.get("plan", b"null"))
    for job, times in texts(members.get("times", Raw(b"{}"))).items():
        if not _are_times(times):
            raise BadLine("'times' of a workflow are three numbers each")
        fields[f"t{job}".encode()] = times.encode()
    errors = raw_json.object_members(members.get("errors", Raw(b"{}"))) or {}
    fields |= {f"e{job}".encode(): bytes(error) for job, error in errors.items()}
    return WorkflowLine(
        workflow_id,
        fields,
        tuple(
            bytes(item) for item in raw_json.array_items(members.get("definitions", b"[]")) or ()
        ),
        _results(members, "results"),
        number(members, "removed_ms") if "removed_ms" in members else None,
    )


_CRON = {
    b"x": "expression",
    b"z": "timezone",
    b"o": "overlap_policy",
    b"on": "enabled",
    b"q": "queue",
    b"t": "type",
    b"c": "created",
    b"u": "updated",
    b"n": "next",
    b"a": "anchor",
    b"g": "gap",
    b"l": "last",
    b"r": "runs",
    b"open": "open",
    b"held": "held",
}
_CRON_JSON = {b"j": "job", b"d": "description"}


def _cron_pieces(fields: Mapping[bytes, bytes]) -> dict[str, Raw]:
    pieces = {name: dump(fields[at].decode()) for at, name in _CRON.items() if at in fields}
    return pieces | {name: Raw(fields[at]) for at, name in _CRON_JSON.items()}


def _cron(members: Mapping[str, Raw]) -> CronLine:
    fields = {at: text(members, name).encode() for at, name in _CRON.items() if name in members} | {
        at: bytes(members.get(name, b"null")) for at, name in _CRON_JSON.items()
    }
    for at in (b"x", b"z", b"o", b"on", b"q", b"t", b"c", b"u", b"a"):
        if at not in fields:
            raise BadLine(f"a cron job needs '{_CRON[at]}'")
    return CronLine(text(members, "name"), fields)


def _queue_pieces(line: QueueLine) -> dict[str, Raw]:
    pieces = {QUEUE_FIELDS[at]: dump(value.decode()) for at, value in line.fields.items()}
    if line.partitions:
        pieces["partitions"] = dump(line.partitions)
    return {"name": dump(line.name), **pieces}


def _queue(members: Mapping[str, Raw]) -> QueueLine:
    fields = {at: text(members, name) for at, name in QUEUE_FIELDS.items() if name in members}
    for at, value in fields.items():
        if at != b"limits" and not is_number(value.encode()):
            raise BadLine(f"'{QUEUE_FIELDS[at]}' is no number")
    limits = fields.get(b"limits", RateLimits().packed())
    try:
        sound = unpack_limits(limits).packed() == limits
    except (ValueError, IndexError, TypeError):
        sound = False
    if not sound:
        raise BadLine("'limits' are none")
    partitions = number(members, "partitions") if "partitions" in members else 0
    if not 0 <= partitions <= MAX_PARTITIONS:
        raise BadLine(f"'partitions' are {MAX_PARTITIONS} at most")
    packed = {at: value.encode() for at, value in fields.items()}
    return QueueLine(text(members, "name"), packed, partitions)


def _head(members: Mapping[str, Raw]) -> Head:
    return Head(number(members, "version"))


def _end(members: Mapping[str, Raw]) -> End:
    counts = raw_json.object_members(members.get("counts", Raw(b"null"))) or {}
    return End({kind: number(counts, kind) for kind in counts})


_PARSERS: Mapping[str, Callable[[Mapping[str, Raw]], Line]] = {
    "export": _head,
    "queue": _queue,
    "job": parse_job_line,
    "results": _results_line,
    "workflow": _workflow,
    "cron": _cron,
    "end": _end,
}
