"""The masters of all slots, as one node reports them."""

from __future__ import annotations

from dataclasses import dataclass

from ojs_cluster.redis.connection import pack
from ojs_cluster.redis.reply_waiters import Reply
from ojs_cluster.redis.settings import Address

SLOTS = 16384
# CLUSTER SHARDS is not used. Only CLUSTER SLOTS returns the ports and host names that fit the
# connection (TLS port, preferred endpoint), and its reply is easier to parse.
CLUSTER_SLOTS = pack((b"CLUSTER", b"SLOTS"))
ROLE = pack((b"ROLE",))


class TopologyUnknown(Exception):
    """The reply to CLUSTER SLOTS does not describe a topology."""


@dataclass(frozen=True, slots=True)
class SlotRange:
    """Slots ``first`` to ``last``, both included, and the master that serves them."""

    first: int
    last: int
    master: Address


@dataclass(frozen=True, slots=True)
class Topology:
    """The masters and their slots at one time.

    Attributes:
        clustered: whether the server is in cluster mode; False for a standalone server.
        ranges: the slots that have a master.
        nodes: the addresses of all masters and replicas.
    """

    clustered: bool
    ranges: tuple[SlotRange, ...]
    nodes: tuple[Address, ...]

    @property
    def masters(self) -> tuple[Address, ...]:
        """The masters that serve at least one slot, without duplicates."""
        return tuple(dict.fromkeys(item.master for item in self.ranges))

    @property
    def slots_covered(self) -> int:
        """Number of the 16384 slots that have a master."""
        return sum(item.last - item.first + 1 for item in self.ranges)

    @property
    def covered(self) -> bool:
        """Whether every slot has a master."""
        return self.slots_covered == SLOTS

    def owner(self, slot: int) -> Address | None:
        """Return the master of ``slot``; None if the slot has no master."""
        for item in self.ranges:
            if item.first <= slot <= item.last:
                return item.master
        return None


NO_MASTERS = Topology(clustered=False, ranges=(), nodes=())


def standalone(address: Address) -> Topology:
    """Return the topology of a server without cluster mode: one master with all slots."""
    return Topology(clustered=False, ranges=(SlotRange(0, SLOTS - 1, address),), nodes=(address,))


def parse_cluster_slots(reply: Reply, source: Address) -> Topology:
    """Parse a CLUSTER SLOTS reply of the node at ``source``.

    The reply has an empty or NULL host if the node does not know, or does not announce, its own
    address. In this case the host is that of ``source``.

    Raises:
        TopologyUnknown: the reply is not a list of slot ranges.
    """
    ranges = []
    nodes: dict[Address, None] = {}
    try:
        if not isinstance(reply, list):
            raise TypeError  # noqa: TRY301 - handled below like other unreadable replies
        for first, last, *members in reply:
            addresses = [_address(member, source) for member in members]
            nodes.update(dict.fromkeys(addresses))
            ranges.append(SlotRange(int(first), int(last), addresses[0]))
    except (TypeError, ValueError, IndexError):
        raise TopologyUnknown(f"{source} sent an unreadable CLUSTER SLOTS reply") from None
    return Topology(clustered=True, ranges=tuple(ranges), nodes=tuple(nodes))


def _address(member: list[object], source: Address) -> Address:
    host, port = member[0], member[1]
    if not isinstance(port, int):
        raise TypeError
    if not isinstance(host, bytes) or host in (b"", b"?"):
        return Address(source.host, port)
    return Address(host.decode(), port)


def parse_redirect(message: str, source: Address) -> tuple[int, Address]:
    """Return the slot and the node that a MOVED or ASK reply names.

    Args:
        message: the reply without its code, such as ``3999 127.0.0.1:6381``.
        source: the node that sent the reply. If the reply names no host, the host is that of
            ``source``.

    Raises:
        ValueError: the message has another form.
    """
    slot, _, target = message.partition(" ")
    host, _, port = target.rpartition(":")
    host = host.strip("[]")
    return int(slot), Address(host if host not in ("", "?") else source.host, int(port))
