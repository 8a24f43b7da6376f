"""The full path of a call: try until there is a final answer, or until the time is up.

It handles nodes without a connection, redirections, error replies and lost connections.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

from ojs_cluster.core.errors import BackendUnavailable, OutOfTime
from ojs_cluster.redis.acl_errors import explain_acl_error
from ojs_cluster.redis.call_retry import CallRetry
from ojs_cluster.redis.deadline import current_deadline
from ojs_cluster.redis.driven_coroutines import ensure_task
from ojs_cluster.redis.durability import Durability
from ojs_cluster.redis.errors import (
    REPLICA_CODES,
    RETRYABLE_CODES,
    STALE_TOPOLOGY_CODES,
    WRITES_REFUSED_CODES,
    RedisReplyError,
    ReplyFailure,
    stopped_by_moving_slot,
)
from ojs_cluster.redis.group_commit import UnconfirmedReply
from ojs_cluster.redis.node_link import NodeLink
from ojs_cluster.redis.reply_waiters import Answer, Reply
from ojs_cluster.redis.router import SlotRouter
from ojs_cluster.redis.topology import parse_redirect
from ojs_cluster.redis.wrong_types import explain_wrong_type


class NoAnswer:
    """Stands for the answer while there is none: before each attempt of a call."""


NO_ANSWER: Final = NoAnswer()


@dataclass(slots=True)
class UnansweredCall:
    """A call that the fast path could not complete.

    Attributes:
        slot: the hash slot of the keys; None if the command goes to the node of ``link`` only.
        payload: the packed command.
        link: the link that the next attempt uses.
        answer: what the latest attempt returned.
        started: when the call began, in seconds of the client's clock.
        idempotent: whether the command may be sent again when its outcome is unknown.
        source_payload: returns a packed command with the source of the script, for a node that does
            not know the hash of the script.
        has_preflight: whether the command is a script with a preflight, which has written nothing
            if a moving slot stopped it.
        durability: the durability that the reply waits for.
        asking: whether the next attempt follows an ASK redirection.
    """

    slot: int | None
    payload: bytes
    link: NodeLink | None
    answer: Answer | NoAnswer
    started: float
    idempotent: bool
    source_payload: Callable[[], bytes] | None = None
    has_preflight: bool = False
    durability: Durability = Durability.ASYNC
    asking: bool = False


class FullPath:
    """Completes the calls that the fast path could not complete.

    Args:
        router: the links to the nodes.
        user: the ACL user, for error messages.
    """

    def __init__(self, router: SlotRouter, user: str) -> None:
        self._router = router
        self._routes = router.routes
        self._call_timeout_s = router.settings.call_timeout_s
        self._user = user

    async def complete(self, call: UnansweredCall) -> Reply:
        """Return the final answer of a call.

        The time is up ``call_timeout_s`` after the call began, or at the deadline of the request if
        that is earlier.
        """
        await ensure_task()
        retry = CallRetry(call.idempotent)
        until = min(call.started + self._call_timeout_s, current_deadline().at)
        if isinstance(call.answer, NoAnswer) and until <= trio.current_time():
            raise OutOfTime(
                "Redis did not answer earlier calls of the request in time", outcome="not_applied"
            )
        with trio.move_on_at(until):
            while True:
                if isinstance(call.answer, NoAnswer):
                    await self._try_once(call, retry)
                    if isinstance(call.answer, NoAnswer):
                        continue
                if not isinstance(call.answer, Exception):
                    return call.answer
                retry.latest_failure = call.answer
                if isinstance(call.answer, UnconfirmedReply):
                    return retry.after_unconfirmed(call.answer)
                if isinstance(call.answer, ReplyFailure):
                    retry.after_failure(call.answer)
                    self._router.request_refresh()
                else:
                    await self._after_error(call, call.answer, retry)
                call.answer = NO_ANSWER
        raise retry.timed_out(self._router.latest_error(call.link))

    async def _try_once(self, call: UnansweredCall, retry: CallRetry) -> None:
        """Send the command once, and set ``call.answer``.

        If no connection is usable, wait for a change of the connections and set no answer.
        """
        if call.slot is not None and not call.asking:
            call.link = self._routes[call.slot]
        if call.link is not None:
            call.link = self._router.durable_link(call.link, call.durability)
        try:
            connection = await self._router.usable_connection(call.link)
        except BackendUnavailable as closed:
            raise retry.unavailable(closed.message) from closed
        if connection is None:
            # No connection to the target of an ASK redirection. By now the slot may have moved, so
            # the next attempt goes to the master of the slot again.
            call.asking = False
            return
        retry.in_flight = True
        send = connection.execute_asking if call.asking else connection.execute
        call.answer = await send(call.payload)
        retry.in_flight = call.asking = False

    async def _after_error(
        self, call: UnansweredCall, error: RedisReplyError, retry: CallRetry
    ) -> None:
        """Prepare the next attempt after an error reply.

        Raises:
            WritesRefused: Redis has no memory or disk for writes.
            BackendUnavailable: a moving slot stopped a script that may have written and must not
                run again.
            MalformedKey: a key has a wrong type.
            RedisReplyError: a repetition would return the same error.
        """
        link = call.link
        if error.code in ("MOVED", "ASK") and call.slot is not None and link is not None:
            call.asking = error.code == "ASK"
            call.link = self._follow_redirect(call.slot, error, link)
            await retry.pause_after_redirect()
        elif error.code == "NOSCRIPT" and call.source_payload is not None:
            call.payload = call.source_payload()
        elif error.code in RETRYABLE_CODES:
            if error.code in REPLICA_CODES and link is not None:
                self._router.note_demoted(link.address)
            elif error.code in STALE_TOPOLOGY_CODES:
                self._router.request_refresh()
            await retry.pause()
        elif error.code in WRITES_REFUSED_CODES:
            raise retry.writes_refused(error) from error
        elif stopped_by_moving_slot(error):
            if not call.has_preflight:
                retry.after_interrupted_script(error)
            await retry.pause()
        elif error.has_wrong_type:
            raise await explain_wrong_type(
                error, call.payload, link.usable if link is not None else None
            ) from error
        else:
            where = link.address if link is not None else "an unknown address"
            raise explain_acl_error(error, self._user, str(where))

    def _follow_redirect(self, slot: int, error: RedisReplyError, source: NodeLink) -> NodeLink:
        """Return the link to the node that a MOVED or ASK reply of ``source`` names."""
        named_slot, address = parse_redirect(error.message, source.address)
        if named_slot != slot:
            raise ValueError(f"keys of slot {named_slot} were sent as slot {slot}")
        if error.code == "ASK":
            return self._router.link_to(address)
        return self._router.apply_moved(slot, address)
