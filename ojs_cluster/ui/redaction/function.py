"""Call the operator's own function, which says what pages show of a value (``OJS_UI_REDACTOR``).

It runs in a thread, for a second at most, and only sees values that a page could show. Whatever
fails hides the values.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Final

import trio

from ojs_cluster.ui.json_view import MAX_SHOWN
from ojs_cluster.ui.redaction.rules import HIDDEN_JSON

Function = Callable[[str, dict[str, Any]], Any]
"""Gets the type of the job, and the name of a member with its value; returns the same to show."""
_TIMEOUT_S: Final = 1.0
_PAUSE_S: Final = 30.0
"""How long values are hidden without a call after a call that took too long, in seconds."""
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


class Redactor:
    """Calls one function.

    Args:
        function: the function. Two threads may call it at the same time.
    """

    def __init__(self, function: Function) -> None:
        self._function = function
        self._threads = trio.CapacityLimiter(2)
        """A call that never returns keeps its thread, and no more than two do."""
        self._paused_until = 0.0
        self._has_logged = False

    async def apply(self, values: Sequence[tuple[str, str, bytes]]) -> list[bytes]:
        """Return what to show of values.

        Args:
            values: type of the job, name of the member, and JSON of each value.

        Returns:
            JSON; the same object if the function leaves a value as it is.
        """
        hidden = [HIDDEN_JSON] * len(values)
        if not values or trio.current_time() < self._paused_until:
            return hidden

        def call() -> list[bytes]:
            return [self._call(*value) for value in values]

        with trio.move_on_after(_TIMEOUT_S):
            return await trio.to_thread.run_sync(
                call, abandon_on_cancel=True, limiter=self._threads
            )
        self._paused_until = trio.current_time() + _PAUSE_S
        self._log_once("took more than a second")
        return hidden

    def _call(self, job_type: str, name: str, raw: bytes) -> bytes:
        if len(raw) > MAX_SHOWN:
            return HIDDEN_JSON
        try:
            given = json.loads(raw)
            shown = self._function(job_type, {name: given})[name]
            if shown == json.loads(raw):  # the function may have changed the value itself
                return raw
            return json.dumps(shown).encode()
        except (Exception, SystemExit) as error:
            self._log_once(f"failed with {type(error).__name__}")
            return HIDDEN_JSON

    def _log_once(self, what: str) -> None:
        """Log the first failure, without its message: it may have a hidden value."""
        if not self._has_logged:
            self._has_logged = True
            _log.error("OJS_UI_REDACTOR %s: the dashboard hides such values", what)
