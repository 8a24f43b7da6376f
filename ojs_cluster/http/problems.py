"""A problem of the cluster. The dashboard finds the problems (``ui/problems``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

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
    "master_silent",
    "slots_uncovered",
    "master_full",
    "master_nearly_full",
    "eviction_policy",
    "replica_copies",
    "replica_behind",
    "master_without_replica",
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
        since_ms: when it began, in Unix milliseconds; None if the rule does not know.
    """

    rule: Rule
    what: str
    action: str
    path: tuple[str, ...] = ()
    severe: bool = False
    query: Mapping[str, str] | None = None
    subject: str = ""
    since_ms: int | None = None

    @property
    def id(self) -> str:
        """The name of the problem, which stays the same while it lasts."""
        return f"{self.rule}:{self.subject}" if self.subject else self.rule
