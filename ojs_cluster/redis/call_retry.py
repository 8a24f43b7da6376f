"""What one persistent call has been through: which failures are final, and what to say then."""

from __future__ import annotations

import trio

from ojs_cluster.core.errors import BackendUnavailable, Outcome, WritesRefused
from ojs_cluster.redis.durability import present_request
from ojs_cluster.redis.errors import Lost, RedisReplyError, ReplyTooLarge, Signal, TooLarge
from ojs_cluster.redis.group_commit import Unconfirmed
from ojs_cluster.redis.node_link import Backoff
from ojs_cluster.redis.reply_waiters import Reply

RETRY_FIRST_S = 0.005
RETRY_MAX_S = 0.1
FREE_REDIRECTS = 5


class Attempts:
    """State of one call on the slow way."""

    def __init__(self, idempotent: bool) -> None:
        self.in_flight = False
        self.last: Exception | None = None
        self._idempotent = idempotent
        self._backoff = Backoff(RETRY_FIRST_S, RETRY_MAX_S)
        self._doubtful = False
        self._redirects = 0

    def accept_signal(self, signal: Signal) -> None:
        """Return when the command may be sent again.

        Raises:
            ReplyTooLarge: the reply to this command broke the limit; it would again.
            BackendUnavailable: the command may have been applied and must not be repeated.
        """
        if isinstance(signal, TooLarge):
            raise ReplyTooLarge(str(signal))
        if isinstance(signal, Lost):
            self._doubtful = True
            if not self._idempotent:
                raise BackendUnavailable(
                    "the connection to Redis was lost before the reply", outcome="unknown"
                ) from signal

    @staticmethod
    def accept_unconfirmed(signal: Unconfirmed) -> Reply:
        """Give the reply to a command, and its doubt to the request that sent it.

        Raises:
            BackendUnavailable: there is no request that would look at the doubt.
        """
        request = present_request()
        if request is None:
            raise BackendUnavailable(f"done, but {signal}", outcome="stored_unconfirmed")
        request.doubt = str(signal)
        return signal.reply

    def accept_interrupted_script(self, error: Exception) -> None:
        """Return when a script that stopped half way may be run again.

        Raises:
            BackendUnavailable: it must not; part of it may have been applied.
        """
        self._doubtful = True
        if not self._idempotent:
            raise BackendUnavailable(
                "a slot was moving while a script used it", outcome="unknown"
            ) from error

    async def pause(self) -> None:
        """Sleep before the next attempt, longer each time."""
        await trio.sleep(self._backoff.next_s())

    async def pause_after_redirect(self) -> None:
        """The first redirections are followed at once; a ping-pong of them is slowed down."""
        self._redirects += 1
        if self._redirects > FREE_REDIRECTS:
            await self.pause()

    @property
    def _outcome(self) -> Outcome:
        """What is known when this try was not applied: an earlier one may have been."""
        return "unknown" if self._doubtful else "not_applied"

    def refusal(self, why: str) -> BackendUnavailable:
        """The error for a call that ends because this try of it was not applied."""
        return BackendUnavailable(why, outcome=self._outcome)

    def refused(self, error: RedisReplyError) -> WritesRefused:
        """The error for a write that Redis refuses for lack of memory or of a disk."""
        return WritesRefused(f"Redis refuses writes ({error.code})", outcome=self._outcome)

    def time_is_up(self, why_down: Exception | None) -> BackendUnavailable:
        """The error for a call that got no final answer in time."""
        unknown = self._doubtful or self.in_flight
        error = BackendUnavailable(
            "Redis did not answer in time", outcome="unknown" if unknown else "not_applied"
        )
        error.__cause__ = self.last or why_down
        return error
