"""Cron jobs (spec: ojs-cron)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Literal

from ojs_client.errors import NotFound
from ojs_client.jobs import Cron, Job
from ojs_client.options import JSON, NewJob
from ojs_client.paging import entries
from ojs_client.transport import Repeat, Transport, segment

Overlap = Literal["skip", "allow", "cancel_previous", "enqueue"]
_PATH: Final = "/cron"
_OWNER: Final = "cron_owner"


@dataclass(frozen=True, slots=True)
class NewCron:
    """A cron job that a program declares; ``CronJobs.register`` describes the arguments."""

    name: str
    expression: str
    job: NewJob
    timezone: str = "UTC"
    overlap: Overlap = "skip"
    enabled: bool = True
    description: str | None = None

    def members(self, owner: str | None = None) -> dict[str, JSON]:
        """Return its members as the server reads them, without its name."""
        job = self.job
        if owner is not None:
            meta = {**(job.options.get("meta") or {}), _OWNER: owner}
            job = NewJob(job.type, job.args, {**job.options, "meta": meta})
        return {
            "expression": self.expression,
            "timezone": self.timezone,
            "overlap_policy": self.overlap,
            "enabled": self.enabled,
            "description": self.description,
            "job_template": job.json(trace=False),
        }


@dataclass(frozen=True, slots=True)
class SyncedCrons:
    """The names of the cron jobs that ``CronJobs.sync`` has stored and deleted."""

    stored: tuple[str, ...]
    deleted: tuple[str, ...]


class CronJobs:
    """The cron jobs of a server; ``Client.cron`` is one."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def register(
        self,
        name: str,
        expression: str,
        job: NewJob,
        *,
        timezone: str = "UTC",
        overlap: Overlap = "skip",
        enabled: bool = True,
        description: str | None = None,
    ) -> Cron:
        """Store a cron job, and replace the cron job that has the same name.

        The call may be repeated, for example at each deployment.

        Args:
            name: its name: a-z, 0-9, ``-`` and ``.``.
            expression: when it is due, such as ``0 9 * * *``, ``@daily`` or ``@every 5m``.
            job: the job of each occurrence.
            timezone: an IANA name, such as ``Europe/Berlin``.
            overlap: what happens while the job of the previous occurrence is unfinished.
            enabled: whether it fires.
            description: a text for people.
        """
        cron = NewCron(name, expression, job, timezone, overlap, enabled, description)
        return await self._register(name, cron.members())

    async def _register(self, name: str, members: Mapping[str, JSON]) -> Cron:
        body = {"name": name, **members}
        reply = await self._transport.request("POST", _PATH, body, repeat=Repeat.ALWAYS)
        return Cron.from_json(reply["cron"])

    async def get(self, name: str) -> Cron:
        """Return a cron job.

        Raises:
            NotFound: there is no such cron job.
        """
        return Cron.from_json((await self._call("GET", name))["cron"])

    async def list_all(self) -> list[Cron]:
        """Return all cron jobs."""
        return [Cron.from_json(each) async for each in entries(self._transport, _PATH, "crons")]

    async def sync(self, crons: Iterable[NewCron], *, owner: str) -> SyncedCrons:
        """Store the cron jobs that a program declares, and delete those that it declares no more.

        Call it at each deployment. Cron jobs of other owners stay: the jobs have ``cron_owner`` in
        ``meta``. A declared cron job that exists without an owner gets this one. A paused one stays
        paused until ``resume``, also if it was paused by ``enabled=False``.

        Args:
            crons: all cron jobs of the owner.
            owner: the program, such as its name.

        Raises:
            ValueError: two have the same name, or one has that of a cron job of another owner. Then
                nothing has changed.
        """
        declared: dict[str, dict[str, JSON]] = {}
        for cron in crons:
            if cron.name in declared:
                raise ValueError(f"two cron jobs have the name '{cron.name}'")
            declared[cron.name] = cron.members(owner)
        existing = {cron.name: cron for cron in await self.list_all()}
        owners = {name: _owner_of(cron) for name, cron in existing.items()}
        for name in declared.keys() & existing.keys():
            if owners[name] not in (None, owner):
                raise ValueError(f"the cron job '{name}' belongs to '{owners[name]}'")
        for name, members in declared.items():
            await self._store(name, members, exists=name in existing)
        gone = [name for name in existing if name not in declared and owners[name] == owner]
        for name in gone:
            with suppress(NotFound):  # another process of the deployment was faster
                await self.delete(name)
        return SyncedCrons(tuple(declared), tuple(gone))

    async def _store(self, name: str, members: dict[str, JSON], *, exists: bool) -> None:
        if exists:
            # An operator may have paused it.
            kept = ("enabled",) if members["enabled"] else ()
            with suppress(NotFound):  # it was deleted just now
                await self.change(name, **{k: v for k, v in members.items() if k not in kept})
                return
        await self._register(name, members)

    async def change(self, name: str, **members: JSON) -> Cron:
        """Change a cron job.

        Args:
            name: its name.
            **members: the members to change, such as ``expression`` or ``enabled``.

        Raises:
            NotFound: there is no such cron job.
        """
        return Cron.from_json((await self._call("PATCH", name, members))["cron"])

    async def pause(self, name: str) -> Cron:
        """Stop a cron job from firing.

        Raises:
            NotFound: there is no such cron job.
        """
        return Cron.from_json((await self._call("POST", name, suffix="/pause"))["cron"])

    async def resume(self, name: str) -> Cron:
        """Let a cron job fire again.

        Raises:
            NotFound: there is no such cron job.
        """
        return Cron.from_json((await self._call("POST", name, suffix="/resume"))["cron"])

    async def trigger(self, name: str) -> Job:
        """Enqueue the job of a cron job now, and return it.

        Raises:
            NotFound: there is no such cron job.
        """
        # Not repeated after a lost response, because each call enqueues a job.
        reply = await self._call("POST", name, suffix="/trigger", repeat=Repeat.UNLESS_APPLIED)
        return Job.from_json(reply["job"])

    async def history(self, name: str) -> list[dict[str, JSON]]:
        """Return the latest occurrences of a cron job.

        Raises:
            NotFound: there is no such cron job.
        """
        history: list[dict[str, JSON]] = (await self._call("GET", name, suffix="/history"))[
            "history"
        ]
        return history

    async def delete(self, name: str) -> None:
        """Delete a cron job. Its jobs stay.

        Raises:
            NotFound: there is no such cron job.
        """
        # A repetition would raise NotFound if only the response was lost.
        await self._call("DELETE", name, repeat=Repeat.UNLESS_APPLIED)

    async def _call(
        self,
        method: str,
        name: str,
        body: JSON = None,
        *,
        suffix: str = "",
        repeat: Repeat = Repeat.ALWAYS,
    ) -> Any:
        path = f"{_PATH}/{segment(name)}{suffix}"
        return await self._transport.request(method, path, body, repeat=repeat)


def _owner_of(cron: Cron) -> JSON:
    return (cron.members["job_template"].get("meta") or {}).get(_OWNER)
