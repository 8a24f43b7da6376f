"""What an error says of an operation of several steps, some of which are done."""

from __future__ import annotations

from types import TracebackType

from ojs_cluster.core.errors import BackendUnavailable


class only_read:
    """Mark steps before the first write of an operation: when one fails, nothing has happened.

    A lost reply leaves open whether its own call was applied. It says nothing of the operation.

    Raises:
        BackendUnavailable: with outcome ``not_applied`` where the step says ``unknown``.
    """

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, BackendUnavailable) and error.outcome == "unknown":
            raise BackendUnavailable(
                error.message, outcome="not_applied", retry_after_s=error.retry_after_s
            ) from error


class begun:
    """Mark steps that follow a write: when one cannot be done, the operation may have happened.

    A step that was not applied says so for itself alone. The caller of the whole operation would
    take it for a promise that nothing was written, and do it a second time.

    A class, because an enqueue enters it: a generator costs four times as much.

    Args:
        when: False where nothing was written before.

    Raises:
        BackendUnavailable: with outcome ``unknown`` where the step says ``not_applied``.
    """

    __slots__ = ("_when",)

    def __init__(self, *, when: bool = True) -> None:
        self._when = when

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._when and isinstance(error, BackendUnavailable) and error.outcome == "not_applied":
            raise BackendUnavailable(
                error.message, outcome="unknown", retry_after_s=error.retry_after_s
            ) from error
