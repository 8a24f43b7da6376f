"""The client: commands by slot, over one connection per master.

``call`` has a fast way and a slow one. The fast way is a list look-up, a packed command and one
sleep. Anything that is not a plain reply (no connection, a redirection, an error, a lost
connection) goes to ``_persist``, which tries until the call's time is up.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.redis.connection import Answer, Arg, Clock, Connection, Reply, pack
from ojs_cluster.redis.errors import (
    AuthenticationFailed,
    ConnectFailed,
    Lost,
    RedisReplyError,
    ReplyTooLarge,
    Signal,
    TooLarge,
)
from ojs_cluster.redis.link import Backoff, Link
from ojs_cluster.redis.script import Script
from ojs_cluster.redis.settings import Address, ClientSettings
from ojs_cluster.redis.topology import (
    CLUSTER_SLOTS,
    NOWHERE,
    SLOTS,
    Topology,
    TopologyUnknown,
    parse_cluster_slots,
    parse_redirect,
    standalone,
)

# Replies that say "not now": the command was not applied and may be sent again.
BUSY_CODES: Final = frozenset(
    {"TRYAGAIN", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "READONLY", "BUSY", "NOREPLICAS"}
)
# Of these, the ones after which the topology is in doubt.
STALE_CODES: Final = frozenset({"CLUSTERDOWN", "MASTERDOWN", "READONLY"})

WATCH_INTERVAL_S = 0.1
REFRESH_SPACING_S = 0.05
UNHEALTHY_REFRESH_S = 0.25
TOPOLOGY_TIMEOUT_S = 1.0
SUSPECT_AFTER_S = 1.0
RETIRED_LINK_S = 10.0
RETRY_FIRST_S = 0.005
RETRY_MAX_S = 0.1
FREE_REDIRECTS = 5


class Client:
    """Commands to a standalone server or a cluster. Made by ``open_client``.

    Errors of ``call``, ``script`` and ``on_masters``: ``RedisReplyError`` when Redis answered with
    an error that repeating does not cure, ``ReplyTooLarge``, and ``BackendUnavailable`` when no
    answer came; its ``outcome`` says whether the command may have been applied.
    """

    def __init__(self, settings: ClientSettings, nursery: trio.Nursery) -> None:
        self._settings = settings
        self._nursery = nursery
        self._tls = settings.tls.context() if settings.tls is not None else None
        self._clock = Clock()
        self._topology = NOWHERE
        self._routes: list[Link | None] = [None] * SLOTS
        self._links: dict[Address, Link] = {}
        self._changed = trio.lowlevel.ParkingLot()
        self._refresh_wanted = trio.Event()
        self._refresh_hint: Address | None = None

    def __repr__(self) -> str:
        return f"<Client {self._topology.slots_covered} slots on {len(self._links)} links>"

    # ---- what callers use

    async def call(self, slot: int, *args: Arg, idempotent: bool = False) -> Reply:
        """Send one command whose keys are all in ``slot``; return its reply.

        ``idempotent`` allows the command to be sent again when its outcome is unknown.
        Error replies nested in a list reply stay there as ``RedisReplyError`` instances.
        """
        payload = pack(args)
        started = self._clock.now
        answer: Answer | _NoAnswer = NO_ANSWER
        link = self._routes[slot]
        if link is not None:
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

        Sent by hash; a node that does not know the script gets its source.
        """
        payload = pack((b"EVALSHA", script.sha, len(keys), *keys, *args))
        started = self._clock.now
        answer: Answer | _NoAnswer = NO_ANSWER
        link = self._routes[slot]
        if link is not None:
            connection = link.connection
            if connection is not None and not connection.full:
                answer = await connection.execute(payload)
                if not isinstance(answer, Exception):
                    return answer

        def by_source() -> bytes:
            return pack((b"EVAL", script.source, len(keys), *keys, *args))

        return await self._persist(slot, payload, link, answer, started, idempotent, by_source)

    async def on_masters(self, *args: Arg) -> dict[Address, Reply]:
        """Send one command to every master at once; return the replies by node.

        The command must be idempotent: it is repeated when a connection is lost.
        """
        payload = pack(args)
        replies: dict[Address, Reply] = {}
        failures: list[Exception] = []

        async def ask(address: Address) -> None:
            try:
                replies[address] = await self._persist(
                    None, payload, self._link_to(address), NO_ANSWER, self._clock.now, True, None
                )
            except (BackendUnavailable, RedisReplyError, ReplyTooLarge) as error:
                failures.append(error)

        masters = self._topology.masters
        if not masters:
            raise BackendUnavailable("Redis has no known master", outcome="not_applied")
        async with trio.open_nursery() as nursery:
            for address in masters:
                nursery.start_soon(ask, address)
        if failures:
            raise failures[0]
        return {address: replies[address] for address in masters}

    async def ping(self) -> float:
        """Time in seconds until the slowest master has answered a PING."""
        started = trio.current_time()
        await self.on_masters(b"PING")
        return trio.current_time() - started

    @property
    def topology(self) -> Topology:
        """The latest view of masters and slots."""
        return self._topology

    @property
    def healthy(self) -> bool:
        """Whether all 16384 slots have a master, and every master a connection."""
        return self._topology.covered and all(
            (link := self._links.get(address)) is not None and link.connection is not None
            for address in self._topology.masters
        )

    # ---- the slow way

    async def _persist(
        self,
        slot: int | None,
        payload: bytes,
        link: Link | None,
        answer: Answer | _NoAnswer,
        started: float,
        idempotent: bool,
        by_source: Callable[[], bytes] | None,
    ) -> Reply:
        """Try until there is a final answer, or ``call_timeout_s`` after ``started`` is over.

        ``slot`` None means: this ``link`` and no other. ``answer`` is what a first try brought.
        """
        state = _Attempts(idempotent)
        asking = False
        with trio.move_on_at(started + self._settings.call_timeout_s):
            while True:
                if answer is NO_ANSWER:
                    if slot is not None and not asking:
                        link = self._routes[slot]
                    connection = await self._usable(link)
                    if connection is None:
                        continue
                    state.in_flight = True
                    send = connection.execute_asking if asking else connection.execute
                    answer = await send(payload)
                    state.in_flight = False
                    asking = False
                if not isinstance(answer, Exception):
                    return answer  # type: ignore[return-value] # NO_ANSWER was replaced above
                state.last = answer
                if isinstance(answer, Signal):
                    state.accept_signal(answer)
                    self._want_refresh()
                elif answer.code in ("MOVED", "ASK") and slot is not None and link is not None:
                    asking = answer.code == "ASK"
                    link = self._redirect(slot, answer, link)
                    await state.pause_after_redirect()
                elif answer.code == "NOSCRIPT" and by_source is not None:
                    payload = by_source()
                elif answer.code in BUSY_CODES:
                    if answer.code in STALE_CODES:
                        self._want_refresh()
                    await trio.sleep(state.backoff.next_s())
                else:
                    raise answer
                answer = NO_ANSWER
        raise state.time_is_up(self._why_down(link))

    async def _usable(self, link: Link | None) -> Connection | None:
        """The link's connection if a command may be sent now; else wait for a change."""
        connection = link.connection if link is not None else None
        if connection is None or not connection.open:
            self._want_refresh()
            await self._changed.park()
            return None
        if connection.full:
            await connection.wait_for_room()
            return None
        return connection

    def _redirect(self, slot: int, answer: RedisReplyError, replied: Link) -> Link:
        moved_slot, address = parse_redirect(answer.message, replied.address)
        if moved_slot != slot:
            raise ValueError(f"keys of slot {moved_slot} were sent as slot {slot}")
        link = self._link_to(address)
        if answer.code == "MOVED":
            self._routes[slot] = link
            self._refresh_hint = address
            self._want_refresh()
        return link

    def _why_down(self, link: Link | None) -> Exception | None:
        if link is not None and link.last_error is not None:
            return link.last_error
        return next((x.last_error for x in self._links.values() if x.last_error), None)

    # ---- links and topology

    def _link_to(self, address: Address) -> Link:
        """The link to ``address``, made or called back from retirement when needed."""
        link = self._links.get(address)
        if link is None:
            link = Link(address, self._settings, self._tls, self._clock, self._link_changed)
            self._links[address] = link
            self._nursery.start_soon(link.run)
        link.retired_at = None
        return link

    def _link_changed(self, link: Link) -> None:
        if link.connection is None and link.retired_at is None:
            self._want_refresh()
        self._changed.unpark_all()

    def _want_refresh(self) -> None:
        self._refresh_wanted.set()

    async def _refresh_forever(self) -> None:
        """One refresh at a time: when somebody asks, and regularly while something is wrong."""
        while True:
            with trio.move_on_after(float("inf") if self.healthy else UNHEALTHY_REFRESH_S):
                await self._refresh_wanted.wait()
            self._refresh_wanted = trio.Event()
            await self._refresh()
            await trio.sleep(REFRESH_SPACING_S)

    async def _refresh(self) -> bool:
        """Ask connected nodes in turn until one tells the topology."""
        hint, self._refresh_hint = self._refresh_hint, None
        up = [link for link in self._links.values() if link.connection is not None]
        random.shuffle(up)
        up.sort(key=lambda link: link.address != hint)
        for link in up:
            topology = await self._ask_topology(link)
            if topology is not None:
                self._apply(topology)
                return True
        # Nobody we know answers. The start nodes, and any node ever heard of, get a link again.
        for address in (*self._settings.nodes, *self._topology.nodes):
            self._link_to(address)
        return False

    async def _ask_topology(self, link: Link) -> Topology | None:
        connection = link.connection
        if connection is None:
            return None
        answer: Answer = None
        with trio.move_on_after(TOPOLOGY_TIMEOUT_S):
            answer = await connection.execute(CLUSTER_SLOTS)
        if isinstance(answer, RedisReplyError) and "cluster support disabled" in str(answer):
            return standalone(link.address)
        try:
            topology = parse_cluster_slots(answer, link.address)  # type: ignore[arg-type]
        except TopologyUnknown:
            return None
        return topology if topology.ranges else None

    def _apply(self, topology: Topology) -> None:
        """Make ``topology`` the current view: links for new masters, retirement for old ones."""
        self._topology = topology
        routes = self._routes
        routes[:] = [None] * SLOTS
        for item in topology.ranges:
            link = self._link_to(item.master)
            routes[item.first : item.last + 1] = [link] * (item.last - item.first + 1)
        masters = frozenset(topology.masters)
        for address, link in self._links.items():
            if address not in masters and link.retired_at is None:
                link.retired_at = self._clock.now
        self._changed.unpark_all()

    async def _watch(self) -> None:
        """Move the coarse clock on, end silent connections, close links nobody needs."""
        settings = self._settings
        while True:
            await trio.sleep(WATCH_INTERVAL_S)
            now = self._clock.now = trio.current_time()
            for address, link in list(self._links.items()):
                connection = link.connection
                if connection is not None:
                    connection.check(settings.reply_timeout_s, settings.call_timeout_s)
                    if connection.silent_s > SUSPECT_AFTER_S:
                        self._want_refresh()
                idle = connection is None or connection.pending == 0
                if link.retired_at is not None and idle and now - link.retired_at > RETIRED_LINK_S:
                    del self._links[address]
                    link.scope.cancel()

    async def _start(self) -> None:
        """Find the topology and connect to every master, within ``call_timeout_s``."""
        self._nursery.start_soon(self._watch)
        error: Exception | None = None
        with trio.move_on_after(self._settings.call_timeout_s):
            while not await self._first_topology():
                error = self._why_down(None)
                if isinstance(error, AuthenticationFailed):
                    raise error
                await trio.sleep(RETRY_MAX_S)
            self._nursery.start_soon(self._refresh_forever)
            while not self.healthy:
                error = self._why_down(None) or error
                if isinstance(error, AuthenticationFailed):
                    raise error
                await self._changed.park()
            return
        raise BackendUnavailable("Redis cannot be reached", outcome="not_applied") from error

    async def _first_topology(self) -> bool:
        """Try the start nodes in the order given, so that all processes agree on the first."""
        for address in self._settings.nodes:
            link = self._link_to(address)
            while link.connection is None and link.last_error is None:
                await self._changed.park()
            topology = await self._ask_topology(link)
            if topology is not None:
                self._check_db(topology)
                self._apply(topology)
                return True
        return False

    def _check_db(self, topology: Topology) -> None:
        if topology.clustered and self._settings.db:
            raise ConnectFailed("a database number needs a standalone server, this is a cluster")


