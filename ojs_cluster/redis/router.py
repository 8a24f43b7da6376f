"""Links to the nodes, and which of them serves which slot right now.

The route table is one list of 16384 entries that callers index directly; it is changed in place,
by a new topology as a whole and by a MOVED reply one slot at a time. A topology is asked for by
one task only, however many callers find the present one wrong.
"""

from __future__ import annotations

import logging
import random
import ssl
from collections.abc import Callable, Iterator
from functools import partial

import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.redis.acl_errors import MissingRight, explained
from ojs_cluster.redis.connection import Channel
from ojs_cluster.redis.durability import Durability
from ojs_cluster.redis.errors import (
    AuthenticationFailed,
    ConnectFailed,
    NoSuchDatabase,
    RedisReplyError,
)
from ojs_cluster.redis.group_commit import CommitPlan
from ojs_cluster.redis.node_link import Link
from ojs_cluster.redis.reply_waiters import Answer, Clock
from ojs_cluster.redis.settings import Address, ClientSettings
from ojs_cluster.redis.topology import (
    CLUSTER_SLOTS,
    NOWHERE,
    ROLE,
    SLOTS,
    Topology,
    TopologyUnknown,
    parse_cluster_slots,
    standalone,
)

log = logging.getLogger("ojs.redis")

WATCH_INTERVAL_S = 0.1
REFRESH_SPACING_S = 0.05
UNHEALTHY_SPACING_S = 0.1
UNHEALTHY_REFRESH_S = 0.25
TOPOLOGY_TIMEOUT_S = 1.0
LATE_WATCH_S = 0.5
SUSPECT_AFTER_S = 1.0
SILENT_S = 0.5
RETIRED_LINK_S = 10.0
START_RETRY_S = 0.1


