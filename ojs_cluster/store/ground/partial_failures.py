"""Correct the outcome that an error reports when an operation has several steps.

``BackendUnavailable.outcome`` is ``not_applied`` when the failed step has surely written nothing,
and ``unknown`` when it may have written. The caller needs the outcome of the whole operation.
"""

from __future__ import annotations

from types import TracebackType

from ojs_cluster.core.errors import BackendUnavailable


class before_first_write:
    """Mark the steps before the first write of an operation.

    A step reports ``unknown`` when its reply is lost. No step has written anything, so the outcome
    is ``not_applied``.

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
    """Mark the steps of an operation that follow its first write.

    A failed step reports ``not_applied`` because it has written nothing itself. The caller of the
    operation would conclude that no step has written anything, and repeat the operation.

    A context manager from a generator would cost four times as much, and every enqueue uses this.

    Args:
        when: whether an earlier step has written; if False, outcomes are not changed.

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
