"""Detect malformed workflows: the record of a workflow, as ``include/base/load_workflow.lua``.

The server writes no malformed record, but an operator, a faulty disk or another program may damage
one. A read by id raises an error, a list omits the workflow, and a cancellation removes it. The
scheduler checks a malformed workflow once an hour, so a repaired one continues.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ojs_cluster.core import raw_json
from ojs_cluster.core.errors import MalformedRecord
from ojs_cluster.core.jobs.ids import is_job_id
from ojs_cluster.core.workflow import (
    CANCELLED,
    COMPLETED,
    ENDED_STATUSES,
    FAILED,
    INNER_KINDS,
    RUNNING,
    STATUS_ENQUEUED,
    STATUS_UNKNOWN,
    Plan,
    decode_plan,
)

_REQUIRED: Final = (b"state", b"type", b"name", b"created", b"node_statuses", b"plan")
_STATES: Final = frozenset({RUNNING, COMPLETED, FAILED, CANCELLED})
_STATUSES: Final = frozenset({STATUS_UNKNOWN, STATUS_ENQUEUED, *ENDED_STATUSES})
_LATEST_MS: Final = 253_402_300_800_000
"""The year 10000 in Unix milliseconds. All times of a valid workflow are smaller."""
_is_number: Final = re.compile(rb"[0-9]{1,15}").fullmatch


def exists(fields: Mapping[bytes, bytes]) -> bool:
    """Return whether a record exists: one that is stored in portions has only fields of jobs."""
    return any(name in fields for name in _REQUIRED)


def parse_plan(workflow_id: str, raw: bytes) -> Plan:
    """Return the plan in a record.

    Raises:
        MalformedRecord: the plan is damaged.
    """
    try:
        plan = decode_plan(raw)
    except ValueError as error:
        raise MalformedRecord("workflow", workflow_id, f"plan: {error}") from error
    if not all(is_job_id(node.job_id) for node in plan.jobs):
        raise MalformedRecord("workflow", workflow_id, "plan: a job has no id")
    return plan


def check_fields(workflow_id: str, fields: Mapping[bytes, bytes]) -> Plan:
    """Check a record, and return its plan.

    Raises:
        MalformedRecord: a field is missing or damaged.
    """
    for name in _REQUIRED:
        if name not in fields:
            raise MalformedRecord("workflow", workflow_id, f"{name.decode()} is missing")
    plan = parse_plan(workflow_id, fields[b"plan"])
    fault = _find_fault(fields, plan)
    if fault is not None:
        raise MalformedRecord("workflow", workflow_id, fault.text)
    return plan


def damaged_fields(workflow_id: str, fields: Mapping[bytes, bytes]) -> Sequence[bytes]:
    """Return names of fields of which one is missing or damaged; none for a valid record.

    The record stays malformed as long as none of these fields changes.
    """
    for name in _REQUIRED:
        if name not in fields:
            return (name,)
    try:
        plan = parse_plan(workflow_id, fields[b"plan"])
    except MalformedRecord:
        return (b"plan",)
    fault = _find_fault(fields, plan)
    return () if fault is None else fault.fields


def check_statuses(workflow_id: str, plan: Plan, statuses: str) -> None:
    """Check that the node statuses of a record are those of its plan.

    Raises:
        MalformedRecord: they are damaged.
    """
    if not _are_statuses_of(plan, statuses):
        raise MalformedRecord("workflow", workflow_id, "node_statuses do not match the plan")


def check_definitions(workflow_id: str, plan: Plan, definitions: Mapping[bytes, bytes]) -> None:
    """Check that each job of a workflow has a definition.

    Raises:
        MalformedRecord: one is missing.
    """
    if not all(b"%d" % number in definitions for number in range(len(plan.jobs))):
        raise MalformedRecord("workflow", workflow_id, "a definition is missing")


@dataclass(frozen=True, slots=True)
class _Fault:
    """What is wrong with a record, and the fields of which one is damaged."""

    text: str
    fields: tuple[bytes, ...]


def _find_fault(fields: Mapping[bytes, bytes], plan: Plan) -> _Fault | None:
    try:
        texts = {name: fields[name].decode() for name in _REQUIRED}
    except UnicodeDecodeError:
        return _Fault("a field is no text", _REQUIRED)
    if texts[b"state"] not in _STATES or texts[b"type"] not in INNER_KINDS:
        return _Fault("state or type is unknown", (b"state", b"type"))
    if not _are_statuses_of(plan, texts[b"node_statuses"]):
        return _Fault("node_statuses do not match the plan", (b"node_statuses", b"plan"))
    for name in (b"created", b"finished"):
        if name in fields and not _is_time(fields[name]):
            return _Fault(f"{name.decode()} is no time", (name,))
    for name, value in fields.items():
        if not name[1:].isdigit():
            continue
        if name[:1] == b"t" and not _are_times(value):
            return _Fault(f"{name.decode()} are no times", (name,))
        if name[:1] == b"e" and raw_json.stored_members(value) is None:
            return _Fault(f"{name.decode()} is no error", (name,))
    return None


def _are_statuses_of(plan: Plan, statuses: str) -> bool:
    return len(statuses) == len(plan.jobs) and _STATUSES.issuperset(statuses)


def _are_times(value: bytes) -> bool:
    parts = value.split(b" ")
    return len(parts) == 3 and all(map(_is_time, parts))


def _is_time(value: bytes) -> bool:
    return _is_number(value) is not None and int(value) < _LATEST_MS
