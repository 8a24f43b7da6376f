"""Jobs of several shards, or with unique ones among them: all or none (spec: ojs-bulk-operations).

Reserve the ids that clients chose, claim the unique locks, then let a transaction write everything
(see
``transactions``). Shards are visited in their order, so that two batches never wait for each other.

Unique conflicts are judged item by item, against the lock's holder and then against the items
before: the policy of the later job decides.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import trio
from msgspec.structs import replace

from ojs_cluster.core.errors import BackendUnavailable, Duplicate, OJSError
from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.core.jobs.ids import new_job_id
from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.raw_json import join, object_members
from ojs_cluster.core.unique import UniquePolicy
from ojs_cluster.keys import Shard
from ojs_cluster.redis.deadline import cleaning_up
from ojs_cluster.redis.driven_coroutines import ensure_task
from ojs_cluster.store.context import Store
from ojs_cluster.store.enqueue import claimed_ids
from ojs_cluster.store.enqueue.aliases import (
    CLAIM_MS,
    AliasClaims,
    Claimed,
    ClaimedElsewhere,
    duplicate_id,
    earliest,
    is_owner_shard,
)
from ojs_cluster.store.enqueue.placement import Fate, PlacedJob, place, portions, token_list
from ojs_cluster.store.jobs import fields as f
from ojs_cluster.store.jobs.record import JobRecord, record
from ojs_cluster.store.limits import depth_bounds
from ojs_cluster.store.portions import PORTION_KEYS
from ojs_cluster.store.runtime import Arg
from ojs_cluster.store.transactions import transactions
from ojs_cluster.store.transactions.transactions import Replacement, Transaction
from ojs_cluster.store.unique import locks, unique
from ojs_cluster.store.unique.locks import Holder, Want

_TRIES = 3


async def enqueue_all(
    store: Store,
    jobs: Sequence[NewJob],
    fields: Sequence[bytes] = (),
    lapses: int = 0,
    claims: AliasClaims | None = None,
    *,
    accepted: bool = False,
) -> list[JobRecord]:
    """Store jobs of any shards, all or none, answered in the order given.

    A job that is not stored because one of the same uniqueness is there (``ignore``) is answered
    with that one, ``deduplicated``.

    Args:
        fields: names and values of more fields of each job's hash.
        lapses: ms of any shard's clock from which on it is too late, 0 for never.
        claims: what the caller has claimed for the jobs already.
        accepted: whether full queues take them, too.

    Raises:
        QueueFull: as many jobs wait in a queue as may. A job that replaces another is never
            refused.
        Duplicate: an id is taken or given twice, or a job of the same uniqueness is in the way.
        TooManyQueues: a queue would be one too many.
        BackendUnavailable: Redis did not answer in time.
    """
    await ensure_task()
    await store.queues.ensure(store, dict.fromkeys(job.queue for job in jobs))
    claims = claims or AliasClaims(store)
    shards: dict[str, Shard] = {}
    for _ in range(_TRIES):
        attempt = await _reserved(store, jobs, fields, lapses, claims, shards)
        try:
            transaction = attempt.transaction()
            if not accepted:
                await depth_bounds.check_bounds(store, transaction.new_jobs())
            now = (
                await transactions.commit(store, transaction, attempt.lapses)
                if transaction.parts
                else 0
            )
        except OJSError as error:
            # What may have been decided is not touched: who meets it finds out.
            if not isinstance(error, BackendUnavailable) or error.outcome == "not_applied":
                await attempt.give_back()
            raise
        if now is None:
            await attempt.give_back()
            continue
        try:
            records = await transactions.apply(store, transaction, now) if transaction.parts else {}
        except OJSError as error:
            raise BackendUnavailable(
                f"the jobs are accepted, but not stored yet: {error.message}",
                outcome=transactions.outcome_of(error),
            ) from error
        await attempt.give_back_unused()
        return attempt.answers(records)
    raise BackendUnavailable("the jobs could not be stored in time", outcome="not_applied")


def refuse_repeated_ids(jobs: Sequence[NewJob]) -> None:
    """Raise Duplicate when a client gives an id to two of the jobs: before anything is written."""
    seen: set[str] = set()
    for index, job in enumerate(jobs):
        if job.id is not None:
            if job.id in seen:
                raise duplicate_id(job.id, index, len(jobs))
            seen.add(job.id)


async def _reserved(
    store: Store,
    jobs: Sequence[NewJob],
    fields: Sequence[bytes],
    lapses: int,
    claims: AliasClaims,
    places: dict[str, Shard],
) -> _BatchAttempt:
    """Return an attempt that has reserved everything it needs. Adds to ``places``."""
    deadline = trio.current_time() + unique.CLAIM_TIMEOUT_S
    while trio.current_time() < deadline:
        attempt = _BatchAttempt(store, jobs, fields, lapses, claims, places)
        try:
            await attempt.reserve()
        except ClaimedElsewhere as met:
            await attempt.give_back()
            places.update(await claimed_ids.first_shards(store, claims, jobs, met.ids))
        except OJSError as error:
            if not isinstance(error, BackendUnavailable) or error.outcome == "not_applied":
                await attempt.give_back()
            raise
        else:
            return attempt
    raise unique.busy()


@dataclass(slots=True)
class _ConflictDecision:
    """What becomes of the jobs of one fingerprint, given the lock's holder.

    Args:
        last: the job that holds the lock in the end; None when none is stored.
        answers: jobs not stored, and the job or the position of the job they are answered with.
        superseded: jobs that a later one replaces.
        replaced: whether the lock's holder is replaced.
        due: jobs that take over a schedule, and its ms.
    """

    last: int | None = None
    answers: dict[int, JobRecord | int] = field(default_factory=dict)
    superseded: list[int] = field(default_factory=list)
    replaced: bool = False
    due: dict[int, int] = field(default_factory=dict)


class _BatchAttempt:
    """One attempt to store the jobs: what has been reserved for it and found out so far."""

    def __init__(
        self,
        store: Store,
        jobs: Sequence[NewJob],
        fields: Sequence[bytes] = (),
        lapses: int = 0,
        claims: AliasClaims | None = None,
        places: Mapping[str, Shard] | None = None,
    ) -> None:
        self._store = store
        self._jobs = jobs
        self._claims = claims or AliasClaims(store)
        self._fields = fields
        self._latest = lapses
        self.lapses = lapses
        self._learned = False
        self._fences: set[str] = set()
        now_ms = time.time_ns() // 1_000_000
        self._shards = store.partitions.choose_shards(store, jobs)
        for index, job in enumerate(jobs):
            if places and job.id is not None:
                self._shards[index] = places.get(job.id, self._shards[index])
        self._ids = [
            job.id or store.ids.new(shard.index, now_ms)
            for job, shard in zip(jobs, self._shards, strict=True)
        ]
        self._groups: dict[str, list[tuple[int, UniquePolicy]]] = {}
        self._chosen: dict[Shard, list[int]] = {}
        for index, job in enumerate(jobs):
            if job.unique is not None:
                self._groups.setdefault(job.fingerprint, []).append((index, job.unique))
            if job.id is not None:
                self._chosen.setdefault(self._shards[index], []).append(index)
        self._holders: dict[str, Holder | None] = dict.fromkeys(self._groups)
        self._verdicts: dict[str, _ConflictDecision] = {}
        self._home = self._decision_shard()
        self._transaction_id = new_job_id(self._home.index, len(store.keys), now_ms)

    def _decision_shard(self) -> Shard:
        """Where something is reserved, so that the reservation's clock is the decision's."""
        if self._chosen:
            return min(self._chosen, key=lambda shard: shard.index)
        of_locks = map(self._store.keys.shard_of_fingerprint, self._groups)
        return min(of_locks, key=lambda shard: shard.index, default=self._shards[0])

    async def reserve(self) -> None:
        """Take what others could take: ids that clients chose, then locks.

        Raises:
            Duplicate: an id or a lock is another's.
            ClaimedElsewhere: ids are claimed for other shards.
        """
        await self._claim_aliases()
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

    async def _claim_aliases(self) -> None:
        """Claim the ids that name other shards. The decision must come before the claims lapse."""
        claimed: list[Claimed] = []
        for shard, indexes in self._chosen.items():
            pairs = [(self._ids[index], index) for index in indexes]
            foreign = [pair for pair in pairs if not is_owner_shard(self._store, shard, pair[0])]
            try:
                lapses = await self._claims.claim(shard, foreign, CLAIM_MS, of=len(self._jobs))
            except ClaimedElsewhere as met:
                claimed += met.ids
            else:
                self._latest = self.lapses = earliest(self._latest, lapses)
        if claimed:
            raise ClaimedElsewhere(claimed)

    async def _reserve_ids(self, shard: Shard, indexes: Sequence[int]) -> None:
        store, ids = self._store, [self._ids[index] for index in indexes]
        keys = [shard.alias_claims, *(shard.job(job_id) for job_id in ids)]
        while True:
            args: list[Arg] = [self._transaction_id, shard.index, token_list(self._fences), *ids]
            reply = await store.run(shard, "reserve_ids", keys, args, idempotent=True)
            if reply[0] == b"ok":
                self._learn(shard, int(reply[1]))
                return
            position = int(reply[1]) - 1
            there = record("", reply[2]).fields
            if f.TOMBSTONE in there:
                self._fences.add(there[f.TOMBSTONE].decode())
                continue
            if f.TRANSACTION in there:
                behind = [ids[position], *ids]
                await claimed_ids.wait_for_transaction(
                    store, shard, behind, there[f.TRANSACTION].decode()
                )
            elif claimed_ids.leads_to(store, shard, there) is not None:
                pairs = list(zip(ids, indexes, strict=True))
                raise ClaimedElsewhere(await claimed_ids.find_foreign_aliases(store, shard, pairs))
            else:
                self._claims.keep(ids[position])
                raise duplicate_id(ids[position], indexes[position], len(self._jobs))

    async def _claim_locks(self, shard: Shard, fingerprints: Sequence[str]) -> None:
        deadline = trio.current_time() + unique.CLAIM_TIMEOUT_S
        for fingerprint in fingerprints:
            self._judge(fingerprint)
        while trio.current_time() < deadline:
            wants = [want for name in fingerprints if (want := self._want(name)) is not None]
            if not wants:
                return
            reply = await locks.try_claim(self._store, shard, wants, self._transaction_id)
            if isinstance(reply, int):
                self._learn(shard, reply)
                return
            self._learn(shard, reply.now_ms)
            fingerprint = wants[reply.position].fingerprint
            self._holders[fingerprint] = await unique.resolve_holder(
                self._store, fingerprint, reply
            )
            self._judge(fingerprint)
        raise unique.busy()

    def _learn(self, shard: Shard, now_ms: int) -> None:
        if shard is self._home and not self._learned:
            self._learned = True
            self.lapses = earliest(self._latest, now_ms + unique.CLAIM_MS)

    def _want(self, fingerprint: str) -> Want | None:
        verdict = self._verdicts[fingerprint]
        if verdict.last is None:
            return None
        want = Want(fingerprint, self._ids[verdict.last], self._shards[verdict.last].index)
        return unique.expecting(want, self._holders[fingerprint])

    def _judge(self, fingerprint: str) -> None:
        holder, verdict = self._holders[fingerprint], _ConflictDecision()
        self._verdicts[fingerprint] = verdict
        now_ms = time.time_ns() // 1_000_000
        for index, policy in self._groups[fingerprint]:
            last = verdict.last
            state: State | None
            if last is None:
                state = holder.job.state if holder is not None and holder.blocks(policy) else None
                due = holder.job.due_ms if holder is not None else None
            else:
                state, due = _state(self._jobs[last], verdict.due.get(last), now_ms)
                state = state if policy.counts(state, 0) else None
            if state is None:
                verdict.last = index
            elif policy.on_conflict == "reject":
                raise self._refusal(fingerprint, index, holder, last)
            elif policy.on_conflict == "ignore":
                verdict.answers[index] = holder.job if last is None and holder else last or 0
            else:
                if last is None:
                    verdict.replaced = True
                else:
                    verdict.superseded.append(last)
                if policy.on_conflict == "replace_except_schedule" and state == State.SCHEDULED:
                    verdict.due[index] = due or 0
                verdict.last = index

    def _refusal(
        self, fingerprint: str, index: int, holder: Holder | None, last: int | None
    ) -> Duplicate:
        position = index if len(self._jobs) > 1 else None
        if last is None and holder is not None:
            return unique.duplicate(fingerprint, holder.job, position)
        return Duplicate(
            f"jobs[{index}] is of the same uniqueness as jobs[{last}]",
            uniqueness_key=fingerprint,
            index=index,
        )

    def transaction(self) -> Transaction:
        """What is to be done, once everything is reserved."""
        verdicts = self._verdicts.values()
        unstored = self._unstored()
        superseded = {index for verdict in verdicts for index in verdict.superseded}
        due = {index: ms for verdict in verdicts for index, ms in verdict.due.items()}
        prepared = {
            verdict.last: Replacement(holder.job.id, holder.shard, self._ids[verdict.last])
            for name, holder in self._holders.items()
            if holder is not None
            and (verdict := self._verdicts[name]).replaced
            and verdict.last is not None
        }
        parts: dict[Shard, list[PlacedJob]] = {}
        for index, job in enumerate(self._jobs):
            if index in unstored:
                continue
            placed = _scheduled_at(self._ids[index], job, due.get(index), self._fields)
            fate: Fate = (
                "superseded" if index in superseded else "prepared" if index in prepared else ""
            )
            parts.setdefault(self._shards[index], []).append(replace(placed, fate=fate))
        return Transaction(
            self._transaction_id,
            {shard: portions(part) for shard, part in parts.items()},
            swaps=list(prepared.values()),
            locks=[
                (name, self._ids[verdict.last])
                for name, verdict in self._verdicts.items()
                if verdict.last is not None
            ],
        )

    def answers(self, records: dict[str, JobRecord]) -> list[JobRecord]:
        """The jobs in the order of the request."""
        instead = {i: found for v in self._verdicts.values() for i, found in v.answers.items()}

        def answer(index: int) -> JobRecord:
            found = instead.get(index)
            if found is None:
                return records[self._ids[index]]
            job = answer(found) if isinstance(found, int) else found
            return replace(job, deduplicated=True)

        return [answer(index) for index in range(len(self._jobs))]

    async def give_back(self) -> None:
        """Give back what was reserved, as far as Redis answers; the rest is met by others."""
        with suppress(OJSError), cleaning_up():
            for shard, indexes in self._chosen.items():
                ids = [self._ids[index] for index in indexes]
                await transactions.release_ids(self._store, shard, self._transaction_id, ids)
        await self._claims.give_back()
        with suppress(OJSError), cleaning_up():
            wants = [want for name in self._verdicts if (want := self._want(name)) is not None]
            await locks.settle(self._store, "drop", wants, self._transaction_id)

    async def give_back_unused(self) -> None:
        """Give back the ids of jobs that were not stored because others of their uniqueness are
        there. It never raises.
        """
        with suppress(OJSError):
            for shard, indexes in self._chosen.items():
                ids = [self._ids[index] for index in indexes if index in self._unstored()]
                if ids:
                    await transactions.release_ids(self._store, shard, self._transaction_id, ids)
                    await self._claims.give_back(ids)

    def _unstored(self) -> set[int]:
        return {index for verdict in self._verdicts.values() for index in verdict.answers}


def _state(job: NewJob, due_ms: int | None, now_ms: int) -> tuple[State, int | None]:
    """The state a job will be stored in, and when it is due."""
    if job.pending:
        return State.PENDING, None
    if due_ms is None and job.scheduled is not None:
        due_ms = job.scheduled.ms + (now_ms if job.scheduled.relative else 0)
    if due_ms is not None and due_ms > now_ms:
        return State.SCHEDULED, due_ms
    return State.AVAILABLE, None


def _scheduled_at(
    job_id: str, job: NewJob, due_ms: int | None, fields: Sequence[bytes]
) -> PlacedJob:
    """The job, scheduled for ``due_ms`` instead of what it asked for, if that is given."""
    if due_ms is not None:
        members = object_members(b"{%b}" % job.body) or {}
        members.pop("scheduled_at", None)
        job = replace(job, body=join(members), scheduled=None)
    placed = place(job_id, job, [*unique.fields(job), *fields])
    return placed if due_ms is None else replace(placed, due=f"s{due_ms}")