class Router:
    """Owns the links; ``start`` makes it usable and leaves its tasks in ``nursery``."""

    def __init__(
        self, settings: ClientSettings, tls: ssl.SSLContext | None, nursery: trio.Nursery
    ) -> None:
        self.settings = settings
        self.tls = tls
        self.clock = Clock()
        self.topology = NOWHERE
        self.routes: list[Link | None] = [None] * SLOTS
        self.listeners: list[Callable[[], None]] = []
        self.reconnect_listeners: list[Callable[[Address], None]] = []
        self._nursery = nursery
        self._closed = False
        self._links: dict[Address, Link] = {}
        self._sure_links: dict[tuple[Address, Durability], Link] = {}
        self._changed = trio.lowlevel.ParkingLot()
        self._refresh_wanted = trio.Event()
        self._refresh_hint: Address | None = None
        self._topology_error: Exception | None = None
        self._demoted: set[Address] = set()
        self._role_refused = False

    @property
    def healthy(self) -> bool:
        """Whether all slots have a master, and every master a connection and the master's role."""
        return self.topology.covered and all(
            address not in self._demoted
            and (link := self._links.get(address)) is not None
            and link.usable is not None
            for address in self.topology.masters
        )

    async def start(self) -> None:
        """Find the topology and connect to every master, within ``call_timeout_s``.

        Raises:
            BackendUnavailable: no time left.
            AuthenticationFailed: a node refused the credentials, and no other told the topology.
            NoSuchDatabase: the settings name a database that is not there.
        """
        self._nursery.start_soon(self._watch)
        error: Exception | None = None
        with trio.move_on_after(self.settings.call_timeout_s):
            while not await self._first_topology():
                error = self._failure_at_start() or error
                await trio.sleep(START_RETRY_S)
            self._nursery.start_soon(self._refresh_forever)
            # A cluster that has lost a master, or one that refuses us alone, must not keep a new
            # process from serving the rest.
            with trio.move_on_after(self.settings.connect_timeout_s):
                while not self.healthy:
                    await self._changed.park()
            return
        raise BackendUnavailable("Redis cannot be reached", outcome="not_applied") from error

    def answers(self, link: Link | None) -> bool:
        """Whether a node is connected, and owes no reply for longer than ``SILENT_S``.

        A link that is on its way to its first connection counts as connected.
        """
        if link is None:
            return False
        sure = (self._sure_links.get((link.address, kind)) for kind in Durability)
        for one in (link, *sure):
            if one is not None:
                connection = one.connection
                if connection is None:
                    if one.last_error is not None:
                        return False
                elif connection.silent_s > SILENT_S:
                    return False
        return True

    async def usable(self, link: Link | None) -> Channel | None:
        """The link's connection if a command may be sent now; else None, after a change."""
        if self._closed:
            raise BackendUnavailable("the Redis client was closed", outcome="not_applied")
        connection = link.usable if link is not None else None
        if connection is None or (link is not None and link.address in self._demoted):
            self.want_refresh()
            await self._changed.park()
            return None
        if connection.full:
            await connection.wait_for_room()
            return None
        return connection

    def close(self) -> None:
        """Send away who waits for a link; the links themselves end with the nursery."""
        self._closed = True
        self._changed.unpark_all()

    def link_to(self, address: Address) -> Link:
        """The link to ``address``, made or called back from retirement when needed."""
        link = self._links.get(address)
        if link is None:
            link = Link(address, self.settings, self.tls, self.clock, self._link_changed)
            self._links[address] = link
            self._nursery.start_soon(link.run)
        link.retired_at = None
        return link

    def sure_link(self, link: Link, durability: Durability) -> Link:
        """The link to the same node whose replies come when they are confirmed. Made when needed.

        With ASYNC it is the link itself.
        """
        if durability is Durability.ASYNC:
            return link
        address = link.address
        sure = self._sure_links.get((address, durability))
        if sure is None:
            replicas = self.settings.durability_replicas
            if durability is Durability.REPLICA:
                replicas = max(replicas, 1)  # who asks for a replica is not told of none
            if durability is Durability.FSYNC and not self.topology.clustered:
                replicas = 0  # a standalone server promises its own disk, with or without replicas
            marks = partial(self._marks_of, address)
            timeout_s = min(self.settings.durability_timeout_s, self.settings.reply_timeout_s / 2)
            plan = CommitPlan(durability, replicas, timeout_s, marks)
            sure = Link(address, self.settings, self.tls, self.clock, self._link_changed, plan)
            self._sure_links[address, durability] = sure
            self._nursery.start_soon(sure.run)
        return sure

    def _marks_of(self, address: Address) -> Iterator[bytes]:
        """Keys of slots that the node serves, to be written to at any time."""
        for slot, key in self.settings.marks:
            link = self.routes[slot]
            if link is not None and link.address == address:
                yield key

    def moved(self, slot: int, address: Address) -> Link:
        """Note what a MOVED reply said: use ``address`` for the slot from now on."""
        link = self.link_to(address)
        self.routes[slot] = link
        self._refresh_hint = address
        self.want_refresh()
        return link

    def demoted(self, address: Address) -> None:
        """Note that a server is a replica that refuses writes.

        A standalone server is connected to again, because a Service, a proxy or a DNS name may
        lead to the new master by now. Calls wait until ROLE says that it does. In a cluster the
        topology names the new master.
        """
        self.want_refresh()
        if self.topology.clustered:
            return
        if address not in self._demoted:
            log.warning("Redis at %s is a replica, connecting again until it is a master", address)
            self._demoted.add(address)
        links = (self._links.get(address), *self._sure_links_to(address))
        replaced = [link.reconnect("the server is a replica") for link in links if link is not None]
        if any(replaced):
            for listener in self.reconnect_listeners:
                listener(address)

    def _sure_links_to(self, address: Address) -> Iterator[Link]:
        return (link for (found, _), link in self._sure_links.items() if found == address)

    def want_refresh(self) -> None:
        """The topology is in doubt: ask for it soon."""
        self._refresh_wanted.set()

    def why_down(self, link: Link | None) -> Exception | None:
        """The latest error of this link, or else of any."""
        if link is not None and link.last_error is not None:
            return link.last_error
        return next((x.last_error for x in self._links.values() if x.last_error), None)

    def _failure_at_start(self) -> Exception | None:
        """The latest error; raises it when it says that our settings are wrong."""
        error = self.why_down(None) or self._topology_error
        if isinstance(error, AuthenticationFailed | NoSuchDatabase | MissingRight):
            raise error
        return error

    def _link_changed(self, link: Link) -> None:
        if link.connection is None and link.retired_at is None:
            self.want_refresh()
        self._changed.unpark_all()

    async def _refresh_forever(self) -> None:
        """One refresh at a time: when somebody asks, and regularly while something is wrong."""
        while True:
            with trio.move_on_after(float("inf") if self.healthy else UNHEALTHY_REFRESH_S):
                await self._refresh_wanted.wait()
            self._refresh_wanted = trio.Event()
            await self._refresh()
            await trio.sleep(REFRESH_SPACING_S if self.healthy else UNHEALTHY_SPACING_S)

    async def _refresh(self) -> None:
        """Ask connected nodes in turn until one tells the topology."""
        hint, self._refresh_hint = self._refresh_hint, None
        up = [link for link in self._links.values() if link.usable is not None]
        random.shuffle(up)
        # The node that a MOVED named knows about that move for certain; others may not yet.
        # Masters before others: of several standalone servers, stay with the present one.
        masters = self.topology.masters
        up.sort(key=lambda link: (link.address != hint, link.address not in masters))
        for link in up:
            topology = await self._ask_topology(link)
            if topology is not None:
                self._apply(topology)
                return
        # Nobody we know answers. The start nodes, and any node ever heard of, get a link again.
        for address in (*self.settings.nodes, *self.topology.nodes):
            self.link_to(address)

    async def _ask_topology(self, link: Link) -> Topology | None:
        connection = link.usable
        if connection is None:
            return None
        answer: Answer = None
        with trio.move_on_after(TOPOLOGY_TIMEOUT_S):
            answer = await connection.execute(CLUSTER_SLOTS)
        if isinstance(answer, RedisReplyError) and "cluster support disabled" in str(answer):
            return await self._ask_role(link)
        if isinstance(answer, Exception):
            if isinstance(answer, RedisReplyError):
                answer = explained(answer, self.settings.username or "default", str(link.address))
            self._topology_error = (
                answer
                if isinstance(answer, MissingRight)
                else ConnectFailed(f"{link.address} on CLUSTER SLOTS: {answer}")
            )
            return None
        try:
            topology = parse_cluster_slots(answer, link.address)
        except TopologyUnknown:
            return None
        return topology if topology.ranges else None

    async def _ask_role(self, link: Link) -> Topology | None:
        """A standalone server, if it says that it is a master."""
        answer: Answer = None
        connection = link.usable
        if connection is not None:
            with trio.move_on_after(TOPOLOGY_TIMEOUT_S):
                answer = await connection.execute(ROLE)
        alone = len(self.settings.nodes) == 1
        if isinstance(answer, RedisReplyError) and alone:
            # There is no other to choose: what refuses ROLE is found out by a write.
            self._note_role_refused(link.address, answer)
        elif not isinstance(answer, list):
            self._topology_error = ConnectFailed(f"{link.address} on ROLE: {answer!r}")
            return None
        elif answer[0] != b"master":
            self._topology_error = ConnectFailed(f"{link.address} is a replica")
            if alone or link.address in self.topology.masters:
                self.demoted(link.address)
            return None
        if link.address in self._demoted:
            log.info("Redis at %s is a master again", link.address)
            self._demoted.discard(link.address)
        return standalone(link.address)

    def _note_role_refused(self, address: Address, error: RedisReplyError) -> None:
        if not self._role_refused:
            self._role_refused = True
            log.info("Redis at %s refuses ROLE; taking it for a master: %s", address, error)

    async def _first_topology(self) -> bool:
        """Try the start nodes in the order given, so that all processes agree on the first."""
        for address in self.settings.nodes:
            link = self.link_to(address)
            while link.connection is None and link.last_error is None:
                await self._changed.park()
            topology = await self._ask_topology(link)
            if topology is not None:
                if topology.clustered and self.settings.db:
                    raise NoSuchDatabase(
                        f"{address} is a node of a cluster, where only database 0 is used, not "
                        f"{self.settings.db}"
                    )
                self._apply(topology)
                return True
        return False

    def _apply(self, topology: Topology) -> None:
        """Make ``topology`` the current view: links for new masters, retirement for old ones."""
        if set(topology.masters) != set(self.topology.masters):
            log.info(
                "Redis masters: %s; %d of %d slots served",
                ", ".join(map(str, topology.masters)),
                topology.slots_covered,
                SLOTS,
            )
        self.topology = topology
        routes: list[Link | None] = [None] * SLOTS
        for item in topology.ranges:
            link = self.link_to(item.master)
            routes[item.first : item.last + 1] = [link] * (item.last - item.first + 1)
        self.routes[:] = routes
        masters = frozenset(topology.masters)
        for address, link in self._links.items():
            if address not in masters and link.retired_at is None:
                link.retired_at = self.clock.now
        self._changed.unpark_all()
        for listener in self.listeners:
            listener()

    async def _watch(self) -> None:
        """Move the coarse clock on, end silent connections, close links nobody needs."""
        settings = self.settings
        while True:
            await trio.sleep(WATCH_INTERVAL_S)
            now = trio.current_time()
            # After a pause of this whole process (a throttled container, a stopped machine)
            # replies may lie unread: the readers get a turn before anybody is blamed for silence.
            late = now - self.clock.now > LATE_WATCH_S
            self.clock.now = now
            if late:
                continue
            for address, link in list(self._links.items()):
                connection = link.connection
                if connection is not None:
                    connection.check(settings.reply_timeout_s, settings.call_timeout_s)
                    if connection.silent_s > SUSPECT_AFTER_S:
                        self.want_refresh()
                idle = connection is None or connection.pending == 0
                if link.retired_at is not None and idle and now - link.retired_at > RETIRED_LINK_S:
                    del self._links[address]
                    link.scope.cancel()
            self._watch_sure_links()

    def _watch_sure_links(self) -> None:
        """As for the others; they go when the link to their node has gone."""
        settings = self.settings
        for (address, durability), link in list(self._sure_links.items()):
            if link.connection is not None:
                link.connection.check(settings.reply_timeout_s, settings.call_timeout_s)
            if address not in self._links:
                del self._sure_links[address, durability]
                link.scope.cancel()
