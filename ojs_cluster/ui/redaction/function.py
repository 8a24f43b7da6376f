"""Call the operator's own function, which says what pages show of a value (``OJS_UI_REDACTOR``).

It runs in a thread, for a second at most for the values of a page. It only sees values that a page
could show. Whatever fails hides the values.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import Any, Final

import trio

from ojs_cluster.ui.json_view import MAX_SHOWN
from ojs_cluster.ui.redaction.rules import HIDDEN_JSON

Function = Callable[[str, dict[str, Any]], Any]
"""Gets the type of the job, and the name of a member with its value; returns the same to show."""
_THREADS: Final = 2
_TIMEOUT_S: Final = 1.0
_WAIT_S: Final = 5.0
"""How long the values of a page wait for a thread, in seconds."""
_PAUSE_S: Final = 30.0
"""How long values are hidden without a call after a single call was slow, in seconds."""
_log = logging.getLogger("ojs.ui")


def load_function(text: str) -> Function:
    """Return the function that ``package.module:function`` names.

    Raises:
        ValueError: it cannot be imported, or is no function.
    """
    module, _, name = text.partition(":")
    try:
        found = getattr(import_module(module), name)
    except Exception as error:
        raise ValueError(f"package.module:function that can be imported ({error})") from error
    function: Function | None = found if callable(found) else None
    if function is None:
        raise ValueError("the name of a function, as package.module:function")
    return function


class _Turn:
    """A call of a thread, for the values of one page.

    Attributes:
        scope: ends the wait for a thread, and then the wait for its result.
        called_at: when the function was called last, in seconds of the clock of trio; None before.
        is_over: whether the page waits no more.
        has_ended: whether the thread is free again.
    """

    def __init__(self) -> None:
        self.scope = trio.move_on_after(_WAIT_S)
        self.called_at: float | None = None
        self.is_over = False
        self.has_ended = False

    def begin(self) -> None:
        self.scope.deadline = trio.current_time() + _TIMEOUT_S


class Redactor:
    """Calls one function.

    Args:
        function: the function. Two threads may call it at the same time.
    """

    def __init__(self, function: Function) -> None:
        self._function = function
        self._threads = trio.CapacityLimiter(_THREADS)
        """A call that never returns keeps its thread, and no more than two do."""
        self._waiting: set[_Turn] = set()
        self._abandoned: set[_Turn] = set()
        """Turns whose threads run although no page waits for them."""
        self._paused_until = 0.0
        self._logged: set[str] = set()

    async def apply(self, values: Sequence[tuple[str, str, bytes]]) -> list[bytes]:
        """Return what to show of values.

        The time limit begins when a thread does, so pages that wait for the threads of others do
        not count against the function.

        Args:
            values: type of the job, name of the member, and JSON of each value.

        Returns:
            JSON; the same object if the function leaves a value as it is.
        """
        hidden = [HIDDEN_JSON] * len(values)
        is_paused = trio.current_time() < self._paused_until
        if not values or is_paused or len(self._abandoned) >= _THREADS:
            return hidden
        turn = _Turn()
        loop, clock = trio.lowlevel.current_trio_token(), trio.lowlevel.current_clock()

        def call() -> list[bytes]:
            turn.called_at = clock.current_time()
            _run_soon(loop, turn.begin)
            shown = []
            try:
                for value in values:
                    if turn.is_over:
                        break
                    turn.called_at = clock.current_time()
                    shown.append(self._call(*value))
            finally:
                _run_soon(loop, partial(self._end, turn))
            return shown

        self._waiting.add(turn)
        try:
            with turn.scope:
                return await trio.to_thread.run_sync(
                    call, abandon_on_cancel=True, limiter=self._threads
                )
        finally:
            self._waiting.discard(turn)
            turn.is_over = True
            if turn.called_at is not None and not turn.has_ended:
                self._abandoned.add(turn)
        self._on_timeout(turn)
        return hidden

    def _on_timeout(self, turn: _Turn) -> None:
        """Log why the values of a page are hidden, and call the function later if it is slow."""
        if turn.called_at is None:
            if trio.current_time() >= self._paused_until:
                self._log_once("was busy with other pages")
            return
        self._log_once("took more than a second")
        if trio.current_time() - turn.called_at >= _TIMEOUT_S / 2:  # one call, not many short ones
            self._paused_until = trio.current_time() + _PAUSE_S
            for other in self._waiting:
                if other.called_at is None:
                    other.scope.cancel()

    def _end(self, turn: _Turn) -> None:
        turn.has_ended = True
        self._abandoned.discard(turn)

    def _call(self, job_type: str, name: str, raw: bytes) -> bytes:
        if len(raw) > MAX_SHOWN:
            return HIDDEN_JSON
        try:
            given = json.loads(raw)
            shown = self._function(job_type, {name: given})[name]
            if shown == json.loads(raw):  # the function may have changed the value itself
                return raw
            return json.dumps(shown, allow_nan=False).encode()  # 1e999 is read as infinity
        except (Exception, SystemExit) as error:
            self._log_once(f"failed with {type(error).__name__}")
            return HIDDEN_JSON

    def _log_once(self, what: str) -> None:
        """Log the first failure of a kind, without its message: it may have a hidden value."""
        if what not in self._logged:
            self._logged.add(what)
            _log.error("OJS_UI_REDACTOR %s: the dashboard hides such values", what)


def _run_soon(loop: trio.lowlevel.TrioToken, step: Callable[[], None]) -> None:
    """Run a step on the event loop, unless it has ended."""
    with suppress(trio.RunFinishedError):
        loop.run_sync_soon(step)
