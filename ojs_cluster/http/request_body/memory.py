"""The body memory budget: a limit on the memory of all request bodies of a process together.

The size of each body is limited, but many clients that send large batches at the same time could
exhaust the memory. So large bodies reserve their bytes in one budget. A request that does not fit
is refused at once (503, Retry-After). Letting the request wait was refused: the bytes that it has
sent would use memory, and over HTTP/2 it would block its connection.

An incomplete small body, or an incomplete head, reserves the bytes that have arrived. These bytes
have a budget of their own, of the same size, so that large bodies cannot block small requests. Most
small requests arrive in one piece and reserve nothing.

A request may wait for room in a full queue for a minute (``http/blocking.py``). The bodies of such
requests may use a quarter of the budget, so that the rest stays free for other requests.
"""

from __future__ import annotations

from types import TracebackType
from typing import Final, Self

from ojs_cluster.core.errors import BackendUnavailable

MAX_SMALL_BODY: Final = 65_536
"""Largest body, in bytes, that reserves nothing once it is complete."""


class BodyMemoryBudget:
    """The bytes that requests may still reserve. Not thread-safe.

    Attributes:
        free: bytes left for large bodies.
        incomplete_free: bytes left for incomplete small bodies and heads.
        waiting_free: bytes left for the bodies of requests that wait for room in a full queue.
    """

    def __init__(self, size: int) -> None:
        """Create a budget of ``size`` bytes for large bodies, and of ``size`` for the others."""
        self.free = size
        self.incomplete_free = size
        self.waiting_free = size // 4


class BodyReservation:
    """The bytes that one request has reserved; the end of its ``with`` block releases them."""

    def __init__(self, budget: BodyMemoryBudget) -> None:
        """Create a reservation of no bytes."""
        self._budget = budget
        self._large = 0
        self._incomplete = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def release(self) -> None:
        """Release all reserved bytes."""
        self._budget.free += self._large
        self._budget.incomplete_free += self._incomplete
        self._large = self._incomplete = 0

    def reserve(self, size: int, *, complete: bool = True) -> bool:
        """Change the reservation to ``size`` bytes, if the budget allows it.

        Args:
            size: number of bytes of the body or head.
            complete: whether the body or head has arrived completely. A small complete body
                reserves nothing; a large body reserves ``size`` bytes in both cases.

        Returns:
            Whether the budget allows it. If not, the reservation is unchanged.
        """
        large = max(self._large, size) if size > MAX_SMALL_BODY else self._large
        incomplete = 0 if complete or size > MAX_SMALL_BODY else size
        more_large, more_incomplete = large - self._large, incomplete - self._incomplete
        if more_large > self._budget.free:
            return False
        if more_incomplete > 0 and more_incomplete > self._budget.incomplete_free:
            return False
        self._budget.free -= more_large
        self._budget.incomplete_free -= more_incomplete
        self._large, self._incomplete = large, incomplete
        return True


def body_memory_exhausted() -> BackendUnavailable:
    """Return the error for a request whose body does not fit into the budget."""
    return BackendUnavailable(
        "too many large request bodies are being received: repeat the request after Retry-After",
        outcome="not_applied",
    )
