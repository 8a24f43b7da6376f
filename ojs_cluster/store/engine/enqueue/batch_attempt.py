"""One attempt to store a batch: reserve ids and locks, then build the transaction.

Every attempt visits shards in the order of their indexes, so two batches never block each other in
a circle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

import trio
from msgspec.structs import replace

from ojs_cluster.core.errors import OJSError
from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.core.jobs.ids import new_job_id
from ojs_cluster.core.jobs.unique import UniquePolicy
from ojs_cluster.core.raw_json import join, object_members
from ojs_cluster.keys import Shard
from ojs_cluster.redis.deadline import cleaning_up
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine import unique_locks as locks
from ojs_cluster.store.engine.aliases import (
    CLAIM_MS,
    AliasClaims,
    ClaimedElsewhere,
    ForeignAlias,
    duplicate_id,
    earliest,
    is_owner_shard,
)
from ojs_cluster.store.engine.enqueue import claimed_ids
from ojs_cluster.store.engine.enqueue.batch_conflicts import ConflictDecision, decide_conflicts
from ojs_cluster.store.engine.jobs.record import JobRecord, record
from ojs_cluster.store.engine.placement import (
    EnqueueOutcome,
    PlacedJob,
    place,
    portions,
    token_list,
)
from ojs_cluster.store.engine.transactions import transactions
from ojs_cluster.store.engine.transactions.contents import Replacement, Transaction
from ojs_cluster.store.engine.unique import unique
from ojs_cluster.store.engine.unique_locks import LockHolder, LockRequest
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.ground.portions import PORTION_KEYS
from ojs_cluster.store.ground.runtime import Arg


class BatchAttempt:
    """One attempt to store the jobs of a batch: its reservations and its decisions.

    Args:
        store: the store.
        jobs: the jobs.
        fields: names and values of further fields of each job's hash.
        store_before_ms: Unix time in ms from which on the jobs must not be stored, 0 for never.
        claims: alias claims of the request, by default an empty set of claims.
        shards_of_ids: shards that other requests have chosen for ids.
    """

    def __init__(
        self,
        store: Store,
        jobs: Sequence[NewJob],
        fields: Sequence[bytes] = (),
        store_before_ms: int = 0,
        claims: AliasClaims | None = None,
        shards_of_ids: Mapping[str, Shard] | None = None,
    ) -> None:
        self._store = store
        self._jobs = jobs
        self._claims = claims or AliasClaims(store)
        self._fields = fields
        self.commit_before_ms = store_before_ms
        self._clock_known = False
        self._tombstone_tokens: set[str] = set()
        now_ms = store.clock.now_ms()
        self._shards = store.partitions.choose_shards(store, jobs)
        for index, job in enumerate(jobs):
            if shards_of_ids and job.id is not None:
                self._shards[index] = shards_of_ids.get(job.id, self._shards[index])
        self._ids = [
            job.id or store.ids.new(shard.index, now_ms)
            for job, shard in zip(jobs, self._shards, strict=True)
        ]
        # Per fingerprint, the positions and policies of its jobs.
        self._groups: dict[str, list[tuple[int, UniquePolicy]]] = {}
        # Per shard, the positions of the jobs whose ids the client has chosen.
        self._chosen: dict[Shard, list[int]] = {}
        for index, job in enumerate(jobs):
            if job.unique is not None:
                self._groups.setdefault(job.fingerprint, []).append((index, job.unique))
            if job.id is not None:
                self._chosen.setdefault(self._shards[index], []).append(index)
        self._holders: dict[str, LockHolder | None] = dict.fromkeys(self._groups)
        self._decisions: dict[str, ConflictDecision] = {}
        self._owner = self._choose_owner()
        self._transaction_id = new_job_id(self._owner.index, len(store.keys), now_ms)

    def _choose_owner(self) -> Shard:
        """Return the shard that will have the transaction's record.

        If possible, it is a shard where this attempt reserves an id or a lock. Then one clock
        decides when the commit comes too late and when the reservation expires.
        """
        if self._chosen:
            return min(self._chosen, key=lambda shard: shard.index)
        lock_shards = map(self._store.keys.shard_of_fingerprint, self._groups)
        return min(lock_shards, key=lambda shard: shard.index, default=self._shards[0])

    async def reserve(self) -> None:
        """Reserve what other requests could take: first client-chosen ids, then locks.

        Raises:
            Duplicate: another job has one of the ids, or conflicts under the policy of a job.
            ClaimedElsewhere: other requests have claimed ids for other shards.
        """
        await self._claim_aliases(self._chosen)
        for shard in sorted(self._chosen, key=lambda shard: shard.index):
            chosen = self._chosen[shard]
            for start in range(0, len(chosen), PORTION_KEYS):
                await self._reserve_ids(shard, chosen[start : start + PORTION_KEYS])
        by_shard: dict[Shard, list[str]] = {}
        for fingerprint in sorted(self._groups):
            shard = self._store.keys.shard_of_fingerprint(fingerprint)
            by_shard.setdefault(shard, []).append(fingerprint)
        for shard in sorted(by_shard, key=lambda shard: shard.index):
            await self._claim_locks(shard, by_shard[shard])

    async def _claim_aliases(self, chosen: Mapping[Shard, Sequence[int]]) -> None:
        """Claim the ids whose jobs will not live in their owner shards.

        The commit must come before the claims expire.

        Args:
            chosen: per shard, the positions of the jobs whose ids are claimed.

        Raises:
            Duplicate: another job has one of the ids.
            ClaimedElsewhere: other requests have claimed ids for other shards.
        """
        elsewhere: list[ForeignAlias] = []
        for shard, indexes in chosen.items():
            pairs = [(self._ids[index], index) for index in indexes]
            foreign = [pair for pair in pairs if not is_owner_shard(self._store, shard, pair[0])]
            try:
                expires_at_ms = await self._claims.claim(
                    shard, foreign, CLAIM_MS, total=len(self._jobs)
                )
            except ClaimedElsewhere as conflict:
                elsewhere += conflict.ids
            else:
                self.commit_before_ms = earliest(self.commit_before_ms, expires_at_ms)
        if elsewhere:
            raise ClaimedElsewhere(elsewhere)

    async def _reserve_ids(self, shard: Shard, indexes: Sequence[int]) -> None:
        """Reserve client-chosen ids in the shard where their jobs will live."""
        store, ids = self._store, [self._ids[index] for index in indexes]
        keys = [shard.alias_claims, *(shard.job(job_id) for job_id in ids)]
        while True:
            args: list[Arg] = [self._transaction_id, shard.index]
            args += (token_list(self._tombstone_tokens), *ids)
            reply = await store.run(shard, "reserve_ids", keys, args, idempotent=True)
            if reply[0] == b"ok":
                self._read_clock(shard, int(reply[1]))
                return
            position = int(reply[1]) - 1
            existing = record("", reply[2]).fields
            if f.TOMBSTONE in existing:
                self._tombstone_tokens.add(existing[f.TOMBSTONE].decode())
                # The request that wrote the tombstone may have taken the id over. A claim that is
                # made after the tombstone was read fails then, or prevents that.
                await self._claim_aliases({shard: [indexes[position]]})
            elif f.TRANSACTION in existing:
                reserved = [ids[position], *ids]
                transaction = existing[f.TRANSACTION].decode()
                await claimed_ids.wait_for_transaction(store, shard, reserved, transaction)
            elif claimed_ids.foreign_target(store, shard, existing) is not None:
                pairs = list(zip(ids, indexes, strict=True))
                raise ClaimedElsewhere(await claimed_ids.find_foreign_aliases(store, shard, pairs))
            else:
                self._claims.keep(ids[position])
                raise duplicate_id(ids[position], indexes[position], len(self._jobs))

    async def _claim_locks(self, shard: Shard, fingerprints: Sequence[str]) -> None:
        """Claim locks of one shard, and decide about the conflicts with their holders."""
        deadline = trio.current_time() + unique.CLAIM_TIMEOUT_S
        for fingerprint in fingerprints:
            self._decide(fingerprint)
        while trio.current_time() < deadline:
            requests = [
                request
                for name in fingerprints
                if (request := self._lock_request(name)) is not None
            ]
            if not requests:
                return
            reply = await locks.try_claim(self._store, shard, requests, self._transaction_id)
            if isinstance(reply, int):
                self._read_clock(shard, reply)
                return
            self._read_clock(shard, reply.now_ms)
            fingerprint = requests[reply.position].fingerprint
            holder = await unique.resolve_holder(self._store, fingerprint, reply)
            self._holders[fingerprint] = holder
            self._decide(fingerprint)
        raise unique.contention_error()

    def _read_clock(self, shard: Shard, now_ms: int) -> None:
        """Set the time limit of the commit.

        The first reservation in the owner shard of the transaction tells the clock of that shard.

        Args:
            shard: the shard in which ids or locks were reserved.
            now_ms: Unix time in ms of that shard's clock.
        """
        if shard is self._owner and not self._clock_known:
            self._clock_known = True
            self.commit_before_ms = earliest(self.commit_before_ms, now_ms + unique.CLAIM_MS)

    def _lock_request(self, fingerprint: str) -> LockRequest | None:
        last = self._decisions[fingerprint].last
        if last is None:
            return None
        request = LockRequest(fingerprint, self._ids[last], self._shards[last].index)
        return unique.with_expected_holder(request, self._holders[fingerprint])

    def _decide(self, fingerprint: str) -> None:
        self._decisions[fingerprint] = decide_conflicts(
            self._jobs,
            fingerprint,
            self._groups[fingerprint],
            self._holders[fingerprint],
            self._store.clock.now_ms(),
        )

    def transaction(self) -> Transaction:
        """Return what to commit, after everything is reserved."""
        decisions = self._decisions.values()
        not_stored = self._not_stored()
        superseded = {index for decision in decisions for index in decision.superseded}
        due = {index: ms for decision in decisions for index, ms in decision.due.items()}
        replacements = {
            decision.last: Replacement(holder.job.id, holder.shard, self._ids[decision.last])
            for name, holder in self._holders.items()
            if holder is not None
            and (decision := self._decisions[name]).replaces_holder
            and decision.last is not None
        }
        parts: dict[Shard, list[PlacedJob]] = {}
        for index, job in enumerate(self._jobs):
            if index in not_stored:
                continue
            placed = _place_at(self._ids[index], job, due.get(index), self._fields)
            outcome: EnqueueOutcome = ""
            if index in superseded:
                outcome = "superseded"
            elif index in replacements:
                outcome = "prepared"
            parts.setdefault(self._shards[index], []).append(replace(placed, outcome=outcome))
        return Transaction(
            self._transaction_id,
            {shard: portions(self._store, part) for shard, part in parts.items()},
            replacements=list(replacements.values()),
            locks=[
                (name, self._ids[decision.last])
                for name, decision in self._decisions.items()
                if decision.last is not None
            ],
        )

    def results(self, records: dict[str, JobRecord]) -> list[JobRecord]:
        """Return the jobs in the order of the request.

        Args:
            records: the stored jobs, by id.
        """
        instead = {
            index: other
            for decision in self._decisions.values()
            for index, other in decision.instead.items()
        }

        def result(index: int) -> JobRecord:
            other = instead.get(index)
            if other is None:
                return records[self._ids[index]]
            job = result(other) if isinstance(other, int) else other
            return replace(job, deduplicated=True)

        return [result(index) for index in range(len(self._jobs))]

    async def release(self) -> None:
        """Release all reservations.

        The function never raises. If Redis does not answer, reservations remain. The next request
        that needs a reserved id or lock releases it, or the janitor does.
        """
        with suppress(OJSError), cleaning_up():
            for shard, indexes in self._chosen.items():
                ids = [self._ids[index] for index in indexes]
                await transactions.release_ids(self._store, shard, self._transaction_id, ids)
        await self._claims.release()
        with suppress(OJSError), cleaning_up():
            requests = [
                request
                for name in self._decisions
                if (request := self._lock_request(name)) is not None
            ]
            await locks.settle(self._store, "drop", requests, self._transaction_id)

    async def release_unused(self) -> None:
        """Release the ids of jobs that the policy ``ignore`` did not store.

        The function never raises.
        """
        with suppress(OJSError):
            for shard, indexes in self._chosen.items():
                ids = [self._ids[index] for index in indexes if index in self._not_stored()]
                if ids:
                    await transactions.release_ids(self._store, shard, self._transaction_id, ids)
                    await self._claims.release(ids)

    def _not_stored(self) -> set[int]:
        return {index for decision in self._decisions.values() for index in decision.instead}


def _place_at(job_id: str, job: NewJob, due_ms: int | None, fields: Sequence[bytes]) -> PlacedJob:
    """Return the job with its id. If ``due_ms`` is given, it replaces the job's own schedule."""
    if due_ms is not None:
        members = object_members(b"{%b}" % job.body) or {}
        members.pop("scheduled_at", None)
        job = replace(job, body=join(members), scheduled=None)
    placed = place(job_id, job, [*unique.lock_fields(job), *fields])
    # The letter "s" tells enqueue.lua to show the time in the envelope.
    return placed if due_ms is None else replace(placed, due=f"s{due_ms}")
