"""What the clients of one run saw: requests, responses, and the final state.

Client times are seconds of one monotonic clock. Event times are milliseconds of the servers'
clocks, which are one clock when all servers run on one machine. The checker reads nothing else, so
tests can write a history by hand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

CommandKind = Literal[
    "cancel",
    "retry",
    "cancel_workflow",
    "purge",
    "activate",
    "pause",
    "drain",
    "resume",
    "move",
]
Outcome = Literal["done", "refused", "unconfirmed", "unknown"]
"""``refused``: nothing happened. ``unconfirmed``: the write is stored, but fewer replicas or disks
than required have it. ``unknown``: it may have happened.
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """When a request was sent, when its response arrived, and what the response promises."""

    sent: float
    answered: float
    outcome: Outcome
    status: int = 0
    code: str = ""
    message: str = ""

    @property
    def possible(self) -> bool:
        """Return whether the request may have had an effect."""
        return self.outcome != "refused"


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job as its producer requested it.

    Attributes:
        id: empty where the server chooses one.
        due_s: seconds after the request from which on it may start.
        expires_s: seconds after the request from which on it may expire.
    """

    id: str
    queue: str
    priority: int = 0
    fingerprint: str = ""
    on_conflict: str = ""
    key: str = ""
    tenant: str = ""
    due_s: float = 0.0
    expires_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Enqueue:
    """A request to enqueue jobs. ``existing``: the response named another job."""

    jobs: tuple[NewJob, ...]
    answer: Answer
    existing: bool = False


@dataclass(frozen=True, slots=True)
class Lease:
    """A job of a fetch.

    Attributes:
        length: shortest time in seconds until the server may end the lease by itself.
        step: (workflow tag, step).
        occurrence: (cron, time).
        item: (idempotency key, index of the job in its request).
        tenant: the tenant of the job.
        asked_for: the tenant for which the worker fetched, empty for all.
        beats: whether the worker sends heartbeats.
    """

    job: str
    lease: str
    worker: str
    attempt: int
    length: float
    answer: Answer
    queue: str = ""
    priority: int = 0
    key: str = ""
    step: tuple[str, str] | None = None
    occurrence: tuple[str, str] | None = None
    item: tuple[str, int] | None = None
    tenant: str = ""
    asked_for: str = ""
    beats: bool = False

    @property
    def until(self) -> float:
        """The earliest time in seconds at which the lease can end without its worker."""
        return self.answer.sent + self.length


@dataclass(frozen=True, slots=True)
class Settle:
    """A worker ends an attempt."""

    kind: Literal["ack", "nack", "requeue", "release"]
    job: str
    lease: str
    worker: str
    attempt: int
    answer: Answer


@dataclass(frozen=True, slots=True)
class Command:
    """A request that changes one job, one workflow or one queue.

    ``move``: a deletion of a queue that moves its jobs. Its outcome is ``done`` only if the queue
    was deleted when the response arrived.
    """

    kind: CommandKind
    subject: str
    answer: Answer


@dataclass(frozen=True, slots=True)
class Item:
    """What a bulk request with an idempotency key reports of one of its jobs.

    Attributes:
        job: the id of the job, empty if it was not stored.
        code: the error of a job that was not stored.
        retryable: whether a repetition may store the job.
    """

    job: str
    code: str = ""
    retryable: bool = False


@dataclass(frozen=True, slots=True)
class Keyed:
    """One try of a bulk request with an idempotency key. ``items`` is empty without a response."""

    key: str
    answer: Answer
    items: tuple[Item, ...] = ()


@dataclass(frozen=True, slots=True)
class Workflow:
    """A request to create a workflow.

    Attributes:
        tag: its name, which its steps carry in their args.
        waits_for: step to the steps that must have completed before it starts.
        ends_of: callback to the steps that must have ended before it starts.
    """

    tag: str
    id: str
    answer: Answer
    waits_for: Mapping[str, Sequence[str]]
    ends_of: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Seen:
    """A state in a response."""

    job: str
    state: str
    attempt: int
    answer: Answer


@dataclass(frozen=True, slots=True)
class ForeignLook:
    """A request for one tenant about a job of another one. ``found``: it got the job."""

    tenant: str
    job: str
    found: bool


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of the event stream. Events of one job are in one shard, in their order there."""

    job: str
    kind: str
    at_ms: int
    shard: int
    place: tuple[int, ...]
    attempt: int = 0
    worker: str = ""
    queue: str = ""
    type: str = ""
    id: str = ""


@dataclass(frozen=True, slots=True)
class Hooked:
    """What a webhook got.

    Attributes:
        kinds: the event types that it selects.
        since_ms: from this Unix time in ms on, every process knew it.
        received: ids of the events that its receiver has accepted.
        excuse: why it may lack events; empty if it must have all.
    """

    kinds: frozenset[str]
    since_ms: int
    received: set[str]
    excuse: str = ""


