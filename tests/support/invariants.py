"""Check the invariants of a whole Redis installation.

- A job is in a partition of its queue, in an open one unless the job has ended, and in exactly the
  indexes of its state.
- Every entry of an index exists; its score is the time that the job's fields give, or a place of
  the job's priority.
- The counters of a queue equal its jobs, state by state. So do those of a tenant.
- A job with a tenant that may start is in the index of its queue and tenant, with its score. In a
  queue with a fair share, its tenant has a turn.
- A job that needs a rate limit token is blocked or has one. Each granted token has its job, unless
  an outbox entry will release it.
- A parked job is blocked, and has the same place in its indexes by queue, type and tenant.
- Unique locks are in the shard of their fingerprint and in the index.
- A committed cross-shard transaction has an outbox entry, and an aborted one is in the index of
  those to forget. A prepared job names a committed transaction, is in no index, and is listed as
  a claim.
- A job says that it has a checkpoint if it has one, and no checkpoint remains without its job.
- An alias points to the shard that stores a job with its id.
- A running workflow is in the index of workflows to check.
- The audit streams are bounded in number and time.
- The index of cron jobs has each one at its next occurrence or maintenance; a deleted cron job
  exists only while it has maintenance.

The reader is redis-py. It uses only the names of keys and fields of the product. A walk reads one
key after the other, so it may see a job in the middle of a step while schedulers run. Therefore
``await_invariants`` walks again until one walk is clean.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field

from ojs_cluster.core.partitions import PartitionLayout
from ojs_cluster.keys import META_TAG, Keyspace, Shard
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.operators.operations.audit import RETENTION_MS, AuditStream
from tests.support.servers import clients_of_masters

COUNTED = ("scheduled", "pending", "active", "retryable", "completed", "cancelled", "discarded")
WAITING = ("available", "scheduled", "pending", "retryable")
MAX_REQUESTED = 100
"""Most tokens of one key that one queue requests at a time."""
TERMINAL = ("completed", "cancelled", "discarded")
_BAND = 2.0**45
"""Number of places of one priority in a queue (``priority_base.lua``)."""

Index = dict[str, float]


@dataclass(slots=True)
class InvariantReport:
    """The result of a walk. ``problems`` is empty when the invariants hold."""

    states: dict[str, str] = field(default_factory=dict)
    """Job id to state."""
    attempts: dict[str, int] = field(default_factory=dict)
    """Job id to number of started attempts."""
    paused: dict[int, dict[str, bool]] = field(default_factory=dict)
    """Per shard and queue, whether the queue is paused there."""
    problems: list[str] = field(default_factory=list)
    tolerance: int = 0
    """Accepted error of a counter."""

    def count(self) -> Counter[str]:
        """Return the number of jobs per state."""
        return Counter(self.states.values())


@dataclass(slots=True)
class _Keys:
    """All keys of one tag."""

    jobs: dict[str, dict[bytes, bytes]] = field(default_factory=dict)
    checkpoints: dict[str, dict[bytes, bytes]] = field(default_factory=dict)
    queues: dict[str, dict[bytes, bytes]] = field(default_factory=dict)
    tenants: dict[str, dict[bytes, bytes]] = field(default_factory=dict)
    indexes: dict[str, Index] = field(default_factory=dict)
    crons: dict[str, dict[bytes, bytes]] = field(default_factory=dict)
    locks: dict[str, dict[bytes, bytes]] = field(default_factory=dict)
    transactions: dict[str, dict[bytes, bytes]] = field(default_factory=dict)
    workflows: dict[str, dict[bytes, bytes]] = field(default_factory=dict)
    audit: dict[AuditStream, tuple[int, int]] = field(default_factory=dict)
    """Number of entries, and the remaining time to live in milliseconds."""
    outbox: dict[bytes, bytes] = field(default_factory=dict)
    partitions: dict[bytes, bytes] = field(default_factory=dict)

    def index(self, name: str) -> Index:
        return self.indexes.get(name, {})


def check_invariants(
    backend: Embedded, *, shards: int = 64, malformed: Collection[str] = ()
) -> InvariantReport:
    """Walk over every key once and check the invariants.

    Args:
        backend: the servers.
        shards: the number of shards of the data.
        malformed: jobs whose hashes were damaged. They are skipped, and counters may be wrong by
            their
            number.
    """
    keyspace = Keyspace(shards)
    content = _read(backend, keyspace)
    report = InvariantReport(tolerance=len(malformed))
    for keys in content.values():
        for id_ in malformed:
            keys.jobs.pop(id_, None)
            for index in keys.indexes.values():
                index.pop(id_, None)
    layouts = content[META_TAG].partitions
    for shard in keyspace:
        _check_shard(report, keyspace, shard, content[shard.tag])
        _check_partitions(report, keyspace, shard, content[shard.tag], layouts)
        _check_transactions(report, keyspace, shard, content[shard.tag])
        _check_outbox(report, shard, content[shard.tag])
        _check_checkpoints(report, content[shard.tag])
        _check_workflows(report, shard, content[shard.tag])
        _check_prepared(report, keyspace, shard, content)
    _check_pauses(report, keyspace, layouts)
    _check_crons(report, content[META_TAG])
    _check_audit(report, keyspace, content[META_TAG])
    _check_tokens(report, keyspace, content)
    for shard in keyspace:
        _check_aliases(report, keyspace, shard, content)
    return report


def await_invariants(
    backend: Embedded, *, shards: int = 64, timeout_s: float = 60.0
) -> InvariantReport:
    """Check the invariants until one walk is clean.

    Raises:
        AssertionError: the problems of the last walk.
    """
    deadline = time.monotonic() + timeout_s
    while (report := check_invariants(backend, shards=shards)).problems:
        if time.monotonic() > deadline:
            raise AssertionError("\n".join(report.problems[:20]))
        time.sleep(0.2)
    return report


def _read(backend: Embedded, keyspace: Keyspace) -> dict[str, _Keys]:
    content = {tag: _Keys() for tag in (META_TAG, *(shard.tag for shard in keyspace))}
    with clients_of_masters(backend) as clients:
        for client in clients:
            keys = list(client.scan_iter(match="ojs:{*", count=1000))
            types = client.pipeline(transaction=False)
            for key in keys:
                types.type(key)
            readable = [
                (key, kind)
                for key, kind in zip(keys, types.execute(), strict=True)
                if kind in (b"hash", b"zset")
            ]
            values = client.pipeline(transaction=False)
            for key, kind in readable:
                if kind == b"hash":
                    values.hgetall(key)
                else:
                    values.zrange(key, 0, -1, withscores=True)
            for (key, _), value in zip(readable, values.execute(), strict=True):
                tag, _, name = key.removeprefix(b"ojs:{").partition(b"}:")
                # Redis has no empty keys, so this one has been deleted since its type was read.
                if value and (keys_of_tag := content.get(tag.decode())) is not None:
                    _file(keys_of_tag, name.decode(), value)
            for stream in AuditStream:
                key = stream.key(keyspace.meta)
                if key in keys:
                    content[META_TAG].audit[stream] = client.xlen(key), client.pttl(key)
    return content


def _file(keys: _Keys, name: str, value: object) -> None:
    kind, _, rest = name.partition(":")
    if isinstance(value, list):
        keys.indexes[name] = {member.decode(): score for member, score in value}
    elif isinstance(value, dict) and kind == "j":
        keys.jobs[rest] = value
    elif isinstance(value, dict) and kind == "cp":
        keys.checkpoints[rest] = value
    elif isinstance(value, dict) and kind == "c":
        keys.queues[rest] = value
    elif isinstance(value, dict) and kind == "tc":
        keys.tenants[rest] = value
    elif isinstance(value, dict) and kind == "cron":
        keys.crons[rest] = value
    elif isinstance(value, dict) and kind == "u":
        keys.locks[rest] = value
    elif isinstance(value, dict) and kind == "tx":
        keys.transactions[rest] = value
    elif isinstance(value, dict) and kind == "wf":
        keys.workflows[rest] = value
    elif isinstance(value, dict) and name == "outbox":
        keys.outbox = value
    elif isinstance(value, dict) and name == "partitions":
        keys.partitions = value


def _check_checkpoints(report: InvariantReport, keys: _Keys) -> None:
    declared = {id_ for id_, job in keys.jobs.items() if f.CHECKPOINT in job}
    for id_ in declared ^ keys.checkpoints.keys():
        report.problems.append(f"job {id_} and its checkpoint disagree about it")


def _check_audit(report: InvariantReport, keyspace: Keyspace, keys: _Keys) -> None:
    complain = report.problems.append
    for stream, (length, left_ms) in keys.audit.items():
        key = stream.key(keyspace.meta)
        if length > stream.value:
            complain(f"the audit stream {key.decode()} has {length} entries")
        if length and not 0 < left_ms <= RETENTION_MS:
            complain(f"the audit stream {key.decode()} does not end by itself")


def _check_crons(report: InvariantReport, keys: _Keys) -> None:
    complain = report.problems.append
    looks, names = keys.index("crons"), keys.index("cron_names")
    for name in {*looks, *names} - set(keys.crons):
        complain(f"cron job {name} is indexed and does not exist")
    for name, cron in keys.crons.items():
        waits = b"firing" in cron or b"held_runs" in cron
        if (name in names) == (b"deleted" in cron):
            complain(f"cron job {name} is listed although deleted, or not listed")
        if b"deleted" in cron and not waits:
            complain(f"cron job {name} is deleted and still there")
        if waits != (b"next_maintenance" in cron):
            complain(f"cron job {name} has maintenance without a time, or a time for none")
        times = [
            float(cron[key]) for key in (b"next_occurrence", b"next_maintenance") if key in cron
        ]
        at = (
            float(cron.get(b"next_maintenance", 0))
            if b"firing" in cron
            else min(times, default=None)
        )
        if at is not None and b"not_before" in cron:
            at = max(at, float(cron[b"not_before"]))
        if looks.get(name) != at:
            complain(f"cron job {name} is due at {at}, the index says {looks.get(name)}")
        if not set(cron.get(b"held_runs", b"").split()) <= set(cron.get(b"open_runs", b"").split()):
            complain(f"cron job {name} holds runs that it does not know")


def _check_transactions(
    report: InvariantReport, keyspace: Keyspace, shard: Shard, keys: _Keys
) -> None:
    complain = report.problems.append
    for name in keys.locks.keys() ^ keys.index("locks").keys():
        complain(f"unique lock {name} and the index of locks disagree")
    for name, lock in keys.locks.items():
        if keyspace.shard_of_fingerprint(name) is not shard or b"holder" not in lock:
            complain(f"unique lock {name} lies in the wrong shard, or has no holder")
    aborted = {
        transaction for transaction, record in keys.transactions.items() if b"plan" not in record
    }
    for transaction in aborted ^ keys.index("aborted_transactions").keys():
        complain(f"transaction {transaction} and the index of aborted ones disagree")
    for transaction, record in keys.transactions.items():
        if b"plan" in record and record.get(b"outbox_entry") not in keys.outbox:
            complain(f"transaction {transaction} is committed, but has no outbox entry")


def _check_workflows(report: InvariantReport, shard: Shard, keys: _Keys) -> None:
    """Check that the index of workflows to check has exactly the running workflows."""
    running = {id_ for id_, record in keys.workflows.items() if record[b"state"] == b"running"}
    for id_ in running ^ keys.index("running_workflows").keys():
        report.problems.append(f"workflow {id_} of shard {shard.index} and the index disagree")


def _check_outbox(report: InvariantReport, shard: Shard, keys: _Keys) -> None:
    """Check that every shard with waiting effects is in the index of blocked shards."""
    waited_for = {name[4:] for name in keys.indexes if name.startswith("out:")}
    for name in waited_for - keys.index("outbox_blocked_shards").keys():
        report.problems.append(
            f"effects of shard {shard.index} wait for {name}, which is not tried"
        )


def _check_prepared(
    report: InvariantReport, keyspace: Keyspace, shard: Shard, content: dict[str, _Keys]
) -> None:
    for id_, job in content[shard.tag].jobs.items():
        if f.STATE not in job or f.TRANSACTION not in job:
            continue
        transaction = job[f.TRANSACTION].decode()
        if b"plan" not in content[keyspace.shard_of_id(transaction).tag].transactions.get(
            transaction, {}
        ):
            report.problems.append(f"{id_} is prepared by {transaction}, which is not committed")
        if id_ not in content[shard.tag].index("alias_claims"):
            report.problems.append(f"{id_} is prepared, and no claim leads the janitor to it")


def _check_partitions(
    report: InvariantReport,
    keyspace: Keyspace,
    shard: Shard,
    keys: _Keys,
    layouts: dict[bytes, bytes],
) -> None:
    complain = report.problems.append
    usual = layouts.get(b"", b"1 1 1 1 0")
    for id_, job in keys.jobs.items():
        if f.ALIAS in job:
            continue
        layout = PartitionLayout.parse(layouts.get(job[f.QUEUE], usual))
        number = keyspace.partition_of(job[f.QUEUE].decode(), shard)
        if number >= layout.occupied_count:
            complain(f"{id_} of queue {job[f.QUEUE].decode()} lies in shard {shard.index}")
        elif number >= layout.open_count and job[f.STATE].decode() not in TERMINAL:
            complain(f"{id_} is in partition {number}, where no worker looks")
    paused = {queue: b"paused" in counters for queue, counters in keys.queues.items()}
    report.paused.setdefault(shard.index, {}).update(paused)


def _check_pauses(report: InvariantReport, keyspace: Keyspace, layouts: dict[bytes, bytes]) -> None:
    usual = layouts.get(b"", b"1 1 1 1 0")
    for queue in {queue for queues in report.paused.values() for queue in queues}:
        held = PartitionLayout.parse(layouts.get(queue.encode(), usual)).occupied_count
        marks = [
            report.paused[shard.index].get(queue, False)
            for shard in keyspace.partitions(queue, held)
        ]
        if len(set(marks)) > 1:
            report.problems.append(f"queue {queue} is paused in some partitions only: {marks}")


def _check_shard(report: InvariantReport, keyspace: Keyspace, shard: Shard, keys: _Keys) -> None:
    complain = report.problems.append
    jobs = {
        id_: job
        for id_, job in keys.jobs.items()
        if f.ALIAS not in job and f.TRANSACTION not in job
    }
    placed: dict[str, Index] = {}
    per_queue: dict[str, Counter[str]] = {}
    for id_, job in jobs.items():
        state, queue = job[f.STATE].decode(), job[f.QUEUE].decode()
        if id_ in report.states:
            complain(f"{id_} exists twice")
        report.states[id_] = state
        report.attempts[id_] = int(job.get(f.ATTEMPT, 0))
        per_queue.setdefault(queue, Counter())[state] += 1
        for index, score in _places(state, queue, job):
            placed.setdefault(index, {})[id_] = score
        if state == "available" and f.LIMIT in job and f.PARKED not in job:
            for index in _waits(id_, queue, job, keys):
                placed.setdefault(index, {})[id_] = _ANY_SCORE
        place = keys.index(f"q:{queue}").get(id_)
        if place is not None and place // _BAND != 100 - int(job.get(f.PRIORITY, 0)):
            complain(f"{id_} is in the queue {queue} at {place}, which is of another priority")
        if f.TENANT in job and id_ in placed.get(f"q:{queue}", {}):
            index = f"tq:{queue}:{job[f.TENANT].decode()}"
            placed.setdefault(index, {})[id_] = _ANY_SCORE if place is None else place
        if (f.TOKEN in job or f.OPEN_TOKEN_REQUEST in job) and state == "available":
            placed.setdefault("token_grants", {})[id_] = _ANY_SCORE
        if f.TOKEN in job and state not in ("available", "active"):
            complain(f"{id_} is {state} and has a token")
    _check_indexes(complain, placed, keys)
    _check_token_demand(complain, keys)
    _check_parked(complain, keys)
    for queue in per_queue.keys() | keys.queues.keys():
        counters, real = keys.queues.get(queue, {}), per_queue.get(queue, Counter())
        for state in COUNTED:
            shown = int(counters.get(state.encode(), 0))
            if abs(shown - real[state]) > report.tolerance:
                complain(f"{queue} counts {shown} {state}, there are {real[state]}")
    _check_tenants(report, jobs.values(), keys)
    _check_turns(report, keys)


def _check_turns(report: InvariantReport, keys: _Keys) -> None:
    """Check that each tenant with jobs has a turn in a queue with a fair share, and only there."""
    for name in keys.indexes:
        kind, _, rest = name.partition(":")
        queue, _, tenant = rest.partition(":")
        counters = keys.queues.get(queue, {})
        if kind == "tq" and b"fair" in counters and b"fair_from" not in counters:
            if tenant not in keys.index(f"tt:{queue}"):
                report.problems.append(f"{tenant} has jobs in {queue}, and no turn")
        elif kind == "tt" and b"fair" not in counters:
            report.problems.append(f"{queue} has turns of tenants, and no fair share")


def _check_tenants(
    report: InvariantReport, jobs: Iterable[dict[bytes, bytes]], keys: _Keys
) -> None:
    """Check the numbers of each tenant: of all queues of the shard, and of each queue."""
    per_tenant: dict[str, Counter[str]] = {}
    for job in jobs:
        if f.TENANT in job:
            counts = per_tenant.setdefault(job[f.TENANT].decode(), Counter())
            state = job[f.STATE].decode()
            counts.update([state, f"{job[f.QUEUE].decode()}/{state}"])
    for tenant in per_tenant.keys() | keys.tenants.keys():
        shown, real = keys.tenants.get(tenant, {}), per_tenant.get(tenant, Counter())
        states = {name.decode() for name in shown} | real.keys()
        for name in states:
            if name.rpartition("/")[2] in (*COUNTED, "available"):
                number = int(shown.get(name.encode(), 0))
                if abs(number - real[name]) > report.tolerance:
                    report.problems.append(f"{tenant} counts {number} {name}, not {real[name]}")


_ANY_SCORE = math.nan


def _places(state: str, queue: str, job: dict[bytes, bytes]) -> Iterator[tuple[str, float]]:
    """Yield the indexes that must contain a job, each with its score."""
    if state == "available":
        if f.PARKED in job:
            yield f"h:{queue}", _ANY_SCORE
            yield "quarantine", _ANY_SCORE
            tenant = job.get(f.TENANT, b"").decode()
            for name in {"", tenant}:
                yield f"pj:{queue}::{name}", _ANY_SCORE
                yield f"pj:{queue}:{job[f.PARKED].decode()}:{name}", _ANY_SCORE
        elif f.LIMIT not in job or f.TOKEN in job:
            yield f"q:{queue}", _ANY_SCORE
    elif state in ("scheduled", "retryable"):
        yield "due", float(job[f.DUE])
    elif state == "pending":
        yield "pending", float(job[f.CREATED])
    elif state == "active":
        yield "active", float(job[f.DEADLINE])
        if f.TIMEOUT in job:
            yield "execution_deadlines", float(job[f.STARTED]) + float(job[f.TIMEOUT])
    elif state in TERMINAL:
        yield "finished", _ANY_SCORE
    if f.EXPIRES in job and state in WAITING:
        yield "expiring", float(job[f.EXPIRES])
    if f.DEAD in job:
        yield "dead", _ANY_SCORE
        yield f"d:{queue}", _ANY_SCORE


def _waits(id_: str, queue: str, job: dict[bytes, bytes], keys: _Keys) -> Iterator[str]:
    """Yield where a job without a token waits: in its queue, or blocked after a fetch."""
    key = job[f.LIMIT].split()[0].decode()
    if f.TOKEN in job:
        return
    if f.OPEN_TOKEN_REQUEST in job:
        yield from (f"h:{queue}", f"ha:{queue}:{key}")
    elif id_ in keys.index(f"h:{queue}"):
        yield from (f"h:{queue}", f"hk:{queue}:{key}")
    else:
        yield f"q:{queue}"


def _check_token_demand(complain: Callable[[str], None], keys: _Keys) -> None:
    """Check the demand index: keys for which a fetch may request tokens, unrequested ones first.

    The sign of a key's score tells which of the two it is.
    """
    for name in keys.indexes:
        kind, _, rest = name.partition(":")
        queue, _, key = rest.partition(":")
        if kind != "hk":
            continue
        place = keys.index(f"hq:{queue}").get(key)
        requested = keys.index(f"ha:{queue}:{key}")
        if place is None and len(requested) < MAX_REQUESTED:
            complain(f"jobs of {queue} wait for {key}, and no fetch would request tokens for them")
        elif place is not None and (place < 0) != (not requested):
            complain(f"the score of {key} in {queue} is {place} with {len(requested)} requests")


def _check_parked(complain: Callable[[str], None], keys: _Keys) -> None:
    """Check that a parked job has the same place in each of its indexes as among the blocked."""
    for name, jobs in keys.indexes.items():
        if name.startswith("pj:"):
            blocked = keys.index(f"h:{name.split(':')[1]}")
            moved = [id_ for id_, place in jobs.items() if blocked.get(id_) != place]
            if moved:
                complain(f"parked jobs of {name} have two places: {moved}")


def _check_tokens(report: InvariantReport, keyspace: Keyspace, content: dict[str, _Keys]) -> None:
    """Check that granted and requested tokens agree with the jobs that have or request them."""
    if any(name != b"seq" for keys in content.values() for name in keys.outbox):
        return  # something is on its way
    for name, kind in ((f.TOKEN, "lh"), (f.OPEN_TOKEN_REQUEST, "la")):
        said: set[str] = set()
        for shard in keyspace:
            for id_, job in content[shard.tag].jobs.items():
                if name in job:
                    key = job[f.LIMIT].split()[0].decode()
                    number = job[name].decode().rstrip("w")
                    said.add(f"{key} {shard.index}/{id_}/{number}")
        known: set[str] = set()
        for shard in keyspace:
            for index, tokens in content[shard.tag].indexes.items():
                if index.startswith(f"{kind}:"):
                    known |= {f"{index[3:]} {token}" for token in tokens}
        report.problems += [f"{kind} and the jobs disagree about {token}" for token in said ^ known]


def _check_indexes(complain: Callable[[str], None], placed: dict[str, Index], keys: _Keys) -> None:
    job_indexes = {
        "due",
        "active",
        "execution_deadlines",
        "expiring",
        "pending",
        "finished",
        "dead",
    }
    job_indexes.add("token_grants")
    job_indexes |= {
        name
        for name in keys.indexes
        if name.startswith(("q:", "d:", "h:", "ha:", "hk:", "pj:", "tq:"))
    }
    for name in job_indexes | placed.keys():
        wanted, actual = placed.get(name, {}), keys.index(name)
        for id_ in wanted.keys() - actual.keys():
            complain(f"{id_} ({keys.jobs[id_][f.STATE].decode()}) is not in {name}")
        for id_ in actual.keys() - wanted.keys():
            job = keys.jobs.get(id_)
            state = "no such job" if job is None else job.get(f.STATE, b"alias").decode()
            complain(f"{name} names {id_}: {state}")
        for id_ in actual.keys() & wanted.keys():
            if not math.isnan(wanted[id_]) and wanted[id_] != actual[id_]:
                complain(f"{id_} is in {name} at {actual[id_]}, its own field says {wanted[id_]}")


def _check_aliases(
    report: InvariantReport, keyspace: Keyspace, shard: Shard, content: dict[str, _Keys]
) -> None:
    for id_, job in content[shard.tag].jobs.items():
        if f.ALIAS in job:
            target = content[keyspace.shard(int(job[f.ALIAS])).tag].jobs.get(id_, {})
            claimed = id_ in content[shard.tag].index("alias_claims")
            if f.STATE not in target and not claimed:
                report.problems.append(f"alias {id_} leads to no job")
        elif (named := keyspace.shard_of_id(id_)) is not shard:
            alias = content[named.tag].jobs.get(id_, {})
            if alias.get(f.ALIAS) != str(shard.index).encode():
                report.problems.append(f"{id_}: no alias leads to the job")


def lost(report: InvariantReport, acknowledged: Iterable[str]) -> set[str]:
    """Return the acknowledged ids that have no job."""
    return set(acknowledged) - report.states.keys()
