"""Follow the jobs before and after a job of a workflow, without listing all pairs of them.

A group of 4000 jobs after another one has 16 million pairs. The tree of the plan stands for them:
a job that waits for a nested workflow waits for the last jobs in it. The first jobs of a nested
workflow wait for what the nested workflow waits for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from ojs_cluster.core.workflow import Plan


class WorkflowGraph:
    """The visible jobs of a workflow, by the numbers of their nodes.

    Args:
        plan: the plan of the workflow.
        visible: the nodes of the jobs that the client may see. The others are left out.
    """

    def __init__(self, plan: Plan, visible: Collection[int]) -> None:
        self.plan = plan
        self._visible = visible
        self._taken_jobs: set[int] = set()
        self._taken_after: set[int] = set()
        awaited = {dep for node in plan.nodes for dep in node.deps}
        self._ends = {
            number: [child for child in below if child not in awaited]
            for number, below in plan.children.items()
        }
        """The last children of each inner node."""
        self._after: dict[int, list[int]] = {}
        """The nodes that wait for each node."""
        for number, node in enumerate(plan.nodes):
            for dep in node.deps:
                self._after.setdefault(dep, []).append(number)
        self._first_ends: dict[int, int] = {}
        """The first visible one of the last jobs in each node, if there is one."""
        for number in reversed(range(len(plan.nodes))):  # a parent has a smaller number
            if number in visible:
                self._first_ends[number] = number
            firsts = (self._first_ends.get(end) for end in self._ends.get(number, ()))
            found = next((first for first in firsts if first is not None), None)
            if found is not None:
                self._first_ends[number] = found

    def parents(self, number: int) -> list[int]:
        """Return the visible jobs that a job waits for."""
        found = (end for dep in self._deps(number) for end in self._last_jobs(dep))
        return list(dict.fromkeys(found))

    def root(self, number: int) -> int:
        """Return the first job before a job, found by the first parent of each."""
        while True:
            firsts = (self._first_ends.get(dep) for dep in self._deps(number))
            parent = next((first for first in firsts if first is not None), None)
            if parent is None:
                return number
            number = parent

    def take_children(self, number: int) -> list[int]:
        """Return the visible jobs that wait for a job, without those that were returned before."""
        found: list[int] = []
        self._taken_jobs.add(number)
        while number >= 0:
            if number not in self._taken_after:
                self._taken_after.add(number)
                for after in self._after.get(number, ()):
                    found += self._first_jobs(after)
            parent = self.plan.nodes[number].parent
            if parent < 0 or self._after.get(number):
                break  # what follows the parent does not wait for this node
            number = parent
        children = sorted(set(found) - self._taken_jobs)
        self._taken_jobs.update(children)
        return children

    def _deps(self, number: int) -> tuple[int, ...]:
        """Return what a node waits for, itself or within another node."""
        nodes = self.plan.nodes
        while not nodes[number].deps and nodes[number].parent >= 0:
            number = nodes[number].parent
        return nodes[number].deps

    def _last_jobs(self, number: int) -> Iterator[int]:
        if number in self._visible:
            yield number
        for end in self._ends.get(number, ()):
            yield from self._last_jobs(end)

    def _first_jobs(self, number: int) -> Iterator[int]:
        """Yield the visible jobs in a node that wait for what the node waits for."""
        if number in self._visible:
            yield number
        for child in self.plan.children.get(number, ()):
            if not self.plan.nodes[child].deps:
                yield from self._first_jobs(child)
