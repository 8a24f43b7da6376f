"""What the end of a job starts, at a cost that does not grow with its workflow.

``workflow.evaluate`` visits all nodes. This module visits the nodes that wait for the ended one,
and goes up the tree as long as a parent ends with its child. A parent that still has an enqueued
job has not ended; one search for a character in the node statuses shows that. Only if there is none
is the tree below the parent visited. So a visit happens about once per inner node.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from ojs_cluster.core.workflow import (
    COMPLETED,
    ENDED,
    ENDED_STATUSES,
    RUNNING,
    SKIPPED,
    STATUS_ENQUEUED,
    STATUS_UNKNOWN,
    Plan,
    TreeVisit,
)


class Successors:
    """The nodes of a plan by the nodes that they wait for.

    Args:
        plan: the plan.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.followers: dict[int, list[int]] = {}
        """The siblings that wait for a node, those that wait for the fewest first."""
        self.spans = [(node.job, node.job + 1) for node in plan.nodes]
        """The first job below each node, and the number after its last job."""
        self.last_free: dict[int, int] = {}
        """The last job of each inner node that waits for no sibling."""
        self.awaits_range: set[int] = set()
        """The nodes that wait for several jobs with consecutive numbers, as a callback does."""
        nodes = plan.nodes
        for number, node in enumerate(nodes):
            for dep in node.deps:
                self.followers.setdefault(dep, []).append(number)
            if node.job >= 0 and not node.deps:
                self.last_free[node.parent] = node.job
            jobs = [nodes[dep].job for dep in node.deps]
            if len(jobs) > 1 and jobs[0] >= 0 and all(b - a == 1 for a, b in pairwise(jobs)):
                self.awaits_range.add(number)
        for following in self.followers.values():
            following.sort(key=lambda number: len(nodes[number].deps))
        for number in range(len(nodes) - 1, 0, -1):  # children have higher numbers than parents
            first, end = self.spans[number]
            parent = nodes[number].parent
            first_of_parent, end_of_parent = self.spans[parent]
            if first_of_parent < 0:
                self.spans[parent] = first, end
            else:
                self.spans[parent] = min(first, first_of_parent), max(end, end_of_parent)

    def next_job(self, job: int) -> int | None:
        """Return a job that waits for this one alone, such as the next step of a chain."""
        for follower in self.followers.get(self.plan.numbers[job], ()):
            node = self.plan.nodes[follower]
            if node.job >= 0 and len(node.deps) == 1 and node.trigger == "success":
                return node.job
        return None

    def after(self, node_statuses: str, ended: Iterable[int]) -> NextSteps:
        """Return what follows from the ends of jobs.

        Args:
            node_statuses: the node statuses, in which the jobs have ended.
            ended: numbers of the jobs.

        Raises:
            KeyError: one of them has not ended, or a job that may start now has an unknown status.
        """
        visit = _Visit(self, node_statuses, list(ended))
        for job in visit.jobs:  # grows while it is read
            visit.end(self.plan.numbers[job])
        return NextSteps(visit.state, sorted(visit.ready))


@dataclass(frozen=True, slots=True)
class NextSteps:
    """What follows from the ends of jobs.

    Args:
        state: state of the workflow.
        ready: numbers of the jobs that may start now and are not known to be enqueued.
    """

    state: str
    ready: Sequence[int]


@dataclass(slots=True)
class _Visit:
    successors: Successors
    statuses: str
    """The node statuses. Jobs that this visit starts are marked as enqueued."""
    jobs: list[int]
    """The jobs that have ended."""
    state: str = RUNNING
    ready: list[int] = field(default_factory=list)
    ended: dict[int, str] = field(default_factory=dict)
    """States of nodes that are known to have ended."""
    visits: dict[int, TreeVisit] = field(default_factory=dict)
    """Visits of all nodes below an inner node, by its number."""

    def end(self, number: int) -> None:
        """Start what waits for a node that has ended, and go on with a parent that has, too."""
        plan = self.successors.plan
        if number in self.ended:
            return
        self.ended[number] = ENDED_STATUSES[self.statuses[plan.nodes[number].job]]
        while True:
            self._follow(number)
            number = plan.nodes[number].parent
            if number < 0 or number in self.ended or self._runs(number):
                return
            state = self._visit_below(number).states[number]
            if state not in ENDED:
                return
            self.ended[number] = state
            if number == 0:
                self.state = state

    def _follow(self, number: int) -> None:
        """Start the nodes that wait for an ended one, or that wait for nodes that are skipped."""
        ended = [number]
        for before in ended:  # grows while it is read
            for follower in self.successors.followers.get(before, ()):
                if follower in self.ended:
                    continue
                may_start = self._may_start(follower, self.ended[before])
                if may_start:
                    self._start(follower)
                elif may_start is False:
                    self.ended[follower] = SKIPPED
                    ended.append(follower)

    def _start(self, number: int) -> None:
        """Start a node with all nodes below it that wait for none."""
        plan = self.successors.plan
        job = plan.nodes[number].job
        if job < 0:
            for child in plan.children[number]:
                if not plan.nodes[child].deps:
                    self._start(child)
            return
        status = self.statuses[job]
        if status == STATUS_UNKNOWN:
            self.ready.append(job)
            self.statuses = self.statuses[:job] + STATUS_ENQUEUED + self.statuses[job + 1 :]
        elif status != STATUS_ENQUEUED:
            # This effect is repeated after a process died. The step may have been refused without
            # an effect of its own, so what follows may not have started.
            self.jobs.append(job)

    def _may_start(self, number: int, state: str) -> bool | None:
        """Return whether a node may start of which one dependency has ended in ``state``.

        Returns:
            False for never, None for not yet.
        """
        node = self.successors.plan.nodes[number]
        succeeded = state == COMPLETED
        if node.trigger == "success" and not succeeded:
            return False
        if len(node.deps) == 1:
            return succeeded == (node.trigger == "success") or node.trigger == "complete"
        if self._waits(number):
            return None
        return self._visit_below(node.parent).may_start(number)

    def _waits(self, number: int) -> bool:
        """Return whether a dependency of a node is known not to have ended, without a visit."""
        successors = self.successors
        nodes, spans, statuses = successors.plan.nodes, successors.spans, self.statuses
        node = nodes[number]
        if number in successors.awaits_range:
            first, end = spans[node.deps[0]][0], spans[node.deps[-1]][1]
            last_free = successors.last_free.get(node.parent, -1)
            return statuses.find(STATUS_ENQUEUED, first, end) >= 0 or (
                first <= last_free < end and statuses[last_free] == STATUS_UNKNOWN
            )
        # Jobs start in their order, so the last dependency is the most likely to run.
        for dep in reversed(node.deps):
            first, end = spans[dep]
            if statuses.find(STATUS_ENQUEUED, first, end) >= 0:
                return True
            if nodes[dep].job >= 0 and not nodes[dep].deps and statuses[first] == STATUS_UNKNOWN:
                return True
        return False

    def _runs(self, number: int) -> bool:
        """Return whether an inner node is known not to have ended, without a visit."""
        first, end = self.successors.spans[number]
        last_free = self.successors.last_free.get(number, -1)
        return self.statuses.find(STATUS_ENQUEUED, first, end) >= 0 or (
            last_free >= 0 and self.statuses[last_free] == STATUS_UNKNOWN
        )

    def _visit_below(self, number: int) -> TreeVisit:
        """Return a visit of all nodes below an inner node that has started."""
        visit = self.visits.get(number)
        if visit is None:
            visit = self.visits[number] = TreeVisit.of(self.successors.plan, self.statuses, number)
        return visit
