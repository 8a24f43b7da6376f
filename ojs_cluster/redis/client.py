"""The client: commands by slot, over one connection per master.

``call`` has a fast way and a slow one. The fast way is a list look-up, a packed command and one
sleep. Anything that is not a plain reply (no connection, a redirection, an error, a lost
connection) goes to ``_persist``, which tries until the call's time is up. So does a call that its
request's deadline would cut (``deadline``): the fast way has no timer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

import trio

from ojs_cluster.core.errors import BackendUnavailable, OutOfTime
from ojs_cluster.redis.acl_errors import explained
from ojs_cluster.redis.call_retry import Attempts
from ojs_cluster.redis.connection import Arg, pack
from ojs_cluster.redis.deadline import present
from ojs_cluster.redis.driven_coroutines import own_task
from ojs_cluster.redis.durability import Durability, wanted
from ojs_cluster.redis.errors import (
    BUSY_CODES,
    REFUSED_CODES,
    REPLICA_CODES,
    STALE_CODES,
    RedisReplyError,
    ReplyTooLarge,
    Signal,
    stopped_by_moving_slot,
)
from ojs_cluster.redis.group_commit import Unconfirmed
from ojs_cluster.redis.node_link import Link
from ojs_cluster.redis.packed_calls import PackedKeys, pack_call
from ojs_cluster.redis.pubsub import PubSub
from ojs_cluster.redis.reply_waiters import Answer, Reply
from ojs_cluster.redis.router import Router
from ojs_cluster.redis.script import Script
from ojs_cluster.redis.settings import Address, ClientSettings
from ojs_cluster.redis.topology import Topology, parse_redirect


class _NoAnswer:
    """Nothing has been sent yet."""


NO_ANSWER: Final = _NoAnswer()


class Client:
    """Commands to a standalone server or a cluster. Made by ``open_client``.

    Errors of ``call``, ``script`` and ``on_masters``: ``RedisReplyError`` when Redis answered with
    an error that repeating does not cure, ``ReplyTooLarge``, and ``BackendUnavailable`` when no
    answer came; its ``outcome`` says whether the command may have been applied.
    """

    def __init__(self, router: Router, pubsub: PubSub) -> None:
        self._router = router
        self._pubsub = pubsub
        self._routes = router.routes
        self._clock = router.clock
        self._call_timeout_s = router.settings.call_timeout_s
        self.durability = router.settings.durability
        self.user = router.settings.username or "default"

    def __repr__(self) -> str:
        return f"<Client of {len(self.topology.masters)} masters, healthy={self.healthy}>"

    async def call(self, slot: int, *args: Arg, idempotent: bool = False) -> Reply:
        """Send one command whose keys are all in ``slot``; return its reply.

        ``idempotent`` allows the command to be sent again when its outcome is unknown.
        Error replies nested in a list reply stay there as ``RedisReplyError`` instances.
        """
        payload = pack(args)
        started = self._clock.now
        answer: Answer | _NoAnswer = NO_ANSWER
        link = self._routes[slot]
        if link is not None and started + self._call_timeout_s <= present().at:
            connection = link.connection
            if connection is not None and not connection.full:
                answer = await connection.execute(payload)
                if not isinstance(answer, Exception):
                    return answer
        return await self._persist(slot, payload, link, answer, started, idempotent, None)

    async def script(
        self,
        slot: int,
        script: Script,
        keys: Sequence[bytes],
        args: Sequence[Arg],
        *,
        idempotent: bool = False,
    ) -> Reply:
        """Run ``script`` on the master of ``slot``, to which all ``keys`` belong.

        Sent by hash; a node that does not know the script gets its source. While the slot is moved
        key by key, a script that touches a key outside ``keys`` may be stopped by Redis. One that
        ``looks_first`` has written nothing then, and is repeated. Another may have been stopped
        half way: ``BackendUnavailable`` with outcome ``unknown``, or repeated if ``idempotent``.

        Answers when what it wrote and found is as safe as the settings and the request
        (``durability.confirming``) want, unless the script is ``volatile``. When no confirmation
        comes in time that becomes the request's ``doubt``, and without a request
        ``BackendUnavailable`` with outcome ``stored_unconfirmed``.
        """
        # The body of ``call`` again: one more coroutine per script would cost more than it says.
        if isinstance(keys, PackedKeys):
            payload = pack_call(script, keys, args)
        else:
            payload = pack((b"EVALSHA", script.sha, len(keys), *keys, *args))
        started = self._clock.now
        answer: Answer | _NoAnswer = NO_ANSWER
        durability = Durability.ASYNC if script.volatile else wanted(self.durability)
        link = self._routes[slot]
        if link is not None and started + self._call_timeout_s <= present().at:
            if durability:
                await own_task()  # whoever is confirmed waits for a group
                link = self._router.sure_link(link, durability)
            connection = link.connection
            if connection is not None and not connection.full:
                answer = await connection.execute(payload)
                if not isinstance(answer, Exception):
                    return answer

        def by_source() -> bytes:
            return pack((b"EVAL", script.source, len(keys), *keys, *args))

        return await self._persist(
            *(slot, payload, link, answer, started, idempotent, by_source),
            looks_first=script.looks_first,
            durability=durability,
        )

    async def on_masters(self, *args: Arg) -> dict[Address, Reply]:
        """Send one command to every master at once; return the replies by node.

        The command must be idempotent: it is repeated when a connection is lost.
        """
        masters = self.topology.masters
        if not masters:
            raise BackendUnavailable("no Redis master is known", outcome="not_applied")
        replies: dict[Address, Reply] = {}
        failures: list[Exception] = []

        async def ask(address: Address) -> None:
            try:
                replies[address] = await self.call_at(address, *args)
            except (BackendUnavailable, RedisReplyError, ReplyTooLarge) as error:
                failures.append(error)

        await own_task()
        async with trio.open_nursery() as nursery:
            for address in masters:
                nursery.start_soon(ask, address)
        if failures:
            raise failures[0]
        return {address: replies[address] for address in masters}

    async def call_at(self, address: Address, *args: Arg) -> Reply:
        """Send one idempotent command to one node, whatever slots it serves (SCAN, INFO)."""
        link = self._router.link_to(address)
        return await self._persist(None, pack(args), link, NO_ANSWER, self._clock.now, True, None)

    def deadline(self) -> float:
        """The deadline of a request that begins now, in seconds of trio's clock."""
        return self._clock.now + self._call_timeout_s

    def answers(self, slot: int) -> bool:
        """Whether the master of ``slot`` is connected, and has not been silent for half a second.

        False is a reason not to wait for it. True promises nothing.
        """
        return self._router.answers(self._routes[slot])

    async def ping(self, patience_s: float) -> dict[Address, float]:
        """Return the time in seconds that each master took to answer a PING.

        A master that does not answer within ``patience_s``, or is known to be silent, is left out.
        So is a standalone server that has become a replica: it answers PING, and an idle process
        would not notice.
        """
        took: dict[Address, float] = {}

        async def ask(address: Address) -> None:
            started = trio.current_time()
            with trio.move_on_after(patience_s), suppress(BackendUnavailable, RedisReplyError):
                await self.call_at(address, b"PING")
                seconds = trio.current_time() - started
                if self.topology.clustered or await self._is_master(address):
                    took[address] = seconds

        await own_task()
        async with trio.open_nursery() as nursery:
            for address in self.topology.masters:
                if self._router.answers(self._router.link_to(address)):
                    nursery.start_soon(ask, address)
        return took

    async def _is_master(self, address: Address) -> bool:
        """Ask a standalone server for its role; who may not ask takes it for a master."""
        try:
            role = await self.call_at(address, b"ROLE")
        except RedisReplyError:
            return True
        if isinstance(role, list) and role[0] != b"master":
            self._router.demoted(address)
            return False
        return True

    async def subscribe(
        self,
        channel: bytes,
        slot: int,
        on_message: Callable[[bytes], None],
        on_gap: Callable[[], None],
    ) -> None:
        """Receive what SPUBLISH sends to ``channel``, until ``unsubscribe``.

        Returns once the server has confirmed. From then on a lost connection, a dead node or a
        moved slot is followed by itself; ``on_gap`` is called after each such resubscription,
        because messages may have been missed. Both callbacks run in the reader: they must be
        quick and must not raise.

        Raises:
            BackendUnavailable: not confirmed within ``call_timeout_s``; nothing stays subscribed.
            RedisReplyError: the server refused.
            ValueError: already subscribed.
        """
        await self._pubsub.subscribe(channel, slot, on_message, on_gap)

    async def unsubscribe(self, channel: bytes) -> None:
        """Stop receiving; unknown channels are ignored. No callback runs after the return."""
        await self._pubsub.unsubscribe(channel)

    @property
    def topology(self) -> Topology:
        """The latest view of masters and slots."""
        return self._router.topology

    @property
    def healthy(self) -> bool:
        """Whether all 16384 slots have a master, and every master a connection."""
        return self._router.healthy

    async def _persist(
        self,
        slot: int | None,
        payload: bytes,
        link: Link | None,
        answer: Answer | _NoAnswer,
        started: float,
        idempotent: bool,
        by_source: Callable[[], bytes] | None,
        looks_first: bool = False,
        durability: Durability = Durability.ASYNC,
    ) -> Reply:
        """Try until there is a final answer, ``call_timeout_s`` after ``started`` is over, or the
        request's deadline has passed.

        ``slot`` None means: this ``link`` and no other. ``answer`` is what a first try brought.
        """
        await own_task()
        attempts = Attempts(idempotent)
        asking = False
        until = min(started + self._call_timeout_s, present().at)
        if isinstance(answer, _NoAnswer) and until <= trio.current_time():
            raise OutOfTime(
                "Redis did not answer earlier calls of the request in time", outcome="not_applied"
            )
        with trio.move_on_at(until):
            while True:
                if isinstance(answer, _NoAnswer):
                    if slot is not None and not asking:
                        link = self._routes[slot]
                    if link is not None:
                        link = self._router.sure_link(link, durability)
                    try:
                        connection = await self._router.usable(link)
                    except BackendUnavailable as closed:
                        raise attempts.refusal(closed.message) from closed
                    if connection is None:
                        asking = False  # the migration may have ended meanwhile: ask its source
                        continue
                    attempts.in_flight = True
                    send = connection.execute_asking if asking else connection.execute
                    answer = await send(payload)
                    attempts.in_flight = asking = False
                if not isinstance(answer, Exception):
                    return answer
                attempts.last = answer
                if isinstance(answer, Unconfirmed):
                    return attempts.accept_unconfirmed(answer)
                if isinstance(answer, Signal):
                    attempts.accept_signal(answer)
                    self._router.want_refresh()
                elif answer.code in ("MOVED", "ASK") and slot is not None and link is not None:
                    asking = answer.code == "ASK"
                    link = self._redirect(slot, answer, link)
                    await attempts.pause_after_redirect()
                elif answer.code == "NOSCRIPT" and by_source is not None:
                    payload = by_source()
                elif answer.code in BUSY_CODES:
                    if answer.code in REPLICA_CODES and link is not None:
                        self._router.demoted(link.address)
                    elif answer.code in STALE_CODES:
                        self._router.want_refresh()
                    await attempts.pause()
                elif answer.code in REFUSED_CODES:
                    raise attempts.refused(answer) from answer
                elif stopped_by_moving_slot(answer):
                    if not looks_first:
                        attempts.accept_interrupted_script(answer)
                    await attempts.pause()
                else:
                    where = link.address if link is not None else "an unknown address"
                    raise explained(answer, self.user, str(where))
                answer = NO_ANSWER
        raise attempts.time_is_up(self._router.why_down(link))

    def _redirect(self, slot: int, answer: RedisReplyError, replied: Link) -> Link:
        told_slot, address = parse_redirect(answer.message, replied.address)
        if told_slot != slot:
            raise ValueError(f"keys of slot {told_slot} were sent as slot {slot}")
        if answer.code == "ASK":
            return self._router.link_to(address)
        return self._router.moved(slot, address)


@asynccontextmanager
async def open_client(settings: ClientSettings) -> AsyncIterator[Client]:
    """Connect, and keep connected until the block ends. Everything runs in one nursery.

    Raises:
        BackendUnavailable: no start node could be reached within ``call_timeout_s``.
        AuthenticationFailed: the server refused the credentials.
        NoSuchDatabase: the settings name a database that is not there.
        OSError, ssl.SSLError: a certificate file is unreadable.
    """
    tls = settings.tls.context() if settings.tls is not None else None
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        # An exception of the block would leave the nursery wrapped in a group; callers should be
        # able to catch what they raised, so it is carried past the nursery's end.
        router = Router(settings, tls, nursery)
        try:
            await router.start()
            pubsub = PubSub(router, nursery)
            nursery.start_soon(pubsub.run)
            yield Client(router, pubsub)
        except Exception as error:
            failure = error
        router.close()
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
