"""Encode and parse the line of a job. A line has longer names than the hash, so people can read it.

The tables of this module map the names of hash fields to the names in a line. A field that is in no
table is kept as text in the member ``other``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

from ojs_cluster.core import raw_json
from ojs_cluster.core.jobs.envelope import SYSTEM_FIELDS
from ojs_cluster.core.jobs.ids import is_job_id
from ojs_cluster.core.jobs.retry import is_packed_retry
from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.rate_limit import is_packed_policy
from ojs_cluster.core.raw_json import Raw
from ojs_cluster.store.engine.jobs.history_entries import MAX_BYTES
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.jobs.stored_progress import parse_progress
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.operators.archive.line_values import (
    InvalidLine,
    JobLine,
    dump,
    is_number,
    number,
    text,
    texts,
)

_TEXT = {
    f.STATE: "state",
    f.TYPE: "type",
    f.QUEUE: "queue",
    f.RETRY: "retry",
    f.NON_RETRYABLE: "non_retryable",
    f.ON_EXHAUSTION: "on_exhaustion",
    f.WORKER: "worker_id",
    f.LEASE: "lease_id",
    f.WORKFLOW: "workflow_id",
    f.UNIQUE: "unique",
    f.LIMIT: "rate_limit",
    f.PROGRESS: "progress",
    f.HISTORY: "history",
    f.KEEP: "retention_ms",
    f.SUSPECT: "suspect",
    f.DEATHS: "worker_deaths",
}
_NUMBERS = {
    f.PRIORITY: "priority",
    f.CREATED: "created_ms",
    f.ENQUEUED: "enqueued_ms",
    f.STARTED: "started_ms",
    f.FINISHED: "finished_ms",
    f.DUE: "due_ms",
    f.EXPIRES: "expires_ms",
    f.SCHEDULED_SHOWN: "scheduled_shown_ms",
    f.EXPIRES_SHOWN: "expires_shown_ms",
    f.MAX_ATTEMPTS: "max_attempts",
    f.ATTEMPT: "attempt",
    f.DELAY: "retry_delay_ms",
    f.VISIBILITY: "visibility_timeout_ms",
    f.TIMEOUT: "timeout_ms",
    f.ERRORS: "error_count",
    f.REPLAYS: "replay_count",
    f.DEAD: "dead_letter",
    f.EXPIRED: "expired",
    f.STEP: "workflow_step",
    f.LEASE_MS: "lease_ms",
    f.DEADLINE: "lease_ends_ms",
    f.EXTENDED: "lease_extended_ms",
    f.MAX_PER_SECOND: "max_per_second",
    f.FIXED_ID: "fixed_id",
    f.CANCELLED_KEEP_MS: "cancel_requested_ms",
    f.EDITS: "edits",
}
_JSON = {
    f.ENVELOPE: "envelope",
    f.RESULT: "result",
    f.PARENTS: "parent_results",
    f.PARENT_NAMES: "parent_names",
    f.PROGRESS_DATA: "progress_data",
}
_NOT_EXPORTED = {
    *(f.TOKEN, f.OPEN_TOKEN_REQUEST, f.TOKEN_REQUEST_COUNT, f.HIDDEN, f.CHECKPOINT),
    *(f.PARKED, f.ALONE),
}
"""Fields that a line leaves out.

