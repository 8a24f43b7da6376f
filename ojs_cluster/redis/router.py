"""The links to all nodes, and the link that serves each slot.

``SlotRouter.routes`` is one list of 16384 links, which callers index by slot. The list changes in
place: a new topology replaces all entries, and a MOVED reply changes one entry. Only one task
fetches the topology, even if many callers find that the current topology is stale.
"""

from __future__ import annotations

import logging
import random
import ssl
from collections.abc import Callable, Iterator
from functools import partial

import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.redis.acl_errors import AclDenied, explain_acl_error
from ojs_cluster.redis.connection import NodeConnection
from ojs_cluster.redis.durability import Durability
from ojs_cluster.redis.errors import (
    AuthenticationFailed,
    ConnectFailed,
    NoSuchDatabase,
    RedisReplyError,
)
from ojs_cluster.redis.group_commit import CommitPlan
from ojs_cluster.redis.node_link import NodeLink
from ojs_cluster.redis.reply_waiters import Answer, CoarseClock
from ojs_cluster.redis.settings import Address, ClientSettings
from ojs_cluster.redis.silent_nodes import IMPATIENT_S, SUSPECT_AFTER_S
from ojs_cluster.redis.topology import (
    CLUSTER_SLOTS,
    NO_MASTERS,
    ROLE,
    SLOTS,
    Topology,
    TopologyUnknown,
    parse_cluster_slots,
    standalone,
)

log = logging.getLogger("ojs.redis")

WATCH_INTERVAL_S = 0.1
"""Time between two checks of all connections. It is also the resolution of ``CoarseClock``."""
REFRESH_SPACING_S = 0.05
"""Minimum time between two refreshes of the topology."""
UNHEALTHY_SPACING_S = 0.1
"""Minimum time between two refreshes while the router is not healthy, even on request."""
UNHEALTHY_REFRESH_S = 0.25
"""Time after which an unhealthy router fetches the topology although nothing requested it."""
TOPOLOGY_TIMEOUT_S = 1.0
"""How long a node may take to report the topology."""
WATCH_DELAYED_S = 0.5
"""If two checks are further apart, this process was paused, and no command is late."""
RETIRED_LINK_S = 10.0
"""How long a link stays open when no slot needs its node."""
START_RETRY_S = 0.1
"""Pause before the start nodes are tried again."""


