"""The entries that a job records for its history (spec: ojs-execution-history).

A job's own fields tell when it was created, when its last attempt began, and how the job ended. A
transition that overwrites these facts, or has a cause that no field tells, records an entry
(``store/include/jobs/record_history.lua``). The job has its entries in a field of its hash, so they
end with the job. The field holds ``<dropped> <kept>`` and then one JSON object per line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Final, Literal

import msgspec

from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.ground.runtime import Arg, Runtime

MAX_BYTES: Final = 16_384
"""Maximum size of all entries of a job: the twin of ``MAX_HISTORY_BYTES`` in the script."""
_MAX_CHARACTERS: Final = 200
"""Maximum length of the texts of a cause."""

EntryKind = Literal["failed", "requeued", "retried", "cancelled", "priority", "edited", "moved"]
ActorType = Literal["", "client", "system", "user"]


class Cause(msgspec.Struct, frozen=True, array_like=True):
    """Who has caused a transition, and why.

    Args:
        type: ``client`` for an API key, ``user`` for a user of the dashboard, ``system`` for the
            server itself; empty if it is not known.
        id: name of the API key or of the user.
        why: the reason.
    """

    type: ActorType = ""
    id: str = ""
    why: str = ""


UNKNOWN: Final = Cause()


class Entry(msgspec.Struct, frozen=True):
    """One entry. All times are Unix milliseconds.

    Args:
        kind: ``failed``: an attempt has failed, or its lease was lost. ``requeued``: its worker has
            returned it. ``retried``: the job was retried by hand. ``cancelled``, ``priority``,
            ``edited``: its args, meta, options or times were changed. ``moved``: it got another
            queue.
        at_ms: when it happened.
        attempt: number of the attempt, or of the last one before a manual retry.
        enqueued_ms: when the job was enqueued for the attempt.
        started_ms: when the attempt started.
        worker: the worker of the attempt.
        error: the error of the attempt, shortened.
        finished_ms: when the job had ended before its manual retry.
        expired: 1 if the job had expired before its manual retry.
        dead: 1 if the job was a dead letter before its manual retry.
        old: the priority before.
        new: the priority after.
        old_queue: the queue before.
        new_queue: the queue after.
        actor: type of who has caused it.
        actor_id: name of who has caused it.
        why: the reason.
    """

    kind: EntryKind = msgspec.field(name="k")
    at_ms: int = msgspec.field(name="at")
    attempt: int = msgspec.field(name="a", default=0)
    enqueued_ms: int = msgspec.field(name="n", default=0)
    started_ms: int = msgspec.field(name="st", default=0)
    worker: str = msgspec.field(name="w", default="")
    error: dict[str, Any] = msgspec.field(name="e", default_factory=dict)
    finished_ms: int = msgspec.field(name="f", default=0)
    expired: int = msgspec.field(name="x", default=0)
    dead: int = msgspec.field(name="d", default=0)
    old: int = msgspec.field(name="from", default=0)
    new: int = msgspec.field(name="to", default=0)
    old_queue: str = msgspec.field(name="qf", default="")
    new_queue: str = msgspec.field(name="qt", default="")
    actor: ActorType = msgspec.field(name="by", default="")
    actor_id: str = msgspec.field(name="id", default="")
    why: str = ""


class Recorded(msgspec.Struct, frozen=True):
    """What a job has recorded.

    Args:
        entries: the entries, oldest first.
        dropped: number of older entries that are not kept.
    """

    entries: list[Entry] = []
    dropped: int = 0


_read_entry = msgspec.json.Decoder(Entry).decode


def history_arg(store: Runtime, cause: Cause = UNKNOWN) -> Arg:
    """Return the ARGV that ``set_history`` of ``record_history.lua`` reads."""
    kept = store.settings.history_kept
    if not kept or cause == UNKNOWN:
        return kept
    return b"%d %b" % (kept, b"".join(_members(cause)))


def _members(cause: Cause) -> Iterator[bytes]:
    for name, value in ((b"by", cause.type), (b"id", cause.id), (b"why", cause.why)):
        if value:
            text = value[:_MAX_CHARACTERS].encode("utf-8", "replace").decode()
            yield b',"%b":%b' % (name, msgspec.json.encode(text))


def recorded(job_fields: Mapping[bytes, bytes]) -> Recorded:
    """Return what a job has recorded. Damaged entries are left out, and count as dropped."""
    head, _, lines = job_fields.get(f.HISTORY, b"").partition(b"\n")
    entries: list[Entry] = []
    for line in lines.splitlines():
        with suppress(msgspec.DecodeError):
            entries.append(_read_entry(line))
    try:
        dropped, kept = map(int, head.split())
    except ValueError:
        dropped, kept = 0, len(entries)
    return Recorded(entries, dropped + max(0, kept - len(entries)))