A restored job has no token and no token request, and is not parked. Hidden jobs and checkpoints
are not exported."""
_BY_NAME = {
    name: (field, table) for table in (_TEXT, _NUMBERS, _JSON) for field, name in table.items()
}
_SYSTEM_MEMBERS = SYSTEM_FIELDS - {"specversion", "max_attempts"}
"""Attributes that responses add to the stored envelope."""
_NAMED = _TEXT.keys() | _NUMBERS.keys() | _JSON.keys() | _NOT_EXPORTED
_is_error_slot = re.compile(rb"h\d+").fullmatch


_VALIDATORS: Mapping[bytes, Callable[[bytes], object]] = {
    f.RETRY: lambda value: is_packed_retry(value.decode()),
    f.UNIQUE: re.compile(rb"[0-9a-f]{64}\+?").fullmatch,
    f.LIMIT: lambda value: is_packed_policy(value.decode()),
    f.WORKFLOW: lambda value: is_job_id(value.decode()),
    f.ON_EXHAUSTION: {b"discard", b"dead_letter"}.__contains__,
    f.TYPE: re.compile(rb"[a-z0-9][a-z0-9_.\-]*").fullmatch,
    f.PROGRESS: parse_progress,
    f.HISTORY: lambda value: len(value) <= MAX_BYTES + 64,
    f.KEEP: re.compile(rb"\d{0,12}(:\d{0,12}){0,2}").fullmatch,
    f.SUSPECT: b"1".__eq__,
    f.DEATHS: re.compile(rb"\d{1,9} \d{1,9} \d{1,12}").fullmatch,
}
"""Fields that scripts parse, or copy into JSON without escaping."""


def split_errors(
    flat: Iterable[tuple[bytes, bytes]],
) -> tuple[dict[bytes, bytes], tuple[tuple[int, int, bytes], ...]]:
    """Split the hash of a job into its fields without the errors, and the errors, oldest first."""
    fields: dict[bytes, bytes] = {}
    errors = []
    for field, value in flat:
        if _is_error_slot(field):
            with suppress(ValueError):  # skips a malformed entry
                attempt, at_ms, body = value.split(b",", 2)
                # The number of the slot orders errors with equal times and attempts.
                errors.append((int(at_ms), int(attempt), int(field[1:]), body + b"}"))
        else:
            fields[field] = value
    return fields, tuple((attempt, at_ms, error) for at_ms, attempt, _, error in sorted(errors))


def job_pieces(job: JobLine) -> dict[str, Raw]:
    """Return the members of the line of a job."""
    pieces = {"id": dump(job.id)}
    other: dict[str, str] = {}
    for field, value in job.fields.items():
        if field in _NOT_EXPORTED or value == b"":
            continue
        if field in _TEXT:
            pieces[_TEXT[field]] = dump(value.decode())
        elif field in _NUMBERS and is_number(value):
            pieces[_NUMBERS[field]] = Raw(value)
        elif field in _JSON:
            pieces[_JSON[field]] = Raw(_full_envelope(job) if field == f.ENVELOPE else value)
        else:
            other[field.decode()] = value.decode()
    if job.errors:
        pieces["errors"] = Raw(
            b"[%b]"
            % b",".join(
                b'{"attempt":%d,"at_ms":%d,"error":%b}' % (attempt, at_ms, error)
                for attempt, at_ms, error in job.errors
            )
        )
    if other:
        pieces["other"] = dump(other)
    for name, value_ms in (("position", job.position), ("removed_ms", job.removed_ms)):
        if value_ms is not None:
            pieces[name] = dump(value_ms)
    if job.holds_lock:
        pieces["holds_lock"] = dump(True)
    return pieces


def _full_envelope(job: JobLine) -> bytes:
    return JobRecord(job.id, job.fields).envelope() + b"}"


def parse_job_line(members: Mapping[str, Raw]) -> JobLine:
    """Return the job with the members of a line.

    Raises:
        InvalidLine: a member is missing or not valid.
    """
    fields: dict[bytes, bytes] = {}
    for name, piece in members.items():
        field, table = _BY_NAME.get(name, (b"", None))
        if table is _TEXT:
            fields[field] = text(members, name).encode()
        elif table is _NUMBERS:
            fields[field] = b"%d" % number(members, name)
        elif table is _JSON:
            fields[field] = bytes(piece)
    for name, value in (texts(members["other"]) if "other" in members else {}).items():
        # Fields that begin with @ mark aliases, prepared jobs and tombstones.
        if name.encode() in _NAMED or name.startswith("@") or _is_error_slot(name.encode()):
            raise InvalidLine(f"'other' must not contain {raw_json.show(name)}")
        fields[name.encode()] = value.encode()
    job_id = text(members, "id")
    if not is_job_id(job_id):
        raise InvalidLine(f"{raw_json.show(job_id)} is not a job id")
    envelope = _checked_envelope(job_id, members)
    for name in ("state", "queue", "type", "created_ms", "max_attempts"):
        if name not in members:
            raise InvalidLine(f"a job needs '{name}'")
    if fields[f.STATE].decode() not in set(State):
        raise InvalidLine(f"{raw_json.show(fields[f.STATE].decode())} is not a state of a job")
    for field, is_valid in _VALIDATORS.items():
        if field in fields and not is_valid(fields[field]):
            raise InvalidLine(f"'{_TEXT[field]}' is not valid")
    _check_workflow(fields)
    # Like an enqueue, store the envelope without its first members if ``JobRecord.envelope`` can
    # write them from other fields.
    prefix = JobRecord(job_id, {**fields, f.ENVELOPE: b""}).envelope()
    fields[f.ENVELOPE] = envelope.removeprefix(prefix)
    return JobLine(
        job_id,
        fields,
        _errors(members.get("errors")),
        number(members, "position") if "position" in members else None,
        number(members, "removed_ms") if "removed_ms" in members else None,
        bytes(members.get("holds_lock", b"")) == b"true",
    )


def _check_workflow(fields: Mapping[bytes, bytes]) -> None:
    """Check what scripts and responses assume about the fields of a step."""
    if (f.WORKFLOW in fields) != (f.STEP in fields):
        raise InvalidLine("'workflow_id' and 'workflow_step' must both be given, or neither")
    results = raw_json.array_items(fields.get(f.PARENTS, b"[]"))
    names = raw_json.array_items(fields.get(f.PARENT_NAMES, b"[]"))
    if results is None or names is None or (names and len(names) != len(results)):
        raise InvalidLine("'parent_results' and 'parent_names' must be arrays of the same length")
    if any(raw_json.string(name) is None for name in names):
        raise InvalidLine("'parent_names' must be strings")


def _checked_envelope(job_id: str, members: Mapping[str, Raw]) -> bytes:
    """Return the envelope as it is stored: without its closing brace, for splicing."""
    raw = bytes(members.get("envelope", b"null")).strip()
    envelope = raw_json.object_members(raw)
    if envelope is None:
        raise InvalidLine("'envelope' must be an object")
    for name, wanted in (
        ("id", job_id),
        ("type", text(members, "type")),
        ("queue", text(members, "queue")),
    ):
        if name not in envelope or raw_json.string(envelope[name]) != wanted:
            raise InvalidLine(f"'{name}' differs between the envelope and the job")
    added = _SYSTEM_MEMBERS & envelope.keys()
    if added:
        raise InvalidLine(f"'envelope' must not contain {', '.join(sorted(added))}")
    return raw[:-1]


def _errors(piece: Raw | None) -> tuple[tuple[int, int, bytes], ...]:
    if piece is None:
        return ()
    found = []
    for item in raw_json.array_items(piece) or ():
        members = raw_json.object_members(item) or {}
        error = bytes(members.get("error", b"")).strip()
        if not raw_json.object_members(error or b"null"):
            raise InvalidLine("each of 'errors' needs 'error', a non-empty object")
        found.append((number(members, "attempt"), number(members, "at_ms"), error))
    return tuple(found)
