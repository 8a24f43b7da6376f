"""What operators do with queues, dead letters and limits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, get_args

from ojs_client.jobs import Job
from ojs_client.options import JSON, Duration, State, iso_duration, iso_time
from ojs_client.paging import entries
from ojs_client.transport import Repeat, Transport, segment

_STATES: Final[tuple[State, ...]] = get_args(State)


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue, with the numbers of its jobs by state.

    Args:
        name: its name.
        paused: whether no worker gets its jobs.
        counts: its numbers of jobs by state, as far as the server counts them.
        members: all members that the server sent.
    """

    name: str
    paused: bool
    counts: Mapping[str, int]
    members: Mapping[str, JSON]

    @classmethod
    def from_json(cls, members: Mapping[str, JSON]) -> Queue:
        """Return the queue of a response."""
        counts: dict[str, int] = {state: members[state] for state in _STATES if state in members}
        return cls(members["name"], bool(members.get("paused")), counts, members)


class Queues:
    """The queues of a server; ``Client.queues`` is one."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def find(self) -> AsyncIterator[Queue]:
        """Yield the queues by name."""
        async for members in entries(self._transport, "/queues", "queues"):
            yield Queue.from_json(members)

    async def create(self, name: str, **settings: JSON) -> Mapping[str, JSON]:
        """Create a queue, which is kept without jobs, and return its settings.

        Args:
            name: the queue.
            **settings: its settings, such as ``concurrency``.

        Raises:
            Conflict: the queue exists.
        """
        body = {"name": name, "config": settings}
        reply = await self._transport.request("POST", "/queues", body)
        config: Mapping[str, JSON] = reply["config"]
        return config

    async def get(self, name: str) -> Queue:
        """Return a queue.

        Raises:
            NotFound: there is no such queue.
        """
        return Queue.from_json(await self._call("GET", name))

    async def pause(self, name: str) -> None:
        """Give no job of a queue to workers."""
        await self._call("POST", name, "/pause")

    async def resume(self, name: str) -> None:
        """Give the jobs of a queue to workers again."""
        await self._call("POST", name, "/resume")

    async def drain(self, name: str) -> None:
        """Refuse new jobs of a queue, and let workers empty it. ``resume`` ends the drain."""
        await self._call("POST", name, "/drain")

    async def purge(self, name: str) -> int:
        """Remove the available jobs of a queue, and return their number.

        ``Jobs.delete_all`` removes jobs that have ended, and ``Jobs.cancel_all`` cancels others.
        """
        path = f"/queues/{segment(name)}/purge"
        purged = there = 0
        while True:  # the server returns after some seconds
            reply = await self._transport.request("POST", path, {"confirm": True})
            left = int(reply["left"])
            purged += int(reply["purged_count"])
            there = there or purged + left  # producers may add jobs as fast as they are removed
            if not left or not reply["purged_count"] or purged >= there:
                return purged

    async def configure(self, name: str, **settings: JSON) -> Mapping[str, JSON]:
        """Change settings of a queue, which need not exist yet, and return all of them.

        Args:
            name: the queue.
            **settings: the settings, such as ``concurrency``; None removes one.
        """
        path = f"/admin/queues/{segment(name)}/config"
        reply = await self._transport.request("PUT", path, settings, repeat=Repeat.ALWAYS)
        config: Mapping[str, JSON] = reply["config"]
        return config

    async def delete(self, name: str) -> None:
        """Delete a queue.

        Raises:
            NotFound: there is no such queue.
            Conflict: it has jobs.
        """
        await self._call("DELETE", name, repeat=Repeat.UNLESS_APPLIED)

    async def _call(
        self, method: str, name: str, suffix: str = "", *, repeat: Repeat = Repeat.ALWAYS
    ) -> Any:
        path = f"/queues/{segment(name)}{suffix}"
        return await self._transport.request(method, path, repeat=repeat)


class DeadLetters:
    """The dead letters of a server; ``Client.dead_letters`` is one."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def find(self, *, queue: str | None = None) -> AsyncIterator[Job]:
        """Yield the dead letters, newest first.

        Args:
            queue: their queue; None for any.
        """
        async for members in entries(self._transport, "/dead-letter", "jobs", {"queue": queue}):
            yield Job.from_json(members)

    async def retry(self, job_id: str) -> Job:
        """Make the job of a dead letter available again.

        Raises:
            NotFound: there is no such dead letter.
        """
        path = f"/dead-letter/{segment(job_id)}/retry"
        return Job.from_json((await self._transport.request("POST", path))["job"])

    async def delete(self, job_id: str) -> None:
        """Delete a dead letter.

        Raises:
            NotFound: there is no such dead letter.
        """
        await self._transport.request("DELETE", f"/dead-letter/{segment(job_id)}")


@dataclass(frozen=True, slots=True)
class Limit:
    """A rate limit key.

    Args:
        key: its name.
        active: number of jobs that hold it.
        members: all members that the server sent, such as ``concurrency`` and ``override``.
    """

    key: str
    active: int
    members: Mapping[str, JSON]

    @classmethod
    def from_json(cls, members: Mapping[str, JSON]) -> Limit:
        """Return the limit of a response."""
        return cls(members["key"], members.get("active", 0), members)


class Limits:
    """The rate limit keys of a server; ``Client.limits`` is one."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def find(self) -> AsyncIterator[Limit]:
        """Yield the rate limit keys."""
        async for members in entries(self._transport, "/rate-limits", "rate_limits"):
            yield Limit.from_json(members)

    async def get(self, key: str) -> Limit:
        """Return a rate limit key.

        Raises:
            NotFound: there is no such key.
        """
        return Limit.from_json(await self._call("GET", key))

    async def override(
        self,
        key: str,
        *,
        concurrency: int | None = None,
        rate: int | None = None,
        period: Duration | None = None,
        expires: datetime | None = None,
    ) -> Limit:
        """Replace the limits that jobs carry for a key.

        Args:
            key: the key.
            concurrency: maximum number of active jobs.
            rate: maximum number of starts in a period.
            period: the period of ``rate``; None for a second.
            expires: when the override ends; None for when it is removed.

        Raises:
            NotFound: there is no such key.
        """
        body: dict[str, JSON] = {}
        if concurrency is not None:
            body["concurrency"] = concurrency
        if rate is not None:
            body["rate"] = {"limit": rate, "period": iso_duration(1 if period is None else period)}
        if expires is not None:
            body["expires_at"] = iso_time(expires)
        return Limit.from_json(await self._call("PUT", key, body))

    async def remove_override(self, key: str) -> Limit:
        """Let the limits of the jobs hold again.

        Raises:
            NotFound: there is no such key.
        """
        return Limit.from_json(await self._call("DELETE", key, suffix="/override"))

    async def _call(self, method: str, key: str, body: JSON = None, *, suffix: str = "") -> Any:
        path = f"/rate-limits/{segment(key)}{suffix}"
        return await self._transport.request(method, path, body, repeat=Repeat.ALWAYS)
