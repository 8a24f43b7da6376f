"""The address of the client behind proxies that the operator trusts.

Every proxy appends the address that it was connected from to ``X-Forwarded-For``. The entries at
the left come from whoever sent the request, so they prove nothing. The walk begins with the peer of
the connection, and goes left entry by entry, as long as the address that it has reached is that of
a trusted proxy, which vouches for the next entry. The first one that is not trusted is the client.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MOST_HOPS: Final = 32
"""Entries of ``X-Forwarded-For`` that are read."""
_LONGEST_HOP: Final = 64
"""Characters of an entry; the longest address with a port has 53."""
_MAPPED_BITS: Final = 96
_WITH_PORT: Final = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?|([0-9.]+):[0-9]{1,5}")


class TrustedProxies:
    """The proxies whose ``X-Forwarded-For`` is believed."""

    __slots__ = ("_networks",)

    def __init__(self, networks: Iterable[Network] = ()) -> None:
        """Trust proxies with an address in one of the networks."""
        self._networks = tuple(networks)

    def trusts(self, address: str) -> bool:
        """Return whether this is the address of a trusted proxy."""
        found = _parsed(address.partition("%")[0])
        return found is not None and self._contain(found)

    def client_of(self, peer: str, forwarded_for: str | None) -> str:
        """Return the address of the client of a request, in its shortest spelling.

        An entry that is no address ends the walk: the client is then the last proxy before it. So
        does an entry further left than ``MOST_HOPS``. Nothing of an entry that is no address is
        returned, so the result is safe to log.

        Args:
            peer: the address that the connection came from; empty when it is not known.
            forwarded_for: the header's value, repeated headers joined by commas; None for none.
        """
        client = _parsed(peer.partition("%")[0])  # of a link-local address without its zone
        if client is None:
            return ""
        if forwarded_for is None or not self._contain(client):
            return str(client)
        hops = forwarded_for.rsplit(",", MOST_HOPS)[-MOST_HOPS:]
        for hop in reversed(hops):
            text = hop.strip(" \t")
            if not text:
                continue
            found = _parsed_hop(text)
            if found is None:
                break
            client = found
            if not self._contain(client):
                break
        return str(client)

    def _contain(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


def parse_network(text: str) -> Network:
    """Return the network that an address or a CIDR block names.

    IPv4 networks that are written as IPv6 (``::ffff:10.0.0.0/104``) become IPv4 networks, as
    addresses do.

    Raises:
        ValueError: it is neither, has bits beyond its prefix, or contains every address.
    """
    network = ip_network(text)
    if isinstance(network, IPv6Network):
        mapped = network.network_address.ipv4_mapped
        if mapped is not None and network.prefixlen >= _MAPPED_BITS:
            network = IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))
    if network.prefixlen == 0 or (isinstance(network, IPv6Network) and "%" in text):
        raise ValueError("a network that does not contain every address")
    return network


def _parsed(text: str) -> Address | None:
    """Return the address, an IPv4 one that is mapped to IPv6 as IPv4; None for what is none."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _parsed_hop(text: str) -> Address | None:
    """Return the address of an entry, which some proxies write with a port or in brackets."""
    if len(text) > _LONGEST_HOP or "%" in text:  # the text of a zone could be anything
        return None
    found = _WITH_PORT.fullmatch(text)
    return _parsed(text if found is None else found[1] or found[2])
