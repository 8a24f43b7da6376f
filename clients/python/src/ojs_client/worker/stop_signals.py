"""The signals that stop a worker, on every platform."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Final

STOP_SIGNALS: Final = [signal.SIGTERM, signal.SIGINT]
if hasattr(signal, "SIGBREAK"):  # what Windows can send to another process: Ctrl-Break
    STOP_SIGNALS.append(signal.SIGBREAK)


async def watch(
    received: Callable[[signal.Signals], None], numbers: Sequence[signal.Signals] = STOP_SIGNALS
) -> None:
    """Call ``received`` in the event loop for each signal, until the task is cancelled.

    Call it in the main thread.
    """
    import anyio  # the supervisor of `ojs-worker` has no event loop

    with ExitStack() as stack:
        try:
            signals = stack.enter_context(anyio.open_signal_receiver(*numbers))
        except NotImplementedError:  # asyncio on Windows
            await _by_handlers(received, numbers)
        async for number in signals:
            received(signal.Signals(number))


async def _by_handlers(
    received: Callable[[signal.Signals], None], numbers: Sequence[signal.Signals]
) -> None:
    """Call ``received`` by handlers of Python, which wake an event loop on Windows, too."""
    import asyncio

    import anyio

    loop = asyncio.get_running_loop()

    def handle(number: int, _frame: Any) -> None:
        loop.call_soon_threadsafe(received, signal.Signals(number))

    earlier = {number: signal.signal(number, handle) for number in numbers}
    try:
        await anyio.sleep_forever()
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
