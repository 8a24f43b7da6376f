"""Detect malformed jobs: the Python twin of ``store/include/jobs/validate_job.lua``.

The server writes no malformed job, but an operator, a faulty disk or another program may damage a
job. Scripts check a job before their first write, and quarantine a malformed one. In Python, a read
by id raises an error, a list omits the job, and a cancel or delete removes the job.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ojs_cluster.core.errors import MalformedJob
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.ground import job_fields as f

_LATEST_MS = 253_402_300_800_000
"""The year 10000 in Unix milliseconds. All times and numbers of a valid job are smaller."""
_MAX_EXACT = 2**53
"""Integers above this are not exact in Lua. The server writes none."""
_REQUIRED = (f.STATE, f.QUEUE, f.TYPE, f.ENVELOPE, f.CREATED, f.MAX_ATTEMPTS)
_NUMBERS = (
    *(f.CREATED, f.MAX_ATTEMPTS, f.PRIORITY, f.EXPIRES, f.ATTEMPT, f.ENQUEUED, f.STARTED),
    *(
        f.FINISHED,
        f.DUE,
        f.DELAY,
        f.VISIBILITY,
        f.TIMEOUT,
        f.ERRORS,
        f.REPLAYS,
        f.CANCELLED_KEEP_MS,
    ),
    *(f.SCHEDULED_SHOWN, f.EXPIRES_SHOWN, f.DEADLINE, f.LEASE_MS, f.EXTENDED, f.STEP),
    *(f.OPEN_TOKEN_REQUEST, f.TOKEN_REQUEST_COUNT, f.MAX_PER_SECOND),
)
_STATES = frozenset(state.value.encode() for state in State)
_is_number = re.compile(rb"-?[0-9]{1,15}").fullmatch


def find_fault(fields: Mapping[bytes, bytes]) -> str | None:
    """Return the first fault that makes a job malformed; None for a valid job.

    Args:
        fields: the hash as HGETALL returns it. The fields of a script's reply are not suitable,
            because there an empty value means that the field is absent.
    """
    for name in _REQUIRED:
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


def read_number(value: bytes | None) -> int:
    """Return a number from a hash other than a job, without its decimals; 0 if absent or damaged.

    Args:
        value: the field's value.
    """
    if not value:  # most numbers of most queues
        return 0
    try:
        number = float(value)
    except ValueError:
        return 0
    return int(number) if abs(number) < _MAX_EXACT else 0


def raise_if_malformed(job_id: str, fields: Mapping[bytes, bytes], shard: int) -> None:
    """Check that a job is valid.

    Args:
        job_id: the job.
        fields: the hash as HGETALL returns it.
        shard: index of the shard that stores the job.

    Raises:
        MalformedJob: a field is missing or invalid.
    """
    fault = find_fault(fields)
    if fault is not None:
        raise MalformedJob(job_id, fault, shard)


def readable_fields(job_id: str, fields: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Return the fields of a removed malformed job as those of a valid, cancelled job.

    Missing and invalid fields get default values.
    """
    valid = {name: fields[name] for name in (f.TYPE, f.QUEUE, f.ENVELOPE) if fields.get(name)}
    for name in (f.MAX_ATTEMPTS, f.PRIORITY, f.CREATED, f.ATTEMPT):
        value = fields.get(name, b"")
        if _is_number(value) and abs(int(value)) < _LATEST_MS:
            valid[name] = value
    # The first 12 hexadecimal digits of a UUIDv7 are its creation time in Unix milliseconds.
    created = b"%d" % int(job_id.replace("-", "")[:12], 16)
    return {
        f.TYPE: b"unknown",
        f.QUEUE: b"unknown",
        f.ENVELOPE: b'"args":[]',
        f.MAX_ATTEMPTS: b"1",
        f.CREATED: created,
        **valid,
        f.STATE: b"cancelled",
    }
