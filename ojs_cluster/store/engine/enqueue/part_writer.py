"""Store jobs of one shard with one script, and interpret the replies of the script.

A reply may be lost, so the script may run several times for the same jobs. The writer finds out
whether an earlier run has stored the jobs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from ojs_cluster.core.errors import BackendUnavailable, Conflict, WritesRefused
from ojs_cluster.core.events import JOB_ENQUEUED
from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.aliases import (
    AliasClaims,
    ClaimedElsewhere,
    ForeignAlias,
    duplicate_id,
    is_owner_shard,
)
from ojs_cluster.store.engine.enqueue import claimed_ids
from ojs_cluster.store.engine.jobs.read_jobs import read_many
from ojs_cluster.store.engine.jobs.record import JobRecord, record
from ojs_cluster.store.engine.limits import depth_bounds
from ojs_cluster.store.engine.placement import (
    PlacedJob,
    count_types,
    deliver_effects,
    enqueue_command,
    enqueue_one_command,
    is_same_job,
    plain_answer,
    read_back,
    stored_records,
)
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.ground.partial_failures import after_first_write, before_first_write
from ojs_cluster.store.ground.runtime import Arg


class Tombstoned(Exception):
    """A tombstone prevents the job from being stored.

    Args:
        token: the tombstone's token. A producer that claims alias and lock again and then passes
            the token may store the job.
    """

    def __init__(self, token: str) -> None:
        super().__init__(token)
        self.token = token


def fits_fast_path(
    store: Store, shard: Shard, part: Sequence[PlacedJob], *, declared: bool = False
) -> bool:
    """Return whether ``enqueue_one.lua`` can store ``part``.

    It can store one plain job of a queue without a depth bound, whose event no webhook selects, and
    which has no value for the index of the search.

    Args:
        store: the store.
        shard: the shard of the jobs.
        part: the jobs.
        declared: whether the rate limit key of the job, if any, has the limits that it declares.
    """
    if len(part) > 1 or store.settings.max_queue_depth or store.webhooks.selects(JOB_ENQUEUED):
        return False
    if part[0].indexed or (not declared and part[0].field(f.LIMIT)):
        return False
    return part[0].plain and not store.bounded_queues.contains(shard, [part[0].queue])


class PartWriter:
    """Stores jobs of one shard with one script, which it runs until the outcome is known.

    Args:
        store: the store.
        shard: the shard of all jobs.
        part: the jobs.
        jobs: the same jobs as the client has sent them.
        claims: alias claims of the request. They are released when the jobs cannot be stored.
        ignore_depth_bound: whether the jobs are stored even in full queues.
    """

    def __init__(
        self,
        store: Store,
        shard: Shard,
        part: Sequence[PlacedJob],
        jobs: Sequence[NewJob],
        claims: AliasClaims,
        ignore_depth_bound: bool,
    ) -> None:
        self._store = store
        self._shard = shard
        self._part = part
        self._claims = claims
        self._ignore_depth_bound = ignore_depth_bound
        # No other request uses a generated id. A job with such an id was stored by an earlier run.
        self._generated_ids = all(job.id is None for job in jobs)
        self.uncertain = False
        """Whether a run of the script may have been applied although its reply was lost."""

    async def write(
        self,
        store_before_ms: int = 0,
        tombstone_tokens: Iterable[str] = (),
        *,
        fast_path: bool = True,
    ) -> list[JobRecord]:
        """Store the jobs.

        Args:
            store_before_ms: Unix time in ms from which on the script stores nothing, 0 for never.
            tombstone_tokens: tokens of the tombstones that may be replaced.
            fast_path: whether ``enqueue_one.lua`` may be used.

        Raises:
            Tombstoned: a tombstone with another token prevents a job from being stored.
            ClaimedElsewhere: the alias of an id points to another shard.
            Duplicate: another job has one of the ids.
            Conflict: the time ``store_before_ms`` has passed.
            QueueFull: the depth bound of a queue is reached.
            BackendUnavailable: Redis did not answer in time.
        """
        store, shard, part = self._store, self._shard, self._part
        room: depth_bounds.Room | None = None
        name = "enqueue"
        if fast_path and not tombstone_tokens:
            name = "enqueue_one" if fits_fast_path(store, shard, part) else name
        if name == "enqueue_one":
            aliased = not (self._generated_ids or is_owner_shard(store, shard, part[0].job_id))
            keys, args = enqueue_one_command(
                store, shard, part[0], store_before_ms, aliased=aliased
            )
        else:
            keys, args = self._full_path(store_before_ms, tombstone_tokens)
        try:
            if store.room_groups.waiting and self._takes_turn(name, store_before_ms):
                room = self._new_room()
                with before_first_write():
                    await room.wait_turn()
            while True:
                with after_first_write(when=self.uncertain):
                    reply = await self._run(name, keys, args)
                    if reply is None:
                        continue
                    if isinstance(reply, int):  # the time, from ``enqueue_one.lua``
                        reply = [b"ok", reply, [], *plain_answer(part[0])]
                    if reply[0] in (b"full_path", b"bounded"):
                        if reply[0] == b"bounded":
                            store.bounded_queues.add(shard, [part[0].queue])
                        name, (keys, args) = "enqueue", self._full_path(store_before_ms)
                        continue
                    if reply[0] == b"ok":
                        if room is not None:
                            room.leave()  # the deliveries may take a second
                        await deliver_effects(store, shard, reply)
                        store.depth_cache.mark_filled(
                            store.keys, shard, {job.queue for job in part}
                        )
                        count_types(store, part)
                        records = stored_records(part, reply)
                        if records[0].pressure is not None:
                            await self._notice_pressure()
                        return records
                    if reply[0] == b"full":
                        await self._notice_pressure()
                        room = room or self._new_room()
                        with before_first_write():
                            refusal = await room.make(reply)
                        if refusal is None:
                            continue
                        reply = refusal
                    stored = await self._after_refusal(reply)
                    if stored is not None:
                        return stored
        finally:
            if room is not None:
                room.leave()

    async def _notice_pressure(self) -> None:
        await self._store.pressure.notice(self._store, {job.queue for job in self._part})

    def _new_room(self) -> depth_bounds.Room:
        new = Counter(job.queue for job in self._part)
        return depth_bounds.Room(self._store, self._shard, new)

    def _takes_turn(self, name: str, store_before_ms: int) -> bool:
        """Return whether the jobs may wait for room before the first try.

        Only a full queue can refuse such jobs, so no job is dropped in vain.
        """
        if name != "enqueue" or self._ignore_depth_bound or store_before_ms:
            return False
        return self._generated_ids and len({job.queue for job in self._part}) == 1

    def _full_path(
        self, store_before_ms: int = 0, tombstone_tokens: Iterable[str] = ()
    ) -> tuple[list[bytes], list[Arg]]:
        return enqueue_command(
            self._store,
            self._shard,
            self._part,
            store_before_ms=store_before_ms,
            tombstone_tokens=tombstone_tokens,
            ignore_depth_bound=self._ignore_depth_bound,
        )

    async def _run(self, name: str, keys: list[bytes], args: list[Arg]) -> Any:
        """Run the script; return None when the reply was lost and the script must run again."""
        try:
            return await self._store.run(
                self._shard, name, keys, args, idempotent=self._generated_ids
            )
        except BackendUnavailable as error:
            if error.outcome != "unknown" or self._generated_ids or self.uncertain:
                if isinstance(error, WritesRefused) and not self.uncertain:
                    await self._claims.release()
                raise
            # The first run may have stored the jobs. The second run's reply shows whether it has.
            self.uncertain = True
            return None

    async def _after_refusal(self, reply: Any) -> list[JobRecord] | None:
        """Handle a reply that says why the script stored nothing; see ``_resolve_existing``."""
        if reply[0] == b"too_late":
            await self._release_claims()
            raise Conflict("it is too late to store the job: its claim has expired")
        if reply[0] in (b"full", b"draining"):
            await self._release_claims()
            raise depth_bounds.queue_full_error(
                dict.fromkeys(job.queue for job in self._part), reply
            )
        return await self._resolve_existing(int(reply[1]) - 1, reply[2])

    async def _release_claims(self) -> None:
        """Release the claims, unless a run without a reply may still store the jobs."""
        if not (self._generated_ids or self.uncertain):
            await self._claims.release()

    async def _resolve_existing(
        self, position: int, field_list: Sequence[bytes]
    ) -> list[JobRecord] | None:
        """Handle a reply that says that the id of a job is in use.

        Args:
            position: position of the job in the part.
            field_list: names and values of the fields that are stored under the id.

        Returns:
            The jobs when an earlier run has stored them, None when the script must run again.
        """
        store, shard, job = self._store, self._shard, self._part[position]
        existing = record(job.job_id, field_list).fields
        repeated = self._generated_ids or self.uncertain
        if f.TOMBSTONE in existing:
            raise Tombstoned(existing[f.TOMBSTONE].decode())
        if f.TRANSACTION in existing:
            transaction = existing[f.TRANSACTION].decode()
            await claimed_ids.wait_for_transaction(store, shard, [job.job_id], transaction)
            return None
        target = claimed_ids.foreign_target(store, shard, existing)
        if target is not None:
            # An earlier run may have stored the job, and another process may have removed the job
            # since. So it is unknown whether the request was applied.
            if repeated:
                raise BackendUnavailable(
                    f"another request has claimed the id '{job.job_id}'", outcome="unknown"
                )
            raise ClaimedElsewhere([ForeignAlias(job.job_id, position, target)])
        if repeated and (self._generated_ids or await self._all_stored()):
            with after_first_write():
                return await read_back(store, shard, self._part)
        self._claims.keep(job.job_id)
        await self._release_claims()
        raise duplicate_id(job.job_id, position, len(self._part))

    async def _all_stored(self) -> bool:
        """Return whether every job of the part is stored as it was sent.

        One stored job proves nothing about the others, because an earlier request may have stored
        it.
        """
        ids = [job.job_id for job in self._part]
        stored = {job.id: job for job in await read_many(self._store, self._shard, ids)}
        return all(
            job.job_id in stored and is_same_job(job, stored[job.job_id].fields)
            for job in self._part
        )
