"""A cron job as its hash gives it (fields: ``store/include/base/cron_record.lua``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ojs_cluster.core.cron import Schedule
from ojs_cluster.core.cron_job import CronDefinition


@dataclass(frozen=True, slots=True)
class Owed:
    """A firing that was decided and whose job may not be stored yet.

    Args:
        tick_ms: the tick, in ms; for a run by hand the moment it was asked for.
        job: the job to enqueue, as the definition had it at that moment.
        cancels: ids of runs that make way.
        hold: whether the job waits, as pending, for the runs before it.
    """

    job_id: str
    tick_ms: int
    job: bytes
    cancels: tuple[str, ...]
    hold: bool


@dataclass(frozen=True, slots=True)
class CronRecord:
    """One registered cron job. Times in ms of Redis's clock, None when there is none.

    Args:
        read_ms: when it was read; 0 for one that nothing is done with.
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
            description=fields[b"d"],
            job=fields[b"j"],
            type=fields[b"t"].decode(),
            queue=self.queue,
        )

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.fields[b"x"].decode(), self.fields[b"z"].decode())

    @property
    def overlap(self) -> str:
        return self.fields[b"o"].decode()

    @property
    def enabled(self) -> bool:
        return self.fields[b"on"] == b"1"

    @property
    def queue(self) -> str:
        """The queue of the jobs."""
        return self.fields[b"q"].decode()

    @property
    def version(self) -> str:
        """Changes with every change of the definition."""
        return self.fields[b"v"].decode()

    @property
    def created_ms(self) -> int:
        return int(self.fields[b"c"])

    @property
    def updated_ms(self) -> int:
        return int(self.fields[b"u"])

    @property
    def anchor_ms(self) -> int:
        """Where the intervals of ``@every`` are counted from."""
        return int(self.fields[b"a"])

    @property
    def next_ms(self) -> int | None:
        """The next tick."""
        return self._ms(b"n")

    @property
    def last_ms(self) -> int | None:
        """When it last fired."""
        return self._ms(b"l")

    @property
    def runs(self) -> int:
        """How often it fired."""
        return int(self.fields.get(b"r", 0))

    @property
    def open(self) -> tuple[str, ...]:
        """Jobs of earlier firings that are not known to have ended, oldest first."""
        return _ids(self.fields.get(b"open"))

    @property
    def held(self) -> tuple[str, ...]:
        """Those of them that wait as pending, oldest first."""
        return _ids(self.fields.get(b"held"))

    @property
    def deleted(self) -> bool:
        """Deleted by the client, and only kept until its last firings are done."""
        return b"gone" in self.fields

    @property
    def owed(self) -> Owed | None:
        fields = self.fields
        if b"owed" not in fields:
            return None
        return Owed(
            fields[b"owed"].decode(),
            int(fields[b"ot"]),
            fields[b"ob"],
            _ids(fields[b"oc"]),
            fields[b"oh"] == b"1",
        )

    @property
    def fault(self) -> str | None:
        """Why the stored fields cannot be used; None when they can."""
        try:
            _ = (self.definition, self.anchor_ms, self.created_ms, self.updated_ms, self.version)
            _ = (self.next_ms, self.last_ms, self.runs, self.owed)
        except (KeyError, ValueError) as error:
            return repr(error)
        return None

    def _ms(self, name: bytes) -> int | None:
        value = self.fields.get(name)
        return int(value) if value else None


def cron_record(name: str, flat: Iterable[bytes], read_ms: int) -> CronRecord:
    """A record from the flat field list of a script's reply, at ``read_ms`` of Redis's clock."""
    items = iter(flat)
    return CronRecord(name, dict(zip(items, items, strict=True)), read_ms)


def _ids(value: bytes | None) -> tuple[str, ...]:
    return tuple(value.decode().split()) if value else ()
