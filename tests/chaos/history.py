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
    """A job as its producer requested it. ``id`` is empty where the server chooses one."""

    id: str
    queue: str
    priority: int = 0
    fingerprint: str = ""
    on_conflict: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class Enqueue:
    """A request to enqueue jobs. ``existing``: the response named another job."""

    jobs: tuple[NewJob, ...]
    answer: Answer
    existing: bool = False


@dataclass(frozen=True, slots=True)
class Lease:
    """A job of a fetch. ``step``: (workflow tag, step). ``occurrence``: (cron, time)."""

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
    """A request that changes one job, one workflow or one queue."""

    kind: Literal["cancel", "retry", "cancel_workflow", "purge", "activate"]
    subject: str
    answer: Answer


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
    """

    states: Mapping[str, str] = field(default_factory=dict)
    attempts: Mapping[str, int] = field(default_factory=dict)
    workflows: Mapping[str, str] = field(default_factory=dict)
    problems: Sequence[str] = ()
    effects_left: int = 0
    dead_locks: Sequence[str] = ()


@dataclass(slots=True)
class History:
    """Everything that is known of one run.

    Attributes:
        losses: times in seconds in which a master may have lost unreplicated writes.
        limits: ("key" or "queue", name) to the most jobs that may be active at once.
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
    losses: list[tuple[float, float]] = field(default_factory=list)
    limits: dict[tuple[str, str], int] = field(default_factory=dict)
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

    @property
    def forgetful(self) -> bool:
        """Return whether acknowledged writes may be lost."""
        return not self.confirmed and bool(self.losses)


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that a history breaks.

    Attributes:
        subject: the job, workflow, cron job or limit concerned.
        excused: why the history allows it, empty for a real violation.
    """

    rule: str
    subject: str
    text: str
    excused: str = ""

    def __str__(self) -> str:
        return f"{self.rule}: {self.subject}: {self.text}"
