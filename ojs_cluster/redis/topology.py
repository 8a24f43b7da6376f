"""The masters of all slots, as one node reports them."""

from __future__ import annotations

from dataclasses import dataclass

from ojs_cluster.redis.connection import pack
from ojs_cluster.redis.reply_waiters import Reply
from ojs_cluster.redis.settings import Address

SLOTS = 16384
# CLUSTER SLOTS, not CLUSTER SHARDS: only SLOTS returns the port and the name that suit the
# connection (TLS port, preferred endpoint), and its reply is flat.
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
    """A frozen view of the slots.

    Attributes:
        clustered: False for a standalone server.
        ranges: slots that have a master.
        nodes: all known addresses, replicas included.
    """

    clustered: bool
    ranges: tuple[SlotRange, ...]
    nodes: tuple[Address, ...]

    @property
    def masters(self) -> tuple[Address, ...]:
        """Masters that serve at least one slot, without duplicates."""
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
        """Return the master of ``slot``, or None."""
        for item in self.ranges:
            if item.first <= slot <= item.last:
                return item.master
        return None


NOWHERE = Topology(clustered=False, ranges=(), nodes=())


def standalone(address: Address) -> Topology:
    """Return the topology of a server without cluster mode: one master with all slots."""
    return Topology(clustered=False, ranges=(SlotRange(0, SLOTS - 1, address),), nodes=(address,))


def parse_cluster_slots(reply: Reply, asked: Address) -> Topology:
    """Parse a CLUSTER SLOTS reply of the node at ``asked``.

    A node that does not know or hides its own address sends an empty or NULL host. That means the
    host of ``asked``.

    Raises:
        TopologyUnknown: the reply has another shape.
    """
    ranges = []
    nodes: dict[Address, None] = {}
    try:
        if not isinstance(reply, list):
            raise TypeError  # noqa: TRY301 - one exit for every wrong shape
        for first, last, *members in reply:
            addresses = [_address(member, asked) for member in members]
            nodes.update(dict.fromkeys(addresses))
            ranges.append(SlotRange(int(first), int(last), addresses[0]))
    except (TypeError, ValueError, IndexError):
        raise TopologyUnknown(f"{asked} sent an unreadable CLUSTER SLOTS reply") from None
    return Topology(clustered=True, ranges=tuple(ranges), nodes=tuple(nodes))


def _address(member: list[object], asked: Address) -> Address:
    host, port = member[0], member[1]
    if not isinstance(port, int):
        raise TypeError
    if not isinstance(host, bytes) or host in (b"", b"?"):
        return Address(asked.host, port)
    return Address(host.decode(), port)


def parse_redirect(message: str, replied: Address) -> tuple[int, Address]:
    """Return slot and node of a MOVED or ASK reply, such as ``3999 127.0.0.1:6381``.

    Raises:
        ValueError: not of that form.
    """
    slot, _, target = message.partition(" ")
    host, _, port = target.rpartition(":")
    host = host.strip("[]")
    return int(slot), Address(host if host not in ("", "?") else replied.host, int(port))
