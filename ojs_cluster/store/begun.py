"""What an error says of an operation of several steps, some of which are done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ojs_cluster.core.errors import BackendUnavailable


@contextmanager
def begun(*, when: bool = True) -> Iterator[None]:
    """Mark steps that follow a write: when one cannot be done, the operation may have happened.

    A step that was not applied says so for itself alone. The caller of the whole operation would
    take it for a promise that nothing was written, and do it a second time.

    Args:
        when: False where nothing was written before.

    Raises:
        BackendUnavailable: with outcome ``unknown`` where the step says ``not_applied``.
    """
    try:
        yield
    except BackendUnavailable as error:
        if error.outcome != "not_applied" or not when:
            raise
        raise BackendUnavailable(
            error.message, outcome="unknown", retry_after_s=error.retry_after_s
        ) from error
