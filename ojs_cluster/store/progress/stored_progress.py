"""Read the progress of a job from the fields of its hash.

The progress names its attempt. So a further attempt starts without progress, although
no fetch removes that of the attempt before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress

import msgspec

from ojs_cluster.core.raw_json import object_members
from ojs_cluster.store.jobs import fields as f

_PACKED = re.compile(rb"(\d{1,15}) (\d{1,15}) (\d{1,15}) (\d(?:\.\d{1,20})?(?:e-\d{1,3})?|)")
_COMPLETE = b"1.0"
_MAX_MS = 253_402_300_800_000
"""Year 10000, in milliseconds since the epoch: no response can show a later time."""


class Progress(msgspec.Struct, frozen=True):
    """The progress of an attempt.

    Args:
        value: a JSON number from 0 to 1, empty when only data was reported.
        updated_ms: when it was reported; for a completed job, when it was completed.
        message: the JSON string of the last report, empty for none.
        data: the JSON object of the last report, empty for none.
    """

    value: bytes
    updated_ms: int
    message: bytes = b""
    data: bytes = b""


def parse_progress(packed: bytes) -> tuple[bytes, int, bytes] | None:
    """Return the attempt, the time of the last report, and the number.

    Returns:
        None when the field is damaged.
    """
    match = _PACKED.fullmatch(packed)
    if match is None or int(match[2]) >= _MAX_MS or (match[4] and float(match[4]) > 1):
        return None
    return match[1], int(match[2]), match[4]


def read_progress(fields: Mapping[bytes, bytes]) -> Progress | None:
    """Return the progress of a job's last attempt, None if that attempt has reported none.

    Args:
        fields: the fields of the job, at least its state, attempt, end and progress.
    """
    parsed = parse_progress(fields.get(f.PROGRESS) or b"")
    if parsed is None or parsed[0] != fields.get(f.ATTEMPT):
        return None
    _, updated_ms, value = parsed
    if fields.get(f.STATE) == b"completed":
        value = _COMPLETE
        finished = fields.get(f.FINISHED) or b""
        if finished.isdigit() and int(finished) < _MAX_MS:
            updated_ms = int(finished)
    members = None
    if fields.get(f.PROGRESS_DATA):
        with suppress(msgspec.DecodeError):  # omit damaged data
            members = object_members(fields[f.PROGRESS_DATA])
    members = members or {}
    return Progress(
        value, updated_ms, bytes(members.get("message", b"")), bytes(members.get("data", b""))
    )
