"""Correct the outcome that an error reports when an operation has several steps."""

from __future__ import annotations

from types import TracebackType

from ojs_cluster.core.errors import BackendUnavailable


class before_first_write:
    """Mark the steps before the first write of an operation: if one fails, nothing was written.

    After a lost reply the step reports ``unknown``. The operation as a whole was not applied.

    Raises:
        BackendUnavailable: with outcome ``not_applied`` where the step reports ``unknown``.
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


class after_first_write:
    """Mark steps that follow a write: if one fails, the operation may have been applied.

    A step reports ``not_applied`` for itself alone. The caller of the whole operation would
    conclude that nothing was written, and repeat the operation.

    This is a class, because every enqueue enters it and a generator costs four times as much.

    Args:
        when: False if nothing was written before.

    Raises:
        BackendUnavailable: with outcome ``unknown`` where the step reports ``not_applied``.
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
