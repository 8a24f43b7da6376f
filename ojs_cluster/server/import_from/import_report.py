"""What an import has stored, and what it has left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from ojs_cluster.core.jobs.states import State

_EXAMPLES = 3


@dataclass(slots=True)
class _LeftOut:
    count: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass(slots=True)
class ImportReport:
    """Counts of an import. Its size does not depend on the number of jobs.

    Attributes:
        read: number of things that were read so far.
        refused: number of jobs that are not valid here.
    """

    read: int = 0
    refused: int = 0
    _jobs: Counter[tuple[str, State, str]] = field(default_factory=Counter)
    _left_out: dict[tuple[str, str], _LeftOut] = field(default_factory=dict)
    _renamed: dict[str, tuple[str, str]] = field(default_factory=dict)

    def add_job(self, queue: str, state: State, outcome: str) -> None:
        """Count a job.

        Args:
            queue: its queue here.
            state: its state.
            outcome: ``created``, ``exists``, or ``found`` in a dry run.
        """
        self._jobs[queue, state, outcome] += 1

    def add_name(self, kind: str, before: str, after: str) -> None:
        """Note the name of a type or queue here, if it is another one than before.

        Args:
            kind: ``type`` or ``queue``.
            before: the name in the other system.
            after: the name here.
        """
        if before != after:
            self._renamed[f"{kind} {before}"] = (before, after)

    def leave_out(self, queue: str, reason: str, example: str, count: int = 1) -> None:
        """Count something that the import leaves out."""
        left_out = self._left_out.setdefault((queue, reason), _LeftOut())
        left_out.count += count
        if example and len(left_out.examples) < _EXAMPLES:
            left_out.examples.append(example)

    def lines(self) -> Iterator[str]:
        """Yield the lines of the report."""
        for (queue, state, outcome), count in sorted(self._jobs.items()):
            text = {"created": "imported", "exists": "imported before", "found": "to import"}
            yield f"{queue}: {count} {state.value} {text[outcome]}"
        if not self._jobs:
            yield "no jobs to import"
        for name, (_, after) in sorted(self._renamed.items()):
            yield f"{name} is called {after} here"
        for (queue, reason), left_out in sorted(self._left_out.items()):
            examples = f" ({', '.join(left_out.examples)})" if left_out.examples else ""
            yield f"{queue or 'all queues'}: {left_out.count} left out: {reason}{examples}"
