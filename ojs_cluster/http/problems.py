"""A problem of the cluster. The dashboard finds the problems (``ui/problems``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ojs_cluster.core.timestamps import format_ms
from ojs_cluster.store.operators.dashboard.problem_records import Mute, State

Rule: TypeAlias = Literal[
    "maintenance",
    "no_worker",
    "dead_letters",
    "silent_worker",
    "shards_unreachable",
    "scheduler_late",
    "outbox_dead_letters",
    "queue_paused",
    "queue_without_worker",
    "type_without_worker",
    "old_jobs",
    "type_fails",
    "jobs_discarded",
    "workers_restart",
    "webhook_fails",
    "job_hangs",
    "job_kills_workers",
    "cron_skipped",
    "cron_late",
    "rate_limit_full",
    "workflow_stuck",
    "tenant_starves",
    "data_lost",
    "master_silent",
    "slots_uncovered",
    "master_full",
    "master_nearly_full",
    "eviction_policy",
    "replica_copies",
    "replica_behind",
    "master_without_replica",
    "masters_on_one_host",
    "no_scheduler",
    "shards_without_leader",
    "process_clock",
    "master_clocks",
    "suspect_schema",
    "queues_unread",
    "redis_silent",
    "redis_slow",
]
"""What finds a problem. Programs compare these names, so they do not change."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem.

    Attributes:
        rule: what has found it.
        what: what is wrong, in one sentence in the language of the request.
        action: what to do.
        path: the segments of the page of the dashboard that shows more.
        severe: whether jobs are not processed because of it.
        query: the parameters of the page.
        subject: what it is about, if the rule can find several problems at a time.
        since_ms: when it began, in Unix milliseconds; None if it is unknown.
        mute: set while operators have muted it.
    """

    rule: Rule
    what: str
    action: str
    path: tuple[str, ...] = ()
    severe: bool = False
    query: Mapping[str, str] | None = None
    subject: str = ""
    since_ms: int | None = None
    mute: Mute | None = None

    @property
    def id(self) -> str:
        """The name of the problem, which stays the same while it lasts."""
        return f"{self.rule}:{self.subject}" if self.subject else self.rule

    @property
    def since(self) -> str:
        """When it began, as text; empty if it is unknown."""
        return "" if self.since_ms is None else format_ms(self.since_ms).decode()

    @property
    def state(self) -> State:
        """Whether it is open, or muted by operators."""
        return "open" if self.mute is None else self.mute.state

    @property
    def severity(self) -> Literal["critical", "warning"]:
        """The severity, as the API names it."""
        return "critical" if self.severe else "warning"


@dataclass(frozen=True, slots=True)
class Found:
    """The problems of the cluster.

    Attributes:
        problems: the problems, open ones first, and severe ones first among them.
        is_complete: whether all of the cluster could be read. Otherwise there may be others.
    """

    problems: Sequence[Problem]
    is_complete: bool
