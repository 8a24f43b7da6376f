"""Encode and parse the lines of an archive, which is the file that ``ojs-cluster export`` writes.

Each line is a JSON object with one member, whose name is the kind of the line. ``export`` is the
first line. Lines of the kinds ``queue``, ``tenant``, ``pool``, ``mark``, ``search``, ``schema``,
``job``, ``workflow`` and ``cron`` follow. ``end`` is the last line, so an import detects a
truncated file. The line of a workflow has its results; results that do not fit into it are in lines
of the kind ``results`` before it. JSON of users is copied byte for byte, except that line breaks
between its tokens become blanks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from ojs_cluster.core import raw_json
from ojs_cluster.core.errors import InvalidPayload
from ojs_cluster.core.jobs.ids import is_job_id
from ojs_cluster.core.jobs.retry import ON_EXHAUSTION_VALUES
from ojs_cluster.core.payload_limits import STORED_LIMITS
from ojs_cluster.core.queue_defaults import QueueDefaults
from ojs_cluster.core.queue_defaults import decode as decode_defaults
from ojs_cluster.core.rate_limit import RateLimits, unpack_limits
from ojs_cluster.core.raw_json import Raw
from ojs_cluster.keys import MAX_PARTITIONS
from ojs_cluster.store.engine.limits.depth_bounds import is_overflow
from ojs_cluster.store.operators.archive.dashboard_lines import (
    mark_pieces,
    parse_mark_line,
)
from ojs_cluster.store.operators.archive.job_lines import job_pieces, parse_job_line
from ojs_cluster.store.operators.archive.line_values import (
    QUEUE_FIELDS,
    ArchiveFooter,
    ArchiveHeader,
    ArchiveLine,
    CronLine,
    InvalidLine,
    JobLine,
    MarkLine,
    PoolLine,
    QueueLine,
    RemovedLine,
    ResultsLine,
    SchemaLine,
    TenantLine,
    WorkflowLine,
    dump,
    is_number,
    number,
    text,
    texts,
)
from ojs_cluster.store.operators.archive.schema_lines import parse_schema_line, schema_pieces
from ojs_cluster.store.operators.archive.settings_lines import (
    parse_pool_line,
    parse_tenant_line,
    pool_pieces,
    tenant_pieces,
)

VERSION = 1
"""Version of the format of an archive."""
_is_job_number = re.compile(r"[0-9]{1,4}").fullmatch
# Start and end of a job in ms, and its number of attempts (workflow_record_outcome.lua).
_are_times = re.compile(r"\d+ \d+ \d+").fullmatch


def encode(line: ArchiveLine, **more: str | int) -> bytes:
    """Return a line of the file with its line break.

    Args:
        line: the values of the line.
        more: further members of a header. They inform people; an import ignores them.
    """
    match line:
        case ArchiveHeader(version):
            kind, pieces = "export", {"version": dump(version)}
            pieces |= {name: dump(value) for name, value in more.items()}
        case QueueLine():
            kind, pieces = "queue", _queue_pieces(line)
        case JobLine():
            kind, pieces = "job", job_pieces(line)
        case ResultsLine(workflow_id, results):
            kind, pieces = (
                "results",
                {"workflow_id": dump(workflow_id), "results": _by_number(results)},
            )
        case WorkflowLine():
            kind, pieces = "workflow", _workflow_pieces(line)
        case CronLine(name, fields):
            kind, pieces = "cron", {"name": dump(name), **_cron_pieces(fields)}
        case SchemaLine():
            kind, pieces = "schema", schema_pieces(line)
        case TenantLine(settings):
            kind, pieces = "tenant", tenant_pieces(settings)
        case PoolLine(pool):
            kind, pieces = "pool", pool_pieces(pool)
        case MarkLine(mark):
            kind, pieces = "mark", mark_pieces(mark)
        case ArchiveFooter(counts):
            kind, pieces = "end", {"counts": dump(dict(counts))}
    raw = b'{"%b":{%b}}\n' % (kind.encode(), raw_json.join(pieces))
    # JSON escapes line breaks inside of strings, so these are between tokens.
    return raw if raw.count(b"\n") == 1 else raw[:-1].replace(b"\n", b" ") + b"\n"


def parse(raw: bytes) -> ArchiveLine | RemovedLine:
    """Parse a line that ``encode`` wrote, in this or an earlier version.

    Raises:
        InvalidLine: the line has another form, or values that no export writes.
    """
    try:
        whole = raw_json.members(raw, STORED_LIMITS, outer_levels=100)
    except InvalidPayload as error:
        raise InvalidLine(error.message.replace("the body", "the line")) from None
    if len(whole) != 1:
        raise InvalidLine("the line needs exactly one member, named after the kind of the line")
    [(kind, piece)] = whole.items()
    members = raw_json.object_members(piece)
    if kind not in _PARSERS or members is None:
        raise InvalidLine(
            f"{raw_json.show(kind)} is not a kind of line, or its value is not an object"
        )
    return _PARSERS[kind](members)


def _workflow_pieces(line: WorkflowLine) -> dict[str, Raw]:
    times: dict[str, str] = {}
    errors: dict[str, Raw] = {}
    pieces = {"id": dump(line.id)}
    for field, value in line.fields.items():
        # The fields t<number> and e<number> are the times and the error of a job of the workflow.
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
        raise InvalidLine(f"'{name}' must be an object whose names are numbers of jobs")
    return {int(job): bytes(value) for job, value in results.items()}


def _results_line(members: Mapping[str, Raw]) -> ResultsLine:
    return ResultsLine(_workflow_id(members, "workflow_id"), _results(members, "results"))


def _workflow_id(members: Mapping[str, Raw], name: str) -> str:
    workflow_id = text(members, name)
    if not is_job_id(workflow_id):
        raise InvalidLine(f"{raw_json.show(workflow_id)} is not a workflow id")
    return workflow_id


def _workflow(members: Mapping[str, Raw]) -> WorkflowLine:
    workflow_id = _workflow_id(members, "id")
    needed = ("type", "name", "state", "created", "node_statuses")
    if "marks" in members:  # in the exports of development versions before 0.1
        members = {"node_statuses": members["marks"], **members}
    fields = {name.encode(): text(members, name).encode() for name in needed}
    if "finished" in members:
        fields[b"finished"] = text(members, "finished").encode()
    if "moved_to" in members:  # queues
        fields[b"moved_to"] = text(members, "moved_to").encode()
    fields[b"plan"] = bytes(members.get("plan", b"null"))
    for job, times in texts(members.get("times", Raw(b"{}"))).items():
        if not _are_times(times):
            raise InvalidLine("each of 'times' must be three numbers")
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
    b"expression": "expression",
    b"timezone": "timezone",
    b"overlap_policy": "overlap_policy",
    b"enabled": "enabled",
    b"queue": "queue",
    b"type": "type",
    b"created": "created",
    b"updated": "updated",
    b"next_occurrence": "next",
    b"anchor": "anchor",
    b"gap": "gap",
    b"last_run": "last",
    b"runs": "runs",
    b"open_runs": "open",
    b"held_runs": "held",
}
_CRON_OPTIONAL = {b"next_occurrence", b"gap", b"last_run", b"runs", b"open_runs", b"held_runs"}
_CRON_JSON = {b"job": "job", b"description": "description"}


def _cron_pieces(fields: Mapping[bytes, bytes]) -> dict[str, Raw]:
    pieces = {
        name: dump(fields[field].decode()) for field, name in _CRON.items() if field in fields
    }
    return pieces | {name: Raw(fields[field]) for field, name in _CRON_JSON.items()}


def _cron(members: Mapping[str, Raw]) -> CronLine:
    fields = {
        field: text(members, name).encode() for field, name in _CRON.items() if name in members
    } | {field: bytes(members.get(name, b"null")) for field, name in _CRON_JSON.items()}
    for field in _CRON:
        if field not in fields and field not in _CRON_OPTIONAL:
            raise InvalidLine(f"a cron job needs '{_CRON[field]}'")
    return CronLine(text(members, "name"), fields)


def _queue_pieces(line: QueueLine) -> dict[str, Raw]:
    pieces = {QUEUE_FIELDS[field]: dump(value.decode()) for field, value in line.fields.items()}
    if line.partitions:
        pieces["partitions"] = dump(line.partitions)
    if not line.defaults.empty:
        pieces["defaults"] = dump(line.defaults.shown())
    return {"name": dump(line.name), **pieces}


def _queue(members: Mapping[str, Raw]) -> QueueLine:
    fields = {field: text(members, name) for field, name in QUEUE_FIELDS.items() if name in members}
    for field, value in fields.items():
        if field == b"on_exhaustion":
            if value not in ON_EXHAUSTION_VALUES:
                raise InvalidLine("'on_exhaustion' must be 'discard' or 'dead_letter'")
        elif field == b"overflow":
            if not is_overflow(value.encode()):
                raise InvalidLine("'overflow' must be a strategy and a warning threshold")
        elif field != b"limits" and not is_number(value.encode()):
            raise InvalidLine(f"'{QUEUE_FIELDS[field]}' must be a number")
    limits = fields.get(b"limits", RateLimits().packed())
    try:
        is_canonical = unpack_limits(limits).packed() == limits
    except (ValueError, IndexError, TypeError):
        is_canonical = False
    if not is_canonical:
        raise InvalidLine("'limits' must be limits as an export writes them")
    partitions = number(members, "partitions") if "partitions" in members else 0
    if not 0 <= partitions <= MAX_PARTITIONS:
        raise InvalidLine(f"'partitions' must be from 0 to {MAX_PARTITIONS}")
    packed = {field: value.encode() for field, value in fields.items()}
    return QueueLine(text(members, "name"), packed, partitions, _defaults(members))


def _defaults(members: Mapping[str, Raw]) -> QueueDefaults:
    if "defaults" not in members:
        return QueueDefaults()
    try:
        return decode_defaults(bytes(members["defaults"]))
    except ValueError as error:
        raise InvalidLine(f"'defaults' of a queue are not valid: {error}") from None


def _head(members: Mapping[str, Raw]) -> ArchiveHeader:
    return ArchiveHeader(number(members, "version"))


def _end(members: Mapping[str, Raw]) -> ArchiveFooter:
    counts = raw_json.object_members(members.get("counts", Raw(b"null"))) or {}
    return ArchiveFooter({kind: number(counts, kind) for kind in counts})


_PARSERS: Mapping[str, Callable[[Mapping[str, Raw]], ArchiveLine | RemovedLine]] = {
    "export": _head,
    "queue": _queue,
    "job": parse_job_line,
    "results": _results_line,
    "workflow": _workflow,
    "cron": _cron,
    "schema": parse_schema_line,
    "tenant": parse_tenant_line,
    "pool": parse_pool_line,
    "mark": parse_mark_line,
    "search": lambda _: RemovedLine("saved searches"),
    "end": _end,
}
