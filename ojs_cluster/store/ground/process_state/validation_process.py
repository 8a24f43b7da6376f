"""Validate args in a child process that is killed when a validation takes too long.

Each process that serves clients has at most one child. It is started for the first validation that
is not clearly cheap, and replaced after its end. It ends with its parent, because its input ends
then. Only the limit of its CPU time shows that args are too large. Any other end may be due to the
machine.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from typing import Final

import msgspec
import trio

from ojs_cluster.core.errors import ValidationBusy
from ojs_cluster.core.schemas.compiled import TOO_LARGE, UNEXPLAINED_LARGE, Problem
from ojs_cluster.redis.driven_coroutines import ensure_task
from ojs_cluster.store.ground.process_state import validation_child as child

log = logging.getLogger("ojs.store")

MAX_WAITING: Final = 16
"""Maximum number of validations that wait for the child or run in it."""
_REPLY_S: Final = 5.0
"""Maximum real time in seconds of a validation. ``validation_child.CPU_S`` ends most earlier; this
ends a child that gets no CPU time."""
_START_S: Final = 30.0
"""Maximum time in seconds until a child has started. A busy machine needs seconds."""
_MODULE: Final = "ojs_cluster.store.ground.process_state.validation_child"
_VARIABLES: Final = ("PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH")
"""The variables that the child gets: Python needs them to find its modules. All others may hold
secrets."""
_decode: Final = msgspec.json.Decoder(list[Problem]).decode


class Outcome(msgspec.Struct, frozen=True):
    """The outcome of one validation.

    Args:
        problems: why the args do not match; empty if they match.
        in_time: False if the child ended before it could answer.
    """

    problems: list[Problem]
    in_time: bool


class ValidationProcess:
    """The child process of this process."""

    def __init__(self) -> None:
        """Prepare; the child starts when it is first needed."""
        self._process: trio.Process | None = None
        self._turn = trio.Lock()
        self._waiting = 0

    async def check(self, document: bytes, args: bytes, *, explain: bool = True) -> Outcome:
        """Validate args, as ``CompiledSchema.check``.

        Args:
            document: the JSON of the schema.
            args: the JSON of the args.
            explain: whether the problems are to be named.

        Raises:
            ValidationBusy: too many validations wait, the child cannot be started, gets no CPU
                time, or ended for another reason than its limit of CPU time.
        """
        await ensure_task()
        if self._waiting >= MAX_WAITING:
            raise ValidationBusy("too many large args wait to be validated: try again")
        self._waiting += 1
        try:
            async with self._turn:
                return await self._ask(document, args, explain=explain)
        finally:
            self._waiting -= 1

    async def close(self) -> None:
        """End the child, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            await _end(process)

    async def _ask(self, document: bytes, args: bytes, *, explain: bool) -> Outcome:
        """Send a request to the child, and to a second one if the first ends for another reason.

        Raises:
            ValidationBusy: neither has told whether the args match, which may not be due to them.
        """
        request = child.REQUEST.pack(explain, len(document), len(args)) + document + args
        for _ in range(2):
            process = self._process or await self._start()
            replies = _Replies(process)
            problems: list[Problem] | None = None
            try:
                with trio.move_on_after(_REPLY_S) as limit:
                    problems = await replies.to(request)
                    if problems is None:
                        await process.wait()
            finally:
                # Also when the client has disconnected: the next reply would be that of this one.
                if problems is None:
                    await self.close()
            if problems is not None:
                return Outcome(problems, in_time=True)
            log.warning(
                "the process that validates args ended with the status %s", process.returncode
            )
            if replies.mismatch:
                return Outcome([UNEXPLAINED_LARGE], in_time=False)
            if process.returncode == -signal.SIGPROF:
                return Outcome([TOO_LARGE], in_time=False)
            if limit.cancelled_caught:
                break
            # It was killed while it had nothing to do, or memory ran out.
        raise _busy()

    async def _start(self) -> trio.Process:
        """Start the child.

        Raises:
            ValidationBusy: it does not start.
        """
        try:
            process = await trio.lowlevel.open_process(
                [sys.executable, "-P", "-m", _MODULE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # a text of the library may contain args
                env={name: os.environ[name] for name in _VARIABLES if name in os.environ},
                start_new_session=True,  # without the Ctrl-C of a terminal
            )
        except OSError as error:
            log.error("cannot start a process to validate args: %s", error.strerror)  # noqa: TRY400
            raise _busy() from None
        is_ready = False
        try:
            with trio.move_on_after(_START_S):
                is_ready = await _Replies(process).read(len(child.READY)) == child.READY
        finally:
            if not is_ready:
                await _end(process)
        if not is_ready:
            log.error("the process to validate args did not start")
            raise _busy()
        self._process = process
        return process


class _Replies:
    """What the child sends to one request."""

    def __init__(self, process: trio.Process) -> None:
        if process.stdin is None or process.stdout is None:
            raise ValueError("the process has no pipes")
        self._input, self._output = process.stdin, process.stdout
        self._received = bytearray()
        self.mismatch = False

    async def to(self, request: bytes) -> list[Problem] | None:
        """Send the request and return the problems; None if the child has ended."""
        try:
            await self._input.send_all(request)
        except trio.BrokenResourceError:
            return None
        while (kind := await self.read(1)) == child.MISMATCH:
            self.mismatch = True
        size = await self.read(child.SIZE.size)
        if kind != child.RESULT or size is None:
            return None
        result = await self.read(*child.SIZE.unpack(size))
        return None if result is None else _decode(result)

    async def read(self, count: int) -> bytes | None:
        """Return the next bytes; None if the child has ended."""
        while len(self._received) < count:
            part = await self._output.receive_some()
            if not part:
                return None
            self._received += part
        found = bytes(self._received[:count])
        del self._received[:count]
        return found


def _busy() -> ValidationBusy:
    return ValidationBusy("large args cannot be validated now: try again")


async def _end(process: trio.Process) -> None:
    """Kill the child and wait for its end, also when this task is cancelled."""
    process.kill()
    with trio.CancelScope(shield=True):
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                await stream.aclose()
        await process.wait()