@dataclass(slots=True)
class Streamed:
    """What a reader of an event stream got.

    Attributes:
        kinds: the event types that it reads.
        queue: the queue of the events, empty for all.
        since_ms: Unix time in ms from which on it must get all events.
        seen: how often it got an event of a type, a job and a Unix time in ms.
        gaps: Unix times in ms between which it was told that events may be missing.
    """

    kinds: frozenset[str]
    queue: str
    since_ms: int = 0
    seen: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    gaps: list[tuple[int, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Final:
    """The final state, after all work has ended or the time for it is over.

    Attributes:
        states: job to state.
        attempts: job to started attempts.
        workflows: id to state.
        problems: violated invariants.
        effects_left: outbox entries that are still there.
        dead_locks: fingerprints for which no job can be enqueued any more.
        pinned: (idempotency key, error) of repeated requests that are still refused.
        operations: bulk operations that have not ended, such as deletions of queues.
    """

    states: Mapping[str, str] = field(default_factory=dict)
    attempts: Mapping[str, int] = field(default_factory=dict)
    workflows: Mapping[str, str] = field(default_factory=dict)
    problems: Sequence[str] = ()
    effects_left: int = 0
    dead_locks: Sequence[str] = ()
    pinned: Sequence[tuple[str, str]] = ()
    operations: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Window:
    """At most ``limit`` in any period of ``seconds``."""

    limit: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Bounds:
    """Numbers that must never be exceeded, through any process.

    Attributes:
        active: ("key" or "queue", name) to the most jobs that may be active at once.
        starts: queue to the most starts in any window.
        waiting: queue to the most jobs that may wait when a further one is accepted.
        tenant_waiting: tenant to the most jobs that may wait.
        tenant_jobs: tenant to the most new jobs in any window.
        partitions: the largest number of partitions that a queue has at any time of the run.
    """

    active: Mapping[tuple[str, str], int] = field(default_factory=dict)
    starts: Mapping[str, Window] = field(default_factory=dict)
    waiting: Mapping[str, int] = field(default_factory=dict)
    tenant_waiting: Mapping[str, int] = field(default_factory=dict)
    tenant_jobs: Mapping[str, Window] = field(default_factory=dict)
    partitions: int = 1


@dataclass(slots=True)
class History:
    """Everything that is known of one run.

    Attributes:
        losses: times in seconds in which a master may have lost unreplicated writes.
        repartitioned: times in seconds in which processes with different default numbers of
            partitions ran beside each other.
        unix_ms: Unix time in ms at second 0 of the client times.
        bounds: what must never be exceeded.
        requests: how often each route had each outcome.
        imported: job to the state in which an import stores it, of which no event tells.
        ordered: queues of one partition whose order is checked.
        confirmed: whether acknowledged writes survive the loss of a master.
        patient: whether the run waited long enough for all repairs.
        errors: responses that no client should get, as text.
    """

    enqueues: list[Enqueue] = field(default_factory=list)
    leases: list[Lease] = field(default_factory=list)
    unanswered_fetches: list[Answer] = field(default_factory=list)
    settles: list[Settle] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    workflows: list[Workflow] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    requests: Counter[str] = field(default_factory=Counter)
    losses: list[tuple[float, float]] = field(default_factory=list)
    repartitioned: list[tuple[float, float]] = field(default_factory=list)
    unix_ms: float = 0.0
    bounds: Bounds = field(default_factory=Bounds)
    keyed: list[Keyed] = field(default_factory=list)
    foreign_looks: list[ForeignLook] = field(default_factory=list)
    imported: dict[str, str] = field(default_factory=dict)
    ordered: frozenset[str] = frozenset()
    confirmed: bool = True
    patient: bool = True
    errors: list[str] = field(default_factory=list)
    hooked: Hooked | None = None
    streamed: Streamed | None = None
    final: Final = field(default_factory=Final)

    def lossy(self, start: float, end: float) -> bool:
        """Return whether a master may have lost writes between two times in seconds."""
        return any(begin <= end and start <= finish for begin, finish in self.losses)

    def at(self, unix_ms: float) -> float:
        """Return the client time in seconds of a Unix time in ms."""
        return (unix_ms - self.unix_ms) / 1000

    @property
    def forgetful(self) -> bool:
        """Return whether acknowledged writes may be lost."""
        return not self.confirmed and bool(self.losses)


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule has found about one subject.

    Attributes:
        subject: the job, workflow, cron job or limit concerned.
        text: what is wrong, empty if the rule holds.
        excused: why the history allows it, empty for a real violation.
        checks: number of comparisons that the rule has made.
    """

    rule: str
    subject: str
    text: str = ""
    excused: str = ""
    checks: int = 1

    def __str__(self) -> str:
        return f"{self.rule}: {self.subject}: {self.text}"