class _NoAnswer:
    """Nothing has been sent yet."""


NO_ANSWER: Final = _NoAnswer()


class _Attempts:
    """What one persistent call has been through, and what its failure has to say."""

    def __init__(self, idempotent: bool) -> None:
        self.idempotent = idempotent
        self.in_flight = False
        self.last: Exception | None = None
        self.backoff = Backoff(RETRY_FIRST_S, RETRY_MAX_S)
        self._doubtful = False
        self._redirects = 0

    def accept_signal(self, signal: Signal) -> None:
        """Return when the command may be sent again; raise when it may not."""
        if isinstance(signal, TooLarge):
            raise ReplyTooLarge(str(signal))
        if isinstance(signal, Lost):
            self._doubtful = True
            if not self.idempotent:
                raise BackendUnavailable(
                    "the connection to Redis was lost before the reply", outcome="unknown"
                ) from signal

    async def pause_after_redirect(self) -> None:
        """The first redirections are followed at once; a ping-pong of them is slowed down."""
        self._redirects += 1
        if self._redirects > FREE_REDIRECTS:
            await trio.sleep(self.backoff.next_s())

    def time_is_up(self, why_down: Exception | None) -> BackendUnavailable:
        """The error for a call that got no final answer in time."""
        unknown = self._doubtful or self.in_flight
        error = BackendUnavailable(
            "Redis did not answer in time", outcome="unknown" if unknown else "not_applied"
        )
        error.__cause__ = self.last or why_down
        return error


@asynccontextmanager
async def open_client(settings: ClientSettings) -> AsyncIterator[Client]:
    """Connect, and keep connected until the block ends. Everything runs in one nursery.

    Raises:
        BackendUnavailable: no start node could be reached within ``call_timeout_s``.
        AuthenticationFailed: the server refused the credentials.
        ConnectFailed: the settings do not fit the server.
        OSError, ssl.SSLError: a certificate file is unreadable.
    """
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        client = Client(settings, nursery)
        # An exception of the block would leave the nursery wrapped in a group; callers should be
        # able to catch what they raised, so it is carried past the nursery's end.
        try:
            await client._start()
            yield client
        except Exception as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
