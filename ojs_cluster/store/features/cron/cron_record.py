"""A cron job as its hash stores it (fields: ``store/include/base/cron_record.lua``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import orjson

from ojs_cluster.core.cron.cron_job import OVERLAP_POLICIES, CronDefinition
from ojs_cluster.core.cron.schedule import Schedule
from ojs_cluster.core.errors import OJSError
from ojs_cluster.core.jobs.envelope import is_type
from ojs_cluster.core.jobs.options import is_queue

_LATEST_MS = 253_402_300_800_000
"""The year 10000 in Unix milliseconds."""


@dataclass(frozen=True, slots=True)
class Firing:
    """A firing: an occurrence or manual run that is claimed, and whose job may not be stored yet.

    Args:
        job_id: id of the job.
        occurrence_ms: Unix time of the occurrence in ms; for a manual run the time of the request.
        job: the members of the enqueue request as JSON, from the definition at the time of the
            claim.
        cancels: ids of earlier runs to cancel before the job is stored.
        held: whether the job is stored as pending, until the runs before it have ended.
    """

    job_id: str
    occurrence_ms: int
    job: bytes
    cancels: tuple[str, ...]
    held: bool


@dataclass(frozen=True, slots=True)
class CronRecord:
    """One registered cron job. All times are Unix times in ms by the clock of Redis.

    A *run* is a job that the cron job has enqueued. A run is *held* while it is pending because
    earlier runs have not ended (overlap policy ``enqueue``).

    Args:
        name: name of the cron job.
        fields: the fields of its hash.
        read_ms: when it was read; 0 when the record is only shown to a client.
    """

    name: str
    fields: Mapping[bytes, bytes]
    read_ms: int = 0

    @property
    def definition(self) -> CronDefinition:
        """What the client registered."""
        fields = self.fields
        return CronDefinition(
            name=self.name,
            schedule=self.schedule,
            overlap=self.overlap,
            enabled=self.enabled,
            description=fields[b"description"],
            job=self.job,
            type=fields[b"type"].decode(),
            queue=self.queue,
            tenant=self.tenant,
        )

    @property
    def schedule(self) -> Schedule:
        """The schedule: expression and time zone."""
        return Schedule(self.fields[b"expression"].decode(), self.fields[b"timezone"].decode())

    @property
    def overlap(self) -> str:
        """The overlap policy."""
        return self.fields[b"overlap_policy"].decode()

    @property
    def enabled(self) -> bool:
        """Whether the cron job fires at its occurrences."""
        return self.fields[b"enabled"] == b"1"

    @property
    def job(self) -> bytes:
        """The members of the enqueue request, as JSON."""
        return self.fields[b"job"]

    @property
    def queue(self) -> str:
        """The queue of the jobs."""
        return self.fields[b"queue"].decode()

    @property
    def tenant(self) -> str:
        """The tenant of the jobs; '' for none."""
        return self.fields.get(b"tenant", b"").decode()

    @property
    def version(self) -> str:
        """A text that changes with every change of the definition."""
        return self.fields[b"version"].decode()

    @property
    def created_ms(self) -> int:
        """When the cron job was registered for the first time."""
        return int(self.fields[b"created"])

    @property
    def updated_ms(self) -> int:
        """When the definition was last written."""
        return int(self.fields[b"updated"])

    @property
    def anchor_ms(self) -> int:
        """The start of the first interval of ``@every``."""
        return int(self.fields[b"anchor"])

    @property
    def next_ms(self) -> int | None:
        """The next occurrence, None when there is none or the cron job is disabled."""
        return self._ms(b"next_occurrence")

    @property
    def last_ms(self) -> int | None:
        """When the cron job last fired, None when it has not fired."""
        return self._ms(b"last_run")

    @property
    def runs(self) -> int:
        """How often the cron job has fired."""
        return int(self.fields.get(b"runs", 0))

    @property
    def open_runs(self) -> tuple[str, ...]:
        """Ids of runs that are not known to have ended, oldest first."""
        return _ids(self.fields.get(b"open_runs"))

    @property
    def held_runs(self) -> tuple[str, ...]:
        """Ids of the held runs, oldest first."""
        return _ids(self.fields.get(b"held_runs"))

    @property
    def deleted(self) -> bool:
        """Whether a client has deleted the cron job. The hash stays until its runs are finished."""
        return b"deleted" in self.fields

    @property
    def firing(self) -> Firing | None:
        """The firing that is claimed and not known to be delivered, None when there is none."""
        fields = self.fields
        if b"firing" not in fields:
            return None
        return Firing(
            fields[b"firing"].decode(),
            int(fields[b"firing_occurrence"]),
            fields[b"firing_job"],
            _ids(fields[b"firing_cancels"]),
            fields[b"firing_held"] == b"1",
        )

    @property
    def fault(self) -> str | None:
        """Why the stored fields are malformed, None when they are not."""
        try:
            _ = (self.version, self.runs, self.firing, self.open_runs)
            for time_ms in (self.anchor_ms, self.created_ms, self.updated_ms):
                check_time(time_ms)
            check_time(self.next_ms or 0)
            check_time(self.last_ms or 0)
            definition = self.definition
            if not (is_type(definition.type) and is_queue(definition.queue)):
                return "type or queue is not valid"
            if definition.overlap not in OVERLAP_POLICIES:
                return "overlap_policy is unknown"
            if not isinstance(orjson.loads(self.fields[b"description"]), str | None):
                return "description is no text"
        except (KeyError, ValueError, OJSError) as error:
            return repr(error)
        return None

    def _ms(self, field: bytes) -> int | None:
        value = self.fields.get(field)
        return int(value) if value else None


def check_time(time_ms: int) -> int:
    """Return a Unix time in ms.

    Raises:
        ValueError: no response can show it.
    """
    if not 0 <= time_ms < _LATEST_MS:
        raise ValueError("a time is out of range")
    return time_ms


def parse_cron_record(name: str, flat: Iterable[bytes], read_ms: int) -> CronRecord:
    """Return a record from the flat list of fields in a script's reply.

    Args:
        name: the cron job's name.
        flat: field, value, field, value...
        read_ms: when it was read, in milliseconds of Redis's clock.
    """
    items = iter(flat)
    return CronRecord(name, dict(zip(items, items, strict=True)), read_ms)


def _ids(value: bytes | None) -> tuple[str, ...]:
    return tuple(value.decode().split()) if value else ()
