"""The child that validates, on a slow machine without memory."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Final

from ojs_cluster.core.schemas.compiled import CompiledSchema, Problem
from ojs_cluster.store.ground.process_state import validation_child

SLOW: Final = "slow"
"""A part of schemas that take ``SLOW_S`` to compile."""
SLOW_S: Final = 2 * validation_child.CPU_S
KILLED: Final = "killed"
"""A part of args at which the kernel kills the child."""
KILLED_LATER: Final = "explained"
"""A part of args at which it kills the child when it is sure that they do not match."""


class BadlyCompiled(CompiledSchema):
    """A schema that is slow to compile, and takes too much memory."""

    def __init__(self, raw: bytes) -> None:
        began = time.process_time()
        while SLOW.encode() in raw and time.process_time() - began < SLOW_S:
            pass
        super().__init__(raw)

    def check(
        self,
        args: bytes,
        *,
        explain: bool = True,
        on_mismatch: Callable[[], None] = lambda: None,
    ) -> list[Problem]:
        """Validate, unless the kernel kills this process."""

        def mismatch() -> None:
            on_mismatch()
            if KILLED_LATER.encode() in args:
                os.kill(os.getpid(), signal.SIGKILL)

        if KILLED.encode() in args:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().check(args, explain=explain, on_mismatch=mismatch)


if __name__ == "__main__":
    setattr(validation_child, "CompiledSchema", BadlyCompiled)  # noqa: B010 - mypy knows no re-export
    validation_child.main()
