"""A stored job as read from its hash, and its envelope as bytes (spec: ojs-core, "Job Envelope").

An envelope is built from four parts: the members that have fields of their own (``envelope_head``),
the other members as the enqueue stored them, the members that change during the lifecycle, and a
closing brace. The client's JSON (args, meta, result, errors) is copied and never parsed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Final

import msgspec
import orjson

from ojs_cluster.core.errors import MalformedJob
from ojs_cluster.core.jobs.envelope import envelope_head
from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.raw_json import array_items, join, object_members
from ojs_cluster.core.timestamps import format_ms
from ojs_cluster.store.engine.jobs.stored_progress import Progress, checkpoint_bytes, read_progress
from ojs_cluster.store.ground import job_fields as f

_SELDOM_SHOWN: Final = (
    *(f.SCHEDULED_SHOWN, f.EXPIRES_SHOWN, f.DELAY),
    *(f.ERRORS, f.WORKFLOW, f.PROGRESS, f.REPLAYS),
)
"""Fields that responses show and that a plain job has not."""
_DEATH_NUMBERS: Final = 3
"""How many numbers ``fields.DEATHS`` has."""


class JobRecord(msgspec.Struct, frozen=True):
    """One job, with the fields that a read or a transition returned.

    Args:
        id: the job's UUIDv7.
        fields: the fields of the hash. An empty value means that the field is absent (see
            ``drop_fields`` in ``store/include/jobs/read_job.lua``).
        deduplicated: whether an enqueue stored no new job, but returned this existing one.
        pressure: depth and depth bound of the queue's partition after an enqueue, if the depth is
            above the warning threshold (spec: ojs-backpressure 7.3).
    """

    id: str
    fields: Mapping[bytes, bytes]
    deduplicated: bool = False
    pressure: tuple[int, int] | None = None

    @property
    def type(self) -> str:
        """The job type."""
        return self.fields[f.TYPE].decode()

    @property
    def queue(self) -> str:
        """The queue of the job."""
        return self.fields[f.QUEUE].decode()

    @property
    def state(self) -> State:
        """The state in the lifecycle."""
        return State(self.fields[f.STATE].decode())

    @property
    def attempt(self) -> int:
        """The number of the current or last attempt, 0 before the first."""
        return int(self.fields.get(f.ATTEMPT) or 0)

    @property
    def max_attempts(self) -> int:
        """The number of attempts that the retry policy allows."""
        return int(self.fields[f.MAX_ATTEMPTS])

    @property
    def priority(self) -> int:
        """The priority; jobs with a higher priority are fetched first."""
        return int(self.fields.get(f.PRIORITY) or 0)

    @property
    def created_ms(self) -> int:
        """When the job was created, in Unix milliseconds."""
        return int(self.fields[f.CREATED])

    @property
    def started_ms(self) -> int | None:
        """When the current or last attempt started, in Unix milliseconds."""
        return self._ms(f.STARTED)

    @property
    def finished_ms(self) -> int | None:
        """When the job reached its terminal state, in Unix milliseconds."""
        return self._ms(f.FINISHED)

    @property
    def replays(self) -> int:
        """How often an operator has retried the job."""
        return int(self.fields.get(f.REPLAYS) or 0)

    @property
    def lone_deaths(self) -> int:
        """How often a worker has died while it ran the job alone."""
        parts = (self.fields.get(f.DEATHS) or b"").split()
        return int(parts[1]) if len(parts) == _DEATH_NUMBERS and parts[1].isdigit() else 0

    @property
    def tenant(self) -> str:
        """The tenant of the job, '' for none."""
        return (self.fields.get(f.TENANT) or b"").decode()

    @property
    def due_ms(self) -> int | None:
        """When a scheduled or retryable job becomes available, in Unix milliseconds."""
        return self._ms(f.DUE)

    @property
    def retry_delay_ms(self) -> int | None:
        """The backoff before the next attempt, in milliseconds."""
        return self._ms(f.DELAY)

    @property
    def worker_id(self) -> str | None:
        """The worker that holds the job."""
        value = self.fields.get(f.WORKER)
        return value.decode() if value else None

    @property
    def worker(self) -> str:
        """The worker that holds the active job, empty for none."""
        return (self.worker_id or "") if self.state is State.ACTIVE else ""

    @property
    def lease_id(self) -> str | None:
        """The lease of the active job."""
        value = self.fields.get(f.LEASE)
        return value.decode() if value else None

    @property
    def result(self) -> bytes | None:
        """The result's JSON as the worker sent it."""
        return self.fields.get(f.RESULT) or None

    @property
    def progress(self) -> Progress | None:
        """The progress of the last attempt; its value is 1.0 once the job is completed."""
        return read_progress(self.fields)

    def members(self) -> Mapping[str, msgspec.Raw]:
        """Return the members of the envelope, for a search.

        Raises:
            msgspec.DecodeError: the stored JSON is damaged.
        """
        return object_members(self.envelope() + b"}") or {}

    @property
    def size(self) -> int:
        """Size in bytes of the field values and of the checkpoint, which has a key of its own."""
        size = sum(map(len, self.fields.values()))
        if f.CHECKPOINT in self.fields:
            size += checkpoint_bytes(self.fields[f.CHECKPOINT])
        return size

    @property
    def dead(self) -> bool:
        """Whether the job is listed as a dead letter."""
        return bool(self.fields.get(f.DEAD))

    @property
    def hidden(self) -> bool:
        """Whether the job was deleted and is kept only to reserve its id."""
        return bool(self.fields.get(f.HIDDEN))

    @property
    def expired(self) -> bool:
        """Whether the job was discarded because it expired before it started."""
        return bool(self.fields.get(f.EXPIRED))

    def envelope(self) -> bytes:
        """Return the immutable part of the envelope, without its closing brace."""
        fields = self.fields
        stored = fields[f.ENVELOPE]
        # An imported job may have a complete object here (see ``fields.ENVELOPE``).
        if stored[:1] == b"{":
            return stored
        priority = fields.get(f.PRIORITY) or b"0"
        return (
            envelope_head(
                self.id.encode(), fields[f.TYPE], fields[f.QUEUE], priority, fields[f.MAX_ATTEMPTS]
            )
            + stored
        )

    def errors(self) -> list[bytes]:
        """Return the kept errors as JSON objects, oldest first."""
        return [entry for _, entry in sorted(self._errors(), key=lambda item: item[0])]

    @property
    def last_failed_ms(self) -> int | None:
        """When the last kept error occurred, in Unix milliseconds; None without an error."""
        return max((times[0] for times, _ in self._errors()), default=None)

    def json(self, *, lease: bool = False, error_text: bool = False) -> bytes:
        """Return the envelope as JSON.

        Args:
            lease: whether to include ``lease_id``; only the fetch that created a lease does.
            error_text: whether ``error`` is the message of the last error instead of an object.

        Raises:
            MalformedJob: a field is missing or invalid.
        """
        try:
            return b"".join(self._parts(lease, error_text))
        except (KeyError, ValueError, OverflowError) as error:
            raise MalformedJob(self.id, f"its envelope cannot be written ({error!r})") from error

    def _ms(self, name: bytes) -> int | None:
        value = self.fields.get(name)
        return int(value) if value else None

    def _errors(self) -> Iterator[tuple[tuple[int, int, int], bytes]]:
        # The fields are a ring buffer whose length is a setting. The setting may have changed, so
        # the entries are ordered by their times and attempts.
        for name, value in self.fields.items():
            if name[:1] == f.ERROR_SLOT and name[1:].isdigit() and value:
                with suppress(ValueError, OverflowError):  # omit a damaged entry
                    attempt, ms, body = value.split(b",", 2)
                    time = format_ms(int(ms))
                    entry = b'%b,"attempt":%d,"occurred_at":"%b"}' % (body, int(attempt), time)
                    yield (int(ms), int(attempt), int(name[1:])), entry

    def _parts(self, lease: bool, error_text: bool) -> list[bytes]:
        fields = self.fields
        get = fields.get
        state = fields[f.STATE]
        created = fields[f.CREATED]
        created_at = format_ms(int(created))
        enqueued = get(f.ENQUEUED)
        parts = [
            self.envelope(),
            b',"state":"%b","attempt":%b,"created_at":"%b","enqueued_at":"%b"'
            % (
                *(state, get(f.ATTEMPT) or b"0", created_at),
                created_at if not enqueued or enqueued == created else format_ms(int(enqueued)),
            ),
        ]
        # Most jobs have none of these fields. One call finds that out.
        has_more = not fields.keys().isdisjoint(_SELDOM_SHOWN)
        # These two fields are times that the server computed from relative ones. An absolute time
        # that the client sent is in the envelope.
        if has_more and get(f.SCHEDULED_SHOWN):
            parts.append(b',"scheduled_at":"%b"' % format_ms(int(fields[f.SCHEDULED_SHOWN])))
        if has_more and get(f.EXPIRES_SHOWN):
            parts.append(b',"expires_at":"%b"' % format_ms(int(fields[f.EXPIRES_SHOWN])))
        started = get(f.STARTED)
        if started:
            parts.append(b',"started_at":"%b"' % format_ms(int(started)))
        if state == b"active":
            if get(f.WORKER):
                parts.append(b',"worker_id":' + orjson.dumps(fields[f.WORKER].decode()))
            if lease:
                parts.append(b',"lease_id":"%b"' % fields[f.LEASE])
        if has_more and get(f.DELAY):
            parts.append(b',"retry_delay_ms":' + fields[f.DELAY])
            if state == b"retryable" and get(f.DUE):
                parts.append(b',"next_attempt_at":"%b"' % format_ms(int(fields[f.DUE])))
        finished = get(f.FINISHED)
        if finished:
            parts += self._finish(state, format_ms(int(finished)))
        if has_more:
            parts += self._seldom_shown(state, error_text)
        parts.append(b"}")
        return parts

    def _seldom_shown(self, state: bytes, error_text: bool) -> Iterator[bytes]:
        """Yield the members after the times, which only some jobs have."""
        fields = self.fields
        if fields.get(f.ERRORS):
            errors = self.errors()
            if errors and state != b"completed":
                yield b',"error":' + (_message_of(errors[-1]) if error_text else errors[-1])
            yield b',"errors":[%b]' % b",".join(errors)
        if fields.get(f.WORKFLOW):
            yield from self._workflow()
        if fields.get(f.PROGRESS):
            yield from self._progress()
        if fields.get(f.REPLAYS):
            yield b',"replay_count":' + fields[f.REPLAYS]

    def _progress(self) -> Iterator[bytes]:
        progress = self.progress
        if progress is None:
            return
        if progress.value:
            yield b',"progress":' + progress.value
        if progress.data:
            yield b',"progress_data":' + progress.data

    def _workflow(self) -> Iterator[bytes]:
        fields = self.fields
        yield b',"workflow_id":"%b","workflow_step":%b' % (fields[f.WORKFLOW], fields[f.STEP])
        parents = fields.get(f.PARENTS)
        if not parents:
            return
        yield b',"parent_results":' + parents
        names = fields.get(f.PARENT_NAMES)
        if names:
            results = array_items(parents) or []
            with suppress(ValueError):  # omit damaged names
                named = list(zip(orjson.loads(names), results, strict=True))
                yield b',"parent_results_by_id":{%b}' % join({n: r for n, r in named if n})

    def _finish(self, state: bytes, at: bytes) -> Iterator[bytes]:
        if state == b"completed":
            yield b',"completed_at":"%b"' % at
            if self.fields.get(f.RESULT):
                yield b',"result":' + self.fields[f.RESULT]
        elif state == b"cancelled":
            yield b',"cancelled_at":"%b"' % at
        else:
            yield b',"discarded_at":"%b"' % at
            if not self.fields.get(f.EXPIRED):
                yield b',"completed_at":"%b"' % at


def _message_of(error: bytes) -> bytes:
    """Return the message of an error object as a JSON string."""
    with suppress(orjson.JSONDecodeError):
        message = orjson.loads(error).get("message")
        if isinstance(message, str):
            return orjson.dumps(message)
    return b'""'


def split_values(text: bytes, numbers: int) -> list[bytes]:
    """Return the values of a plain job that a script has returned as a text, a line each.

    Args:
        text: the queue, the type, numbers, and the envelope.
        numbers: how many numbers there are.
    """
    queue, job_type, rest = text.split(b"\n", 2)
    # Another program may have written a number with blanks or line feeds around it, which Lua reads
    # as a number. So the numbers are split at any of these.
    values = rest.split(None, numbers)
    if len(values) == numbers:
        values.append(b"")  # an empty envelope
    return [queue, job_type, *values]


def record(job_id: str, field_list: Iterable[bytes]) -> JobRecord:
    """Return a record from alternating names and values. A later value replaces an earlier one."""
    items = iter(field_list)
    return JobRecord(job_id, dict(zip(items, items, strict=True)))
