"""Run a handler as the fast lane does: without a trio task until the handler needs one.

``tests/http/api.py`` runs every request for a fast route in this way. A handler that uses trio
before it has asked for a task is answered with 500, and its test fails.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import trio

from ojs_cluster.redis.driven_coroutines import (
    ADOPTED,
    NEEDS_TASK,
    WAITING_FOR_REDIS,
    DrivenCoroutine,
    driver_state,
)

T = TypeVar("T")


async def driven(work: Coroutine[Any, Any, T], moved: Callable[[], None] = lambda: None) -> T:
    """Run ``work`` to its end; call ``moved`` when it asks for a task.

    If the caller is cancelled, its task adopts the work, as the task of a connection does.
    """
    answers: list[object] = []
    answered = trio.Event()

    def resume(answer: object) -> None:
        answers.append(answer)
        answered.set()

    chain = DrivenCoroutine(resume)
    value: object = None
    send: Callable[[Any], Any] = work.send
    while True:
        try:
            message = chain.step(send, value)
        except StopIteration as stop:
            result: T = stop.value
            return result
        driver_state.flush()
        if message is NEEDS_TASK:
            moved()
            return await chain.adopt(work, None)
        if message is not WAITING_FOR_REDIS:
            value, send = RuntimeError(f"{message!r} was asked without a task"), work.throw
            continue
        try:
            await answered.wait()
        except trio.Cancelled:
            if not answers:
                return await chain.adopt(work, ADOPTED)
        answered = trio.Event()
        value, send = answers.pop(), work.send
