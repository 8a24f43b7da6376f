"""Read the progress of a job, and the size of its checkpoint, from the fields of its hash.

The stored progress contains the number of its attempt. Progress of an earlier attempt is ignored,
so a fetch need not remove it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress

import msgspec

from ojs_cluster.core.raw_json import object_members
from ojs_cluster.store.ground import job_fields as f

# The patterns describe the values that progress.lua and checkpoint_save.lua write.
_PACKED = re.compile(rb"(\d{1,15}) (\d{1,15}) (\d{1,15}) (\d(?:\.\d{1,20})?(?:e-\d{1,3})?|)")
_COMPLETED_VALUE = b"1.0"
_CHECKPOINT = re.compile(rb"\d{1,15} (\d{1,15}) \d{1,15}")
_MAX_MS = 253_402_300_800_000
"""Year 10000, in milliseconds since the epoch: no response can show a later time."""


class Progress(msgspec.Struct, frozen=True):
    """The progress of an attempt.

    Args:
        value: a JSON number from 0 to 1, empty when only data was reported.
        updated_ms: time of the last report, or of the completion of a completed job, in Unix
            milliseconds.
        message: the JSON string of the last report, empty for none.
        data: the JSON object of the last report, empty for none.
    """

    value: bytes
    updated_ms: int
    message: bytes = b""
    data: bytes = b""


def parse_progress(packed: bytes) -> tuple[bytes, int, bytes] | None:
    """Parse the field ``progress`` of a job, which ``progress.lua`` writes.

    Returns:
        The attempt, the time of the last report in Unix milliseconds, and the number (empty for
        none). None when the field is damaged.
    """
    match = _PACKED.fullmatch(packed)
    if match is None or int(match[2]) >= _MAX_MS or (match[4] and float(match[4]) > 1):
        return None
    return match[1], int(match[2]), match[4]


def read_progress(fields: Mapping[bytes, bytes]) -> Progress | None:
    """Return the progress of a job's last attempt, None if that attempt has reported none.

    Args:
        fields: the fields of the job, at least state, attempt, finished, progress and
            progress_data.
    """
    parsed = parse_progress(fields.get(f.PROGRESS) or b"")
    if parsed is None or parsed[0] != fields.get(f.ATTEMPT):
        return None
    _, updated_ms, value = parsed
    if fields.get(f.STATE) == b"completed":
        value = _COMPLETED_VALUE
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


def checkpoint_bytes(packed: bytes) -> int:
    """Return the size of a job's checkpoint in bytes, 0 for none.

    Args:
        packed: the field ``checkpoint`` of the job, empty when the job has no checkpoint.
    """
    match = _CHECKPOINT.fullmatch(packed)
    return 0 if match is None else int(match[1])