class SlotRouter:
    """Owns the links to all nodes. ``start`` connects, and starts its tasks in ``nursery``."""

    def __init__(
        self, settings: ClientSettings, tls: ssl.SSLContext | None, nursery: trio.Nursery
    ) -> None:
        self.settings = settings
        self.tls = tls
        self.clock = CoarseClock()
        self.topology = NO_MASTERS
        self.routes: list[NodeLink | None] = [None] * SLOTS
        self.listeners: list[Callable[[], None]] = []
        self.reconnect_listeners: list[Callable[[Address], None]] = []
        self._nursery = nursery
        self._closed = False
        self._links: dict[Address, NodeLink] = {}
        self._durable_links: dict[tuple[Address, Durability], NodeLink] = {}
        self._changed = trio.lowlevel.ParkingLot()
        self._refresh_wanted = trio.Event()
        self._refresh_hint: Address | None = None
        self._topology_error: Exception | None = None
        self._demoted: set[Address] = set()
        self._role_refused = False

    @property
    def healthy(self) -> bool:
        """Whether every slot has a master that is connected and was not found to be a replica."""
        return self.topology.covered and all(
            address not in self._demoted
            and (link := self._links.get(address)) is not None
            and link.usable is not None
            for address in self.topology.masters
        )

    async def start(self) -> None:
        """Fetch the topology, then wait up to ``connect_timeout_s`` for connections to the masters.

        Raises:
            BackendUnavailable: no node reported a topology within ``call_timeout_s``.
            AuthenticationFailed: a node refused the credentials, and no other node reported a
                topology.
            NoSuchDatabase: the server has no database of the configured number.
        """
        self._nursery.start_soon(self._watch)
        error: Exception | None = None
        with trio.move_on_after(self.settings.call_timeout_s):
            while not await self._discover_topology():
                error = self._failure_at_start() or error
                await trio.sleep(START_RETRY_S)
            self._nursery.start_soon(self._refresh_forever)
            # The wait for the masters ends without an error. A master that is down must not keep
            # this process from serving the shards of the other masters.
            with trio.move_on_after(self.settings.connect_timeout_s):
                while not self.healthy:
                    await self._changed.park()
            return
        raise BackendUnavailable("Redis cannot be reached", outcome="not_applied") from error

    def is_responsive(self, link: NodeLink | None) -> bool:
        """Return whether a node is connected and has answered its commands within ``IMPATIENT_S``.

        A link that is opening its first connection counts as connected.
        """
        if link is None:
            return False
        durable = (self._durable_links.get((link.address, level)) for level in Durability)
        for candidate in (link, *durable):
            if candidate is not None:
                connection = candidate.connection
                if connection is None:
                    if candidate.last_error is not None:
                        return False
                elif connection.silent_s > IMPATIENT_S:
                    return False
        return True

    async def usable_connection(self, link: NodeLink | None) -> NodeConnection | None:
        """Return the connection of ``link`` if a command may be sent now.

        Otherwise wait until the links, the topology or the connection have changed, and return
        None.

        Raises:
            BackendUnavailable: the client was closed.
        """
        if self._closed:
            raise BackendUnavailable("the Redis client was closed", outcome="not_applied")
        connection = link.usable if link is not None else None
        if connection is None or (link is not None and link.address in self._demoted):
            self.request_refresh()
            await self._changed.park()
            return None
        if connection.full:
            await connection.wait_until_not_full()
            return None
        return connection

    def close(self) -> None:
        """Raise an error in callers that wait for a link. The links end with the nursery."""
        self._closed = True
        self._changed.unpark_all()

    def link_to(self, address: Address) -> NodeLink:
        """Return the link to ``address``. Start a new link if there is none."""
        link = self._links.get(address)
        if link is None:
            link = NodeLink(address, self.settings, self.tls, self.clock, self._link_changed)
            self._links[address] = link
            self._nursery.start_soon(link.run)
        link.retired_at = None
        return link

    def durable_link(self, link: NodeLink, durability: Durability) -> NodeLink:
        """Return the link to the same node whose replies wait for ``durability``.

        For ``ASYNC`` this is ``link`` itself. Start a new link if there is none.
        """
        if durability is Durability.ASYNC:
            return link
        address = link.address
        durable = self._durable_links.get((address, durability))
        if durable is None:
            replicas = self.settings.durability_replicas
            if durability is Durability.REPLICA:
                replicas = max(replicas, 1)  # WAIT for 0 replicas would confirm every write
            if durability is Durability.FSYNC and not self.topology.clustered:
                replicas = 0  # on a standalone server only its own disk has to have the write
            probe_keys = partial(self._probe_keys_of, address)
            timeout_s = min(self.settings.durability_timeout_s, self.settings.reply_timeout_s / 2)
            plan = CommitPlan(durability, replicas, timeout_s, probe_keys)
            durable = NodeLink(
                address, self.settings, self.tls, self.clock, self._link_changed, plan
            )
            self._durable_links[address, durability] = durable
            self._nursery.start_soon(durable.run)
        return durable

    def _probe_keys_of(self, address: Address) -> Iterator[bytes]:
        """Yield the probe keys whose slots the node at ``address`` serves now."""
        for slot, key in self.settings.probe_keys:
            link = self.routes[slot]
            if link is not None and link.address == address:
                yield key

    def apply_moved(self, slot: int, address: Address) -> NodeLink:
        """Route the slot to ``address``, as a MOVED reply requires; return the link."""
        link = self.link_to(address)
        self.routes[slot] = link
        self._refresh_hint = address
        self.request_refresh()
        return link

    def note_demoted(self, address: Address) -> None:
        """Note that a server has become a replica, which refuses writes.

        In a cluster the next topology names the new master. A standalone server is connected again,
        because its Service, proxy or DNS name may lead to the new master. Calls then wait until the
        command ROLE reports a master.
        """
        self.request_refresh()
        if self.topology.clustered:
            return
        if address not in self._demoted:
            log.warning("Redis at %s is a replica, connecting again until it is a master", address)
            self._demoted.add(address)
        links = (self._links.get(address), *self._durable_links_to(address))
        replaced = [link.reconnect("the server is a replica") for link in links if link is not None]
        if any(replaced):
            for listener in self.reconnect_listeners:
                listener(address)

    def _durable_links_to(self, address: Address) -> Iterator[NodeLink]:
        return (link for (found, _), link in self._durable_links.items() if found == address)

    def request_refresh(self) -> None:
        """Let ``_refresh_forever`` fetch the topology soon, because it may be stale."""
        self._refresh_wanted.set()

    def latest_error(self, link: NodeLink | None) -> Exception | None:
        """Return the latest error of ``link``; if it has none, the latest error of another link."""
        if link is not None and link.last_error is not None:
            return link.last_error
        return next((other.last_error for other in self._links.values() if other.last_error), None)

    def _failure_at_start(self) -> Exception | None:
        """Return the latest error; raise it if only an operator can solve the problem."""
        error = self.latest_error(None) or self._topology_error
        if isinstance(error, AuthenticationFailed | NoSuchDatabase | AclDenied):
            raise error
        return error

    def _link_changed(self, link: NodeLink) -> None:
        if link.connection is None and link.retired_at is None:
            self.request_refresh()
        self._changed.unpark_all()

    async def _refresh_forever(self) -> None:
        """Fetch the topology on request, and regularly while the router is not healthy."""
        while True:
            with trio.move_on_after(float("inf") if self.healthy else UNHEALTHY_REFRESH_S):
                await self._refresh_wanted.wait()
            self._refresh_wanted = trio.Event()
            await self._refresh()
            await trio.sleep(REFRESH_SPACING_S if self.healthy else UNHEALTHY_SPACING_S)

    async def _refresh(self) -> None:
        """Ask connected nodes one after the other until one reports the topology."""
        hint, self._refresh_hint = self._refresh_hint, None
        connected = [link for link in self._links.values() if link.usable is not None]
        random.shuffle(connected)
        # The node that a MOVED reply named is asked first, because other nodes may not know yet
        # that the slot has moved. Then the current masters are asked: if several standalone servers
        # are configured, the client stays with its current server.
        masters = self.topology.masters
        connected.sort(key=lambda link: (link.address != hint, link.address not in masters))
        for link in connected:
            topology = await self._fetch_topology(link)
            if topology is not None:
                self._apply(topology)
                return
        # No connected node answers. Connect to the start nodes and to all known nodes.
        for address in (*self.settings.nodes, *self.topology.nodes):
            self.link_to(address)

    async def _fetch_topology(self, link: NodeLink) -> Topology | None:
        connection = link.usable
        if connection is None:
            return None
        answer: Answer = None
        with trio.move_on_after(TOPOLOGY_TIMEOUT_S):
            answer = await connection.execute(CLUSTER_SLOTS)
        if isinstance(answer, RedisReplyError) and "cluster support disabled" in str(answer):
            return await self._fetch_role(link)
        if isinstance(answer, Exception):
            if isinstance(answer, RedisReplyError):
                answer = explain_acl_error(
                    answer, self.settings.username or "default", str(link.address)
                )
            self._topology_error = (
                answer
                if isinstance(answer, AclDenied)
                else ConnectFailed(f"{link.address} on CLUSTER SLOTS: {answer}")
            )
            return None
        try:
            topology = parse_cluster_slots(answer, link.address)
        except TopologyUnknown:
            return None
        return topology if topology.ranges else None

    async def _fetch_role(self, link: NodeLink) -> Topology | None:
        """Return the topology of a standalone server that is a master, else None."""
        answer: Answer = None
        connection = link.usable
        if connection is not None:
            with trio.move_on_after(TOPOLOGY_TIMEOUT_S):
                answer = await connection.execute(ROLE)
        is_only_node = len(self.settings.nodes) == 1
        if isinstance(answer, RedisReplyError) and is_only_node:
            # The server refuses ROLE, and no other server is configured. So it is used as a master.
            # If it is a replica, it refuses the first write.
            self._log_role_refused(link.address, answer)
        elif not isinstance(answer, list):
            self._topology_error = ConnectFailed(f"{link.address} on ROLE: {answer!r}")
            return None
        elif answer[0] != b"master":
            self._topology_error = ConnectFailed(f"{link.address} is a replica")
            if is_only_node or link.address in self.topology.masters:
                self.note_demoted(link.address)
            return None
        if link.address in self._demoted:
            log.info("Redis at %s is a master again", link.address)
            self._demoted.discard(link.address)
        return standalone(link.address)

    def _log_role_refused(self, address: Address, error: RedisReplyError) -> None:
        if not self._role_refused:
            self._role_refused = True
            log.info("Redis at %s refuses ROLE, so it counts as a master: %s", address, error)

    async def _discover_topology(self) -> bool:
        """Ask the start nodes for the topology; return whether one of them reported it.

        The order is that of the settings, so that all processes choose the same standalone server.
        """
        for address in self.settings.nodes:
            link = self.link_to(address)
            while link.connection is None and link.last_error is None:
                await self._changed.park()
            topology = await self._fetch_topology(link)
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
        """Use ``topology`` from now on: start links to new masters, retire links to old masters."""
        if set(topology.masters) != set(self.topology.masters):
            log.info(
                "Redis masters: %s; %d of %d slots served",
                ", ".join(map(str, topology.masters)),
                topology.slots_covered,
                SLOTS,
            )
        self.topology = topology
        routes: list[NodeLink | None] = [None] * SLOTS
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
        """Advance ``clock``, and end silent connections (``silent_nodes``) and retired links."""
        settings = self.settings
        while True:
            await trio.sleep(WATCH_INTERVAL_S)
            now = trio.current_time()
            # If this process was paused (a throttled container, a suspended machine), replies may
            # have arrived that are not read yet. So no command counts as late in this round.
            elapsed_s = now - self.clock.now
            was_paused = elapsed_s > WATCH_DELAYED_S
            self.clock.now = now
            self.clock.attentive += min(elapsed_s, 2 * WATCH_INTERVAL_S)
            if was_paused:
                continue
            for address, link in list(self._links.items()):
                connection = link.connection
                if connection is not None:
                    connection.check(settings.reply_timeout_s, settings.call_timeout_s)
                    if connection.silent_s > SUSPECT_AFTER_S:
                        self.request_refresh()
                idle = connection is None or connection.pending == 0
                if link.retired_at is not None and idle and now - link.retired_at > RETIRED_LINK_S:
                    del self._links[address]
                    link.scope.cancel()
            self._watch_durable_links()

    def _watch_durable_links(self) -> None:
        """Check the durable links; end a durable link if its node has no plain link."""
        settings = self.settings
        for (address, durability), link in list(self._durable_links.items()):
            if link.connection is not None:
                link.connection.check(settings.reply_timeout_s, settings.call_timeout_s)
            if address not in self._links:
                del self._durable_links[address, durability]
                link.scope.cancel()
