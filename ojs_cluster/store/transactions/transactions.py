"""Deals: writes over several shards that happen as a whole or not at all.

Redis Cluster has no transaction over slots. A transaction first reserves what others could take
from it
(ids that clients chose, unique locks), then decides: one script on one shard writes down everything
that is to be done, with an outbox entry that owes it. That script is the moment at which the write
happens. What follows only carries it out, is idempotent, and is finished by the drainer when its
process dies. A transaction that was not decided leaves reservations which anybody in whose way
they are
takes back, after having made the decision impossible (``settle``).

Carrying out: each shard's jobs are written in portions, so that no script keeps its node from other
clients for long. Each portion is one script that notes the transaction and the portion, so that it
is
written once, however often it is repeated: jobs of a part may have run and gone while the shard of
another is away. A record that is too large for one script is stored in portions before the
decision. The note is kept until the transaction has been carried out, and ten minutes longer
(``tidy``).
Then jobs are replaced, then the locks are certain. Until all is written some jobs of a decided
transaction
may be seen and others not yet; nothing of an undecided one ever is.

A job that replaces another is first *prepared*: stored, in no index, fetched by nobody. Where both
live in one shard, one script then cancels the old and reveals the new. Otherwise these are two
scripts, and between them the old job is over and the new one still prepared. So at every moment one
of the two lives, or is prepared while the other has ended; never two, never none. Who meets a
prepared
job by its id carries out the transaction that it names, and so does the drainer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec

from ojs_cluster.core.errors import BackendUnavailable, Conflict, NotFound, OJSError, WriteOutcome
from ojs_cluster.keys import Shard
from ojs_cluster.redis.deadline import cleaning_up
from ojs_cluster.redis.driven_coroutines import ensure_task
from ojs_cluster.redis.durability import has_unconfirmed_writes
from ojs_cluster.store.context import Store
from ojs_cluster.store.enqueue.placement import PlacedJob, command, follow_up, read_back, written
from ojs_cluster.store.fanout import over_shards
from ojs_cluster.store.jobs.cancel import cancel
from ojs_cluster.store.jobs.record import JobRecord, record
from ojs_cluster.store.outbox.outbox import deliver
from ojs_cluster.store.portions import PORTION_BYTES, PORTION_KEYS
from ojs_cluster.store.runtime import Arg
from ojs_cluster.store.unique import locks
from ojs_cluster.store.unique.locks import Want

_APPLY_MS = 300_000
"""A part is not written this long after its transaction was read: half the time that a shard
remembers,
after a transaction has been carried out, which parts it has."""
_FORGET_MS = 600_000
RETRY_KEYS = ("finished", "dead", "expiring", "events", "references")
_PUBLISH_KEYS = (
    "due",
    "active",
    "execution_deadlines",
    "expiring",
    "pending",
    "finished",
    "events",
    "alias_claims",
)


class Replacement(msgspec.Struct, frozen=True, array_like=True):
    """A job that is replaced, the index of the shard where it lives, and the job that replaces it,
    which is prepared.
    """

    old: str
    shard: int
    new: str


class ManualRetry(msgspec.Struct, frozen=True, array_like=True):
    """A job that has ended and runs again.

    Args:
        shard: index of the shard where it lives.
        retries: how often it was retried before. It is what makes this happen once.
        must_be: as ``retry_dead.lua`` has it.
    """

    job_id: str
    shard: int
    queue: str
    retries: int
    must_be: str


class _Plan(msgspec.Struct, frozen=True, array_like=True):
    """All of a transaction but its jobs. New fields go to the end, with a default.

    Args:
        shards: the shard of each portion of the record, by index.
    """

    swaps: list[Replacement]
    locks: list[tuple[str, str]]
    shards: list[int]
    revivals: list[ManualRetry] = []


@dataclass(frozen=True, slots=True)
class Transaction:
    """What is to be done.

    Args:
        id: names the shard of the record.
        parts: the jobs to write, by shard, in the portions that one script writes each.
        swaps: jobs that are replaced, by some of ``parts``.
        locks: fingerprints, and the job that holds each from now on.
        revivals: jobs that run again.
    """

    id: str
    parts: Mapping[Shard, Sequence[Sequence[PlacedJob]]]
    swaps: Sequence[Replacement] = ()
    locks: Sequence[tuple[str, str]] = ()
    revivals: Sequence[ManualRetry] = ()

    def portions(self) -> Iterator[tuple[Shard, Sequence[PlacedJob]]]:
        """The jobs as the record holds them."""
        for shard, part in self.parts.items():
            for portion in part:
                yield shard, portion

    def new_jobs(self) -> Iterator[tuple[Shard, str]]:
        """The shard and the queue of each job that will wait and replaces none."""
        for shard, portion in self.portions():
            for job in portion:
                if not job.fate:
                    yield shard, job.queue


async def commit(store: Store, transaction: Transaction, lapses: int) -> int | None:
    """Make it happen; returns the ms of the decision, None when it is too late.

    What is decided is written whatever memory there is, so nothing is decided while a master that
    will hold a part of it is at ``maxmemory``.

    Args:
        lapses: ms of the clock of the transaction's shard from which on it is too late, 0 for
        never.

    Raises:
        BackendUnavailable: as ever; with an unknown outcome, the transaction may have been decided.
    """
    home = store.keys.shard_of_id(transaction.id)
    await _check_memory(store, home, list(transaction.parts))
    indexes = [shard.index for shard, _ in transaction.portions()]
    plan = _Plan(
        list(transaction.swaps), list(transaction.locks), indexes, list(transaction.revivals)
    )
    encode = msgspec.msgpack.encode
    record_ = [encode(list(portion)) for _, portion in transaction.portions()]
    ahead = sum(map(len, record_)) > PORTION_BYTES
    rest = [] if ahead else record_
    try:
        decided = not ahead or await _record(store, home, transaction.id, record_)
        if decided:
            keys = [
                home.transaction(transaction.id),
                home.outbox_due,
                home.outbox,
                home.applied_transactions,
                home.aborted_transactions,
            ]
            args: list[Arg] = [
                lapses,
                transaction.id,
                encode(plan),
                len(record_) - len(rest),
                *rest,
            ]
            reply = await store.run(home, "transaction_commit", keys, args, idempotent=True)
            decided = reply[0] == b"ok"
    except BackendUnavailable as error:
        if ahead and error.outcome == "not_applied":
            await _abort(store, home, transaction.id)
        raise
    if decided:
        return int(reply[1])
    if ahead:
        await _abort(store, home, transaction.id)
    return None


async def _record(store: Store, home: Shard, transaction_id: str, record_: Sequence[bytes]) -> bool:
    """Store a large record before the decision; returns whether it still can be made."""
    keys = [home.transaction(transaction_id), home.aborted_transactions, home.applied_transactions]
    for position, portion in enumerate(record_):
        args: list[Arg] = [transaction_id, position, portion]
        if await store.run(home, "transaction_record", keys, args, idempotent=True) != b"ok":
            return False
    return True


async def _abort(store: Store, home: Shard, transaction_id: str) -> None:
    """Remove a large record that was not decided. If this fails, the janitor removes it."""
    with suppress(OJSError), cleaning_up():
        keys = [
            home.transaction(transaction_id),
            home.aborted_transactions,
            home.applied_transactions,
        ]
        await store.run(home, "transaction_abort", keys, [transaction_id], idempotent=True)


async def _check_memory(store: Store, home: Shard, shards: Sequence[Shard]) -> None:
    """Ask every master that will hold a part, save the one that decides, whether it takes writes.

    Raises:
        WritesRefused: one does not, and nothing has been decided.
    """
    owner = store.redis.topology.owner
    masters = {owner(shard.slot): shard for shard in shards}
    masters.pop(owner(home.slot), None)

    async def check(shard: Shard) -> None:
        # Writes nothing, and is refused where any command is that may take memory.
        await store.redis.call(shard.slot, "SETRANGE", shard.wal_probe, 0, "", idempotent=True)

    await over_shards(list(masters.values()), check)


async def apply(store: Store, transaction: Transaction, now_ms: int) -> dict[str, JobRecord]:
    """Do what was decided, any number of times; returns the jobs by id.

    Args:
        now_ms: when the decision was made, or read.

    Raises:
        OJSError: something could not be done now; the transaction's entry in the outbox stays.
    """
    records: dict[str, JobRecord] = {}

    async def write(shard: Shard) -> None:
        for position, portion in enumerate(transaction.parts[shard]):
            await write_portion(shard, portion, position)

    async def write_portion(shard: Shard, part: Sequence[PlacedJob], position: int) -> None:
        await store.partitions.ensure_open(store, shard, {job.queue for job in part})
        lapses = now_ms + _APPLY_MS
        keys, args = command(
            store, shard, part, lapses=lapses, transaction=transaction.id, portion=position
        )
        reply = await store.run(shard, "enqueue_part", keys, args, idempotent=True)
        if reply[0] == b"ok":
            found = written(part, reply)
            await follow_up(store, shard, reply)
        elif reply[0] in (b"already", b"exists"):
            # Nobody else can store under these ids: it was this transaction, and if the shard does
            # not
            # know it any more, a master has forgotten the note.
            found = await read_back(store, shard, part)
        else:
            raise Conflict(f"transaction {transaction.id} cannot be written: {reply[0].decode()}")
        records.update((job.id, job) for job in found)

    homes = {job.job_id: shard for shard, portion in transaction.portions() for job in portion}

    async def replace(swap: Replacement) -> None:
        shard = homes[swap.new]
        here = shard.index == swap.shard
        if not here:
            with suppress(NotFound, Conflict):  # it has ended meanwhile, which is as good
                await cancel(store, swap.old, repeatable=True)
        keys = [shard.job(swap.new), *(getattr(shard, name) for name in _PUBLISH_KEYS)]
        reply = await store.run(
            shard,
            "publish_job",
            [*keys, shard.job(swap.old)] if here else keys,
            [
                store.settings.events_per_shard,
                transaction.id,
                store.settings.retention_cancelled_ms,
            ],
            idempotent=True,
        )
        if reply[0]:
            records[swap.new] = record(swap.new, reply[0])
        await deliver(store, shard, reply[1])

    async def revive(revival: ManualRetry) -> None:
        shard = store.keys.shard(revival.shard)
        await store.partitions.ensure_open(store, shard, [revival.queue])
        reply = await store.run(
            shard,
            "retry_dead",
            [shard.job(revival.job_id), *(getattr(shard, name) for name in RETRY_KEYS)],
            [store.settings.events_per_shard, revival.must_be, revival.retries],
            idempotent=True,
        )
        if reply[0] == b"ok":  # else it was done before, or the job is gone
            records[revival.job_id] = record(revival.job_id, reply[1])

    await over_shards(transaction.parts, write)
    await over_shards(transaction.swaps, replace)
    await over_shards(transaction.revivals, revive)
    await locks.settle(
        store, "keep", [Want(fp, job_id, 0) for fp, job_id in transaction.locks], transaction.id
    )
    if has_unconfirmed_writes():
        return records  # a node may still forget its part; the drainer, who asks again, ends it
    home = store.keys.shard_of_id(transaction.id)
    await store.run(
        home,
        "transaction_end",
        [
            home.transaction(transaction.id),
            home.outbox_due,
            home.outbox,
            home.outbox_dead_letters,
            home.applied_transactions,
        ],
        [transaction.id],
        idempotent=True,
    )
    return records


def outcome_of(error: OJSError) -> WriteOutcome:
    """What is known of a decided transaction after an error. All of it will be done."""
    confirmed = not isinstance(error, BackendUnavailable) or error.outcome != "stored_unconfirmed"
    return "unknown" if confirmed else "stored_unconfirmed"


async def finish(store: Store, _shard: Shard, payload: bytes) -> None:
    """Effect 'transaction': a transaction was decided. Payload: its id."""
    await ensure_task()
    await _finish(store, payload.decode())


async def settle(store: Store, transaction_id: str) -> bool:
    """Bring a transaction that is in the way to its end: carried out, or impossible from now on.

    Returns whether it was decided. After False, what it has reserved may be taken back: where it
    was carried out and forgotten long before, nothing is reserved any more.
    """
    await ensure_task()
    home = store.keys.shard_of_id(transaction_id)
    reply = await store.run(
        home,
        "transaction_abort",
        [home.transaction(transaction_id), home.aborted_transactions, home.applied_transactions],
        [transaction_id],
        idempotent=True,
    )
    if reply != b"decided":
        return False
    await _finish(store, transaction_id)
    return True


async def clear(store: Store, shard: Shard, transaction_id: str, job_ids: Sequence[str]) -> None:
    """Ids of a shard are reserved by a transaction that is in the way: bring it to its end. What
    it has
    reserved then still, it has not used; what is prepared then, a master has forgotten to reveal.
    """
    await settle(store, transaction_id)
    await release_ids(store, shard, transaction_id, job_ids)


async def release_ids(
    store: Store, shard: Shard, transaction_id: str, job_ids: Sequence[str]
) -> None:
    """Give ids of a shard back that a transaction has reserved and will not use."""
    for start in range(0, len(job_ids), PORTION_KEYS):
        here = job_ids[start : start + PORTION_KEYS]
        keys = [shard.alias_claims, *(shard.job(job_id) for job_id in here)]
        await store.run(shard, "release_ids", keys, [transaction_id, *here], idempotent=True)


async def tidy(store: Store, shard: Shard, limit: int) -> int:
    """Forget what a shard remembers of transactions long over; returns how many were looked at.

    Which parts it has written it remembers until their transactions have been carried out, however
    long
    another shard is away or the scheduler is.
    """
    given_up, parts = await store.run(
        shard,
        "transaction_purge_aborted",
        [shard.aborted_transactions, shard.applied_transactions],
        [_FORGET_MS, limit],
        idempotent=True,
    )
    if parts:
        notes = {part.decode(): part.decode().partition(".")[0] for part in parts}
        open_ = await _open(store, dict.fromkeys(notes.values()))
        flat = [arg for note, of in notes.items() for arg in (note, "1" if of in open_ else "")]
        await store.run(
            shard,
            "transaction_purge_applied",
            [shard.applied_transactions],
            [_FORGET_MS, *flat],
            idempotent=True,
        )
    return int(given_up) + len(parts)


async def _open(store: Store, transaction_ids: Iterable[str]) -> set[str]:
    """Which of some transactions are decided and not carried out, as far as is known."""
    found: set[str] = set()
    by_home: dict[Shard, list[str]] = {}
    for transaction_id in transaction_ids:
        by_home.setdefault(store.keys.shard_of_id(transaction_id), []).append(transaction_id)

    async def ask(home: Shard) -> None:
        here = by_home[home]
        try:
            keys = [home.transaction(transaction_id) for transaction_id in here]
            answers = await store.run(home, "transactions_unapplied", keys, idempotent=True)
        except BackendUnavailable:
            answers = [1] * len(here)  # asked again later
        found.update(
            transaction_id for transaction_id, is_open in zip(here, answers, strict=True) if is_open
        )

    await over_shards(by_home, ask)
    return found


async def _finish(store: Store, transaction_id: str) -> None:
    home = store.keys.shard_of_id(transaction_id)
    now, raw = await store.run(
        home, "transaction_read", [home.transaction(transaction_id)], idempotent=True
    )
    if raw is None:
        return
    plan = msgspec.msgpack.decode(raw, type=_Plan)
    parts: dict[Shard, list[Sequence[PlacedJob]]] = {}
    for position, index in enumerate(plan.shards):
        piece: Any = await store.redis.call(
            home.slot, "HGET", home.transaction(transaction_id), position, idempotent=True
        )
        if piece is None:
            return  # somebody else has finished it
        portion = msgspec.msgpack.decode(piece, type=list[PlacedJob])
        parts.setdefault(store.keys.shard(index), []).append(portion)
    await apply(
        store, Transaction(transaction_id, parts, plan.swaps, plan.locks, plan.revivals), now
    )
