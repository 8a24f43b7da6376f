"""Processes with event loops.

A process sleeps until it has input. Then it takes all input, works for a time, and sends results at
points in that time: one turn of its event loop. Input that arrives during a turn is for the next
one. So batch sizes are no assumption; they follow from the load.

Each process has its own processor. On the measured machine two cores were enough for all of them,
and its kernel prefers a process that wakes up over one that has run for long.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from loadtest.sim.engine import Action, Engine

T = TypeVar("T")
Turn = Callable[[Sequence[T]], tuple[float, list[tuple[float, Action]]]]
"""The work of a process for the input of a turn: its duration in us, and what it sends when."""


class Process(Generic[T]):
    """A process.

    Args:
        engine: the virtual time.
        turn: the work of a turn.
        wake_us: what a turn costs more if the process has slept before it, in us.

    Attributes:
        busy_us: the processor time that it has used.
    """

    def __init__(self, engine: Engine, turn: Turn[T], wake_us: float = 0.0) -> None:
        self.busy_us = 0.0
        self._engine = engine
        self._turn = turn
        self._wake_us = wake_us
        self._inbox: list[T] = []
        self._awake = False

    def receive(self, item: T) -> None:
        """Add input, and wake the process if it sleeps."""
        self._inbox.append(item)
        if not self._awake:
            self._awake = True
            self._run(self._wake_us)

    def _run(self, wake_us: float = 0.0) -> None:
        taken, self._inbox = self._inbox, []
        took_us, sent = self._turn(taken)
        took_us += wake_us
        began = self._engine.now
        for after_us, action in sent:
            self._engine.at(began + wake_us + after_us, action)
        self.busy_us += took_us
        self._engine.at(began + took_us, self._end)

    def _end(self) -> None:
        if self._inbox:
            self._run()
        else:
            self._awake = False
