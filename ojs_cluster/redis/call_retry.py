"""The retries of one call: which failures end the call, and which error its caller gets."""

from __future__ import annotations

import trio

from ojs_cluster.core.errors import BackendUnavailable, WriteOutcome, WritesRefused
from ojs_cluster.redis.durability import current_work
from ojs_cluster.redis.errors import (
    OversizedReply,
    RedisReplyError,
    ReplyFailure,
    ReplyLost,
    ReplyTooLarge,
)
from ojs_cluster.redis.group_commit import UnconfirmedReply
from ojs_cluster.redis.node_link import Backoff
from ojs_cluster.redis.reply_waiters import Reply

RETRY_FIRST_S = 0.005
RETRY_MAX_S = 0.1
FREE_REDIRECTS = 5
"""Number of redirections that a call follows without a pause."""


class CallRetry:
    """The attempts of one call that is repeated after failures.

    ``FullPath`` sets both attributes.

    Attributes:
        in_flight: whether the command was sent and is not answered yet.
        latest_failure: the latest failure; None if no attempt has failed.
    """

    def __init__(self, idempotent: bool) -> None:
        self.in_flight = False
        self.latest_failure: Exception | None = None
        self._idempotent = idempotent
        self._backoff = Backoff(RETRY_FIRST_S, RETRY_MAX_S)
        self._maybe_applied = False
        self._redirects = 0

    def after_failure(self, failure: ReplyFailure) -> None:
        """Record whether a command without a reply may have been applied, before it is sent again.

        Raises:
            ReplyTooLarge: the reply is larger than ``max_reply_bytes``, as the next reply would be.
            BackendUnavailable: the command may have been applied and must not be repeated.
        """
        if isinstance(failure, OversizedReply):
            raise ReplyTooLarge(str(failure))
        if isinstance(failure, ReplyLost):
            self._maybe_applied = True
            if not self._idempotent:
                raise BackendUnavailable(
                    "the connection to Redis was lost before the reply", outcome="unknown"
                ) from failure

    @staticmethod
    def after_unconfirmed(failure: UnconfirmedReply) -> Reply:
        """Return the reply to a command, and mark the request's durable work as unconfirmed.

        Raises:
            BackendUnavailable: the call is not inside ``require_durability``, so no caller would
                report to the client that the write is unconfirmed.
        """
        work = current_work()
        if work is None:
            raise BackendUnavailable(f"done, but {failure}", outcome="stored_unconfirmed")
        work.unconfirmed_reason = str(failure)
        return failure.reply

    def after_interrupted_script(self, error: Exception) -> None:
        """Record that a moving slot stopped a script which may have written some of its keys.

        Raises:
            BackendUnavailable: the script is not idempotent, so it must not run again.
        """
        self._maybe_applied = True
        if not self._idempotent:
            raise BackendUnavailable(
                "a slot was moving while a script used it", outcome="unknown"
            ) from error

    async def pause(self) -> None:
        """Sleep before the next attempt, longer each time."""
        await trio.sleep(self._backoff.next_s())

    async def pause_after_redirect(self) -> None:
        """Follow the first redirections without a pause, and pause before all others.

        The pauses limit the load when two nodes redirect to each other.
        """
        self._redirects += 1
        if self._redirects > FREE_REDIRECTS:
            await self.pause()

    @property
    def _outcome(self) -> WriteOutcome:
        """The outcome of the call if the latest attempt was not applied."""
        return "unknown" if self._maybe_applied else "not_applied"

    def unavailable(self, why: str) -> BackendUnavailable:
        """Return the error for a call that ends without a further attempt."""
        return BackendUnavailable(why, outcome=self._outcome)

    def writes_refused(self, error: RedisReplyError) -> WritesRefused:
        """Return the error for a write that Redis refuses for lack of memory or disk."""
        return WritesRefused(f"Redis refuses writes ({error.code})", outcome=self._outcome)

    def timed_out(self, node_error: Exception | None) -> BackendUnavailable:
        """Return the error for a call that got no final answer in time.

        Args:
            node_error: the latest error of the node's link, which is the cause if no attempt of the
                call has failed.
        """
        unknown = self._maybe_applied or self.in_flight
        error = BackendUnavailable(
            "Redis did not answer in time", outcome="unknown" if unknown else "not_applied"
        )
        error.__cause__ = self.latest_failure or node_error
        return error
