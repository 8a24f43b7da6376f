"""Whether the stored fields of a job can be used: the Python twin of
``store/include/jobs/validate_job.lua``.

Nothing of ours writes a malformed job. An operator, a faulty disk or a foreign program may. Scripts
refuse it before their first write and quarantine it; here it is refused to whoever reads it by its
id, left out of lists, and removed when it is cancelled or deleted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ojs_cluster.core.errors import MalformedJob
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.jobs import fields as f

_LATEST_MS = 253_402_300_800_000
"""The year 10000: numbers and times are smaller."""
_EXACT = 2**53
"""Larger numbers are not exact in Lua, and none of ours."""
_NEEDED = (f.STATE, f.QUEUE, f.TYPE, f.ENVELOPE, f.CREATED, f.MAX_ATTEMPTS)
_NUMBERS = (
    *(f.CREATED, f.MAX_ATTEMPTS, f.PRIORITY, f.EXPIRES, f.ATTEMPT, f.ENQUEUED, f.STARTED),
    *(f.FINISHED, f.DUE, f.DELAY, f.VISIBILITY, f.TIMEOUT, f.ERRORS, f.REPLAYS, f.CANCEL_REQUESTED),
    *(f.SCHEDULED_SHOWN, f.EXPIRES_SHOWN, f.DEADLINE, f.LEASE_MS, f.EXTENDED, f.STEP),
    *(f.REQUESTED_TOKEN, f.TOKEN_REQUESTS, f.MAX_PER_SECOND),
)
_STATES = frozenset(state.value.encode() for state in State)
_is_number = re.compile(rb"-?[0-9]{1,15}").fullmatch


def fault_of(fields: Mapping[bytes, bytes]) -> str | None:
    """Name the first field that makes a job malformed; None for a sound job.

    ``fields`` are the hash itself: in a script's reply an empty value means absent.
    """
    for name in _NEEDED:
        if name not in fields:
            return f"{name.decode()} is missing"
    if fields[f.STATE] not in _STATES:
        return f"{f.STATE.decode()} is no state"
    for name in _NUMBERS:
        value = fields.get(name)
        if value is not None and not (_is_number(value) and abs(int(value)) < _LATEST_MS):
            return f"{name.decode()} is not a number"
    if f.WORKFLOW in fields and f.STEP not in fields:
        return f"{f.STEP.decode()} is missing"
    if fields[f.STATE] == b"active" and not (fields.get(f.ATTEMPT) and fields.get(f.STARTED)):
        return "an active job has no attempt"
    return None


def number(value: bytes | None) -> int:
    """Return a number of a hash that is no job, rounded down; 0 where it is absent or damaged."""
    try:
        found = float(value or 0)
    except ValueError:
        return 0
    return int(found) if abs(found) < _EXACT else 0


def check(job_id: str, fields: Mapping[bytes, bytes], shard: int) -> None:
    """Raise for a malformed job of ``shard``.

    Raises:
        MalformedJob: a field is missing, or is not what it must be.
    """
    fault = fault_of(fields)
    if fault is not None:
        raise MalformedJob(job_id, fault, shard)


def remains(job_id: str, fields: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """What can be shown of a malformed job that was removed: as if it had been cancelled."""
    kept = {name: fields[name] for name in (f.TYPE, f.QUEUE, f.ENVELOPE) if fields.get(name)}
    for name in (f.MAX_ATTEMPTS, f.PRIORITY, f.CREATED, f.ATTEMPT):
        value = fields.get(name, b"")
        if _is_number(value) and abs(int(value)) < _LATEST_MS:
            kept[name] = value
    # A UUIDv7 begins with its time.
    created = b"%d" % int(job_id.replace("-", "")[:12], 16)
    return {
        f.TYPE: b"unknown",
        f.QUEUE: b"unknown",
        f.ENVELOPE: b'"args":[]',
        f.MAX_ATTEMPTS: b"1",
        f.CREATED: created,
        **kept,
        f.STATE: b"cancelled",
    }
