"""The client: sends commands by hash slot, over one connection per master.

``call`` and ``script`` have a fast path and a full path. The fast path looks up the link of the
slot, packs the command, and sleeps once until the reply. If that is not possible or the answer is
an error, ``full_path`` completes the call. A call takes the full path from the start if the
deadline of its request is nearer than ``call_timeout_s``, because the fast path has no timer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from math import inf
from typing import Final

import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.redis.connection import Arg, RedisConnection, pack
from ojs_cluster.redis.deadline import current_deadline
from ojs_cluster.redis.driven_coroutines import ensure_task
from ojs_cluster.redis.durability import Durability, required_durability
from ojs_cluster.redis.errors import RedisReplyError, ReplyTooLarge
from ojs_cluster.redis.full_path import NO_ANSWER, FullPath, NoAnswer, UnansweredCall
from ojs_cluster.redis.node_link import NodeLink
from ojs_cluster.redis.packed_calls import PackedKeys, PackedReads, pack_call, pack_script_call
from ojs_cluster.redis.pubsub import PubSub
from ojs_cluster.redis.reply_waiters import Answer, Reply, SentCall
from ojs_cluster.redis.router import SlotRouter
from ojs_cluster.redis.script import Script
from ojs_cluster.redis.settings import Address, ClientSettings
from ojs_cluster.redis.silent_nodes import IMPATIENT_S
from ojs_cluster.redis.topology import Topology

TIME: Final = pack((b"TIME",))


class SentScript(SentCall):
    """A script call for ``Client.begin`` and ``Client.complete``.

    Args:
        slot: the hash slot of every key.
        script: the script.
        payload: the packed EVALSHA command.
        idempotent: whether the script may run again when its outcome is unknown.
    """

    __slots__ = ("idempotent", "link", "payload", "script", "slot")

    def __init__(self, slot: int, script: Script, payload: bytes, *, idempotent: bool) -> None:
        super().__init__()
        self.slot = slot
        self.script = script
        self.payload = payload
        self.idempotent = idempotent
        self.link: NodeLink | None = None


class Client:
    """Sends commands to a standalone server or a cluster. ``open_client`` creates a client.

    ``call``, ``script`` and ``call_masters`` raise:

    * ``RedisReplyError`` when Redis answers with an error that a repetition would not change,
    * ``ReplyTooLarge`` when a reply exceeds ``ClientSettings.max_reply_bytes``,
    * ``BackendUnavailable`` when no answer arrives in time. Its ``outcome`` says whether the
      command may have been applied.

    A command names a script by its hash. If a node does not know the hash, the client sends the
    source.

    While Redis moves a slot key by key, it may stop a script that touches a key outside its
    ``keys``. If the script has a preflight, it has written nothing at that time, and is repeated.
    Any other script may have written some of its keys. It is repeated if it is idempotent;
    otherwise the call raises ``BackendUnavailable`` with the outcome ``unknown``.

    Unless a script is ``volatile``, its reply waits for the higher of two durabilities: the one in
    the settings and the one of the current request. If the durability is not reached in time, the
    current work (``durability.current_work``) becomes unconfirmed. A call outside of any work then
    raises ``BackendUnavailable`` with the outcome ``stored_unconfirmed``.
    """

    def __init__(self, router: SlotRouter, pubsub: PubSub) -> None:
        self._router = router
        self._pubsub = pubsub
        self._routes = router.routes
        self._clock = router.clock
        self.settings = router.settings
        self._call_timeout_s = router.settings.call_timeout_s
        self.durability = router.settings.durability
        self.user = router.settings.username or "default"
        self._full_path = FullPath(router, self.user)

    def __repr__(self) -> str:
        return f"<Client of {len(self.topology.masters)} masters, healthy={self.healthy}>"

    async def call(self, slot: int, *args: Arg, idempotent: bool = False) -> Reply:
        """Send one command whose keys are all in ``slot``; return its reply.

        A list reply may contain error replies, which are ``RedisReplyError`` instances.

        Args:
            slot: the hash slot of every key of the command.
            args: the command and its arguments.
            idempotent: whether the command may be sent again when its outcome is unknown.
        """
        payload = pack(args)
        started = self._clock.now
        answer: Answer | NoAnswer = NO_ANSWER
        link = self._routes[slot]
        if link is not None and started + self._call_timeout_s <= current_deadline().at:
            connection = link.connection
            if connection is not None and not connection.full:
                answer = await connection.execute(payload)
                if not isinstance(answer, Exception):
                    return answer
        return await self._full_path.complete(
            UnansweredCall(slot, payload, link, answer, started, idempotent)
        )

    async def script(
        self,
        slot: int,
        script: Script,
        keys: Sequence[bytes],
        args: Sequence[Arg],
        *,
        idempotent: bool = False,
    ) -> Reply:
        """Run ``script`` on the master of ``slot`` and return its reply.

        The class describes what happens while Redis moves the slot, and how long the reply waits.

        Args:
            slot: the hash slot of every key.
            script: the script.
            keys: the KEYS of the script.
            args: the ARGV of the script.
            idempotent: whether the script may run again when its outcome is unknown.
        """
        # This method repeats the body of ``call``, because a shared coroutine would cost time for
        # every script.
        if isinstance(keys, PackedKeys):
            payload = pack_script_call(script, keys, args)
        else:
            payload = pack_call(script, keys, args)
        started = self._clock.now
        answer: Answer | NoAnswer = NO_ANSWER
        durability = Durability.ASYNC if script.volatile else required_durability(self.durability)
        link = self._routes[slot]
        if link is not None and started + self._call_timeout_s <= current_deadline().at:
            if durability:
                await ensure_task()  # a group commit can wake tasks only
                link = self._router.durable_link(link, durability)
            connection = link.connection
            if connection is not None and not connection.full:
                answer = await connection.execute(payload)
                if not isinstance(answer, Exception):
                    return answer

        # ``partial`` instead of a nested function: a closure would slow down every access to the
        # arguments, in the fast path as well.
        return await self._full_path.complete(
            UnansweredCall(
                slot,
                payload,
                link,
                answer,
                started,
                idempotent,
                source_payload=partial(script.by_source, payload),
                has_preflight=script.has_preflight,
                durability=durability,
            )
        )

    def begin(self, call: SentScript) -> bool:
        """Send a script call with the commands of this turn, if ``script`` would do so at once.

        Returns:
            Whether the call is sent. The caller then waits for ``call``, or calls ``complete``.
        """
        link = self._routes[call.slot]
        connection = None if link is None else link.connection
        if not isinstance(connection, RedisConnection) or connection.full:
            return False
        call.link, call.queued_at = link, self._clock.now
        connection.queue(call, call.payload)
        return True

    async def complete(self, call: SentScript) -> Reply:
        """Return the final answer of a call that ``begin`` has sent, as ``script`` does."""
        answer = await call.wait()
        if not isinstance(answer, Exception):
            return answer
        return await self._full_path.complete(
            UnansweredCall(
                call.slot,
                call.payload,
                call.link,
                answer,
                call.queued_at,
                call.idempotent,
                source_payload=partial(call.script.by_source, call.payload),
                has_preflight=call.script.has_preflight,
            )
        )

    async def call_masters(self, *args: Arg) -> dict[Address, Reply]:
        """Send one command to all masters concurrently; return the replies by address.

        The command must be idempotent: the client repeats it when a connection is lost.

        Raises:
            BackendUnavailable, RedisReplyError, ReplyTooLarge: the first error of a master.
        """
        masters = self.topology.masters
        if not masters:
            raise BackendUnavailable("no Redis master is known", outcome="not_applied")
        replies: dict[Address, Reply] = {}
        failures: list[Exception] = []

        async def call_one(address: Address) -> None:
            try:
                replies[address] = await self.call_node(address, *args)
            except (BackendUnavailable, RedisReplyError, ReplyTooLarge) as error:
                failures.append(error)

        await ensure_task()
        async with trio.open_nursery() as nursery:
            for address in masters:
                nursery.start_soon(call_one, address)
        if failures:
            raise failures[0]
        return {address: replies[address] for address in masters}

    async def read_each(
        self, reads: Sequence[PackedReads], *, with_time: bool = False, within_s: float = inf
    ) -> list[list[Answer]]:
        """Send many commands that only read, each to the master of its slot.

        The caller sleeps once for each master. This takes a tenth of the processor time of a
        ``call`` for each command, but nothing is repeated.

        Args:
            reads: the commands.
            with_time: whether the first answer for each element is that of its master to TIME,
                which each master is asked once before the commands.
            within_s: the longest time to wait, in seconds.

        Returns:
            The answers to the commands of each element, in order. An answer may be an exception.
            There are no answers if the master is not connected or not responsive, or when this
            time or the deadline of the request has passed. Use ``call`` to find out more.
        """
        connections = [self._read_connection(read.slot) for read in reads]
        if any(connection is not None and connection.full for connection in set(connections)):
            await _wait_until_not_full({each for each in connections if each is not None})
            connections = [self._read_connection(read.slot) for read in reads]
        # From here to the submission nothing is awaited, so no connection ends in between.
        numbers_of: dict[RedisConnection, list[int]] = {}
        for number, connection in enumerate(connections):
            if connection is not None:
                numbers_of.setdefault(connection, []).append(number)
        for connection in [each for each in numbers_of if not each.ready]:
            del numbers_of[connection]
        batches = [
            connection.submit_reads(
                b"".join([TIME * with_time, *[reads[number].payload for number in numbers]]),
                with_time + sum([reads[number].commands for number in numbers]),
            )
            for connection, numbers in numbers_of.items()
        ]
        deadline = min(current_deadline().at, self._clock.now + within_s)
        if self._clock.now + self._call_timeout_s <= deadline:
            for batch in batches:
                await batch.wait()
        else:
            await ensure_task()
            with trio.move_on_at(deadline):
                for batch in batches:
                    await batch.wait()
        answers: list[list[Answer]] = [[] for _ in reads]
        for batch, numbers in zip(batches, numbers_of.values(), strict=True):
            time_answer, first = batch.answers[:with_time], int(with_time)
            for number in numbers if batch.complete else ():
                next_first = first + reads[number].commands
                answers[number] = time_answer + batch.answers[first:next_first]
                first = next_first
        return answers

    def _read_connection(self, slot: int) -> RedisConnection | None:
        """Return the connection for reads of a slot that wait for no replica or disk."""
        link = self._routes[slot]
        connection = None if link is None else link.connection
        return connection if isinstance(connection, RedisConnection) else None

    async def call_node(self, address: Address, *args: Arg) -> Reply:
        """Send one idempotent command without keys, such as INFO, to one node."""
        link = self._router.link_to(address)
        return await self._full_path.complete(
            UnansweredCall(None, pack(args), link, NO_ANSWER, self._clock.now, idempotent=True)
        )

    def new_deadline(self, call: SentScript | None = None) -> float:
        """Return the deadline of a request that begins now, in seconds of trio's clock.

        If the request began with ``call``, its deadline counts from then.
        """
        began = self._clock.now if call is None else call.queued_at
        return began + self._call_timeout_s

    def is_responsive(self, slot: int) -> bool:
        """Return whether the master of ``slot`` is connected and answers its commands.

        A master that has not answered for half a second is not responsive. Callers should not wait
        for such a master. A call to a responsive master may still fail.
        """
        return self._router.is_responsive(self._routes[slot])

    def is_silent(self, slot: int) -> bool:
        """Return whether the master of ``slot`` is connected, and has not answered for a while."""
        link = self._routes[slot]
        connection = None if link is None else link.connection
        return connection is not None and connection.silent_s > IMPATIENT_S

    async def ping(self, timeout_s: float) -> dict[Address, float]:
        """Return the time in seconds that each master took to answer a PING.

        The result has no entry for a master that is not responsive or does not answer in time, and
        none for a standalone server that has become a replica. A replica answers PING as well, so
        this method also asks a standalone server for its role. A refused write would show the role
        too, but an idle process sends no writes.

        Args:
            timeout_s: maximum time for each answer, in seconds.
        """
        ping_times_s: dict[Address, float] = {}

        async def ping_one(address: Address) -> None:
            started = trio.current_time()
            with trio.move_on_after(timeout_s), suppress(BackendUnavailable, RedisReplyError):
                await self.call_node(address, b"PING")
                seconds = trio.current_time() - started
                if self.topology.clustered or await self._is_master(address):
                    ping_times_s[address] = seconds

        await ensure_task()
        async with trio.open_nursery() as nursery:
            for address in self.topology.masters:
                if self._router.is_responsive(self._router.link_to(address)):
                    nursery.start_soon(ping_one, address)
        return ping_times_s

    async def _is_master(self, address: Address) -> bool:
        """Return whether a standalone server is a master; True if it refuses the command ROLE."""
        try:
            role = await self.call_node(address, b"ROLE")
        except RedisReplyError:
            return True
        if isinstance(role, list) and role[0] != b"master":
            self._router.note_demoted(address)
            return False
        return True

    async def subscribe(
        self,
        channel: bytes,
        slot: int,
        on_message: Callable[[bytes], None],
        on_gap: Callable[[], None],
    ) -> None:
        """Receive the messages that SPUBLISH sends to ``channel``, until ``unsubscribe``.

        This method returns when the server has confirmed the subscription. From then on the client
        subscribes again after a lost connection, a dead node or a moved slot. Both callbacks run in
        the task that reads the connection: they must be quick and must not raise exceptions.

        Args:
            channel: the channel.
            slot: the hash slot of the channel.
            on_message: called with each message.
            on_gap: called when the client has subscribed again, because it may have missed
                messages.

        Raises:
            BackendUnavailable: the server did not confirm within ``call_timeout_s``. The client is
                not subscribed.
            RedisReplyError: the server refused the subscription.
            ValueError: the client is subscribed to the channel already.
        """
        await self._pubsub.subscribe(channel, slot, on_message, on_gap)

    async def unsubscribe(self, channel: bytes) -> None:
        """Unsubscribe from a channel, if subscribed. No callback runs after this method returns."""
        await self._pubsub.unsubscribe(channel)

    @property
    def topology(self) -> Topology:
        """The latest known masters and their slots."""
        return self._router.topology

    @property
    def healthy(self) -> bool:
        """Whether every slot has a master and every master is connected."""
        return self._router.healthy


async def _wait_until_not_full(connections: set[RedisConnection]) -> None:
    """Wait for connections that are full although their nodes answer, for ``IMPATIENT_S``."""
    await ensure_task()
    with trio.move_on_at(min(current_deadline().at, trio.current_time() + IMPATIENT_S)):
        for connection in connections:
            if connection.open and connection.full and not connection.silent:
                await connection.wait_until_not_full()


@asynccontextmanager
async def open_client(settings: ClientSettings) -> AsyncIterator[Client]:
    """Yield a client that stays connected until the block ends. All its tasks run in one nursery.

    Raises:
        BackendUnavailable: no start node could be reached within ``call_timeout_s``.
        AuthenticationFailed: the server refused the credentials.
        NoSuchDatabase: the server has no database of the configured number.
        OSError, ssl.SSLError: a certificate file is unreadable.
    """
    tls = settings.tls.context() if settings.tls is not None else None
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        # The nursery would wrap an exception of the block in a group. So the exception is kept and
        # raised after the end of the nursery, and callers can catch it by its type.
        router = SlotRouter(settings, tls, nursery)
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
