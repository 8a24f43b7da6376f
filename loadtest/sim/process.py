"""Processes that are event loops.

A process sleeps until it has input. Then it takes all input that there is, works for a while, and
sends results at moments of that time: one turn of its event loop. Input that comes meanwhile is for
the next turn. So batches are no assumption: they follow from who is how busy.

Each process has a processor of its own. On the measured machine two cores were enough for all of
them, and its kernel lets a process that wakes up run before one that has run for long.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from loadtest.sim.engine import Action, Engine

T = TypeVar("T")
Turn = Callable[[Sequence[T]], tuple[float, list[tuple[float, Action]]]]
"""What a process does with the input of a turn: the us it takes, and what it sends when in them."""


class Process(Generic[T]):
    """One process. ``busy_us`` is the processor time it has used."""

    def __init__(self, engine: Engine, turn: Turn[T]) -> None:
        self.busy_us = 0.0
        self._engine = engine
        self._turn = turn
        self._inbox: list[T] = []
        self._awake = False

    def receive(self, item: T) -> None:
        """Hand over input, and wake the process when it sleeps."""
        self._inbox.append(item)
        if not self._awake:
            self._awake = True
            self._run()

    def _run(self) -> None:
        taken, self._inbox = self._inbox, []
        took_us, sent = self._turn(taken)
        began = self._engine.now
        for after_us, action in sent:
            self._engine.at(began + after_us, action)
        self.busy_us += took_us
        self._engine.at(began + took_us, self._end)

    def _end(self) -> None:
        if self._inbox:
            self._run()
        else:
            self._awake = False
