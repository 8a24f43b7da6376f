"""What an error says of an operation of several steps, some of which are done."""

from __future__ import annotations

from types import TracebackType

from ojs_cluster.core.errors import BackendUnavailable


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
