"""Find the address of a client behind trusted proxies.

Every proxy appends the address of its own client to ``X-Forwarded-For``. The sender of the request
may have written the leftmost entries, so they prove nothing. The search begins with the peer of the
connection and continues with the entries from right to left. While an address belongs to a trusted
proxy, the next entry is trustworthy. The first address that belongs to no trusted proxy is the
address of the client.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from ojs_cluster.core.config.parsers import words

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_HOPS: Final = 32
"""Maximum number of entries of ``X-Forwarded-For`` that are read, from the right."""
_MAX_NETWORKS: Final = 100
_MAX_HOP_LENGTH: Final = 64
"""Maximum number of characters of an entry. The longest address with a port has 53."""
_MAPPED_BITS: Final = 96
"""Number of bits before the IPv4 address in an IPv4-mapped IPv6 address."""
_WITH_PORT: Final = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?|([0-9.]+):[0-9]{1,5}")


class TrustedProxies:
    """The proxies whose ``X-Forwarded-For`` is trusted."""

    __slots__ = ("_networks",)

    def __init__(self, networks: Iterable[Network] = ()) -> None:
        """Trust proxies with an address in one of the networks."""
        self._networks = tuple(networks)

    def trusts(self, address: str) -> bool:
        """Return whether this is the address of a trusted proxy."""
        if not self._networks:
            return False
        found = _parse_address(address.partition("%")[0])
        return found is not None and self._is_trusted(found)

    def forwarded(self, peer: str, value: str | None) -> str:
        """Return the first value of a forwarding header, empty if no trusted proxy has sent it.

        Args:
            peer: the address of the other end of the connection; empty if unknown.
            value: the header's value, repeated headers joined by commas; None for none.
        """
        if not value or not self.trusts(peer):
            return ""
        return value.partition(",")[0].strip()

    def client_of(self, peer: str, forwarded_for: str | None) -> str:
        """Return the address of the client of a request, in its shortest spelling.

        The search ends at an entry that is not an address, or after ``MAX_HOPS`` entries. Then the
        client is the last proxy that it has found. The result is always an address or empty, so it
        is safe to log.

        Args:
            peer: the address of the other end of the connection; empty if unknown.
            forwarded_for: the header's value, repeated headers joined by commas; None for none.
        """
        client = _parse_address(peer.partition("%")[0])  # without the zone of a link-local address
        if client is None:
            return ""
        if forwarded_for is None or not self._is_trusted(client):
            return str(client)
        hops = forwarded_for.rsplit(",", MAX_HOPS)[-MAX_HOPS:]
        for hop in reversed(hops):
            text = hop.strip(" \t")
            if not text:
                continue
            found = _parse_hop(text)
            if found is None:
                break
            client = found
            if not self._is_trusted(client):
                break
        return str(client)

    def _is_trusted(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


def networks(text: str) -> tuple[Network, ...]:
    """Accept comma separated addresses and CIDR blocks."""
    try:
        found = tuple(parse_network(word) for word in words(text))
    except ValueError:
        found = ()
    if not 0 < len(found) <= _MAX_NETWORKS:
        raise ValueError(
            f"at most {_MAX_NETWORKS} addresses or networks such as 10.0.0.0/8, 192.0.2.7 or "
            "fd00::/8, none of which contains every address"
        )
    return found


def parse_network(text: str) -> Network:
    """Return the network that an address or a CIDR block names.

    An IPv4 network in IPv6 notation (``::ffff:10.0.0.0/104``) becomes an IPv4 network. Addresses
    are treated in the same way.

    Raises:
        ValueError: the text is neither, has bits beyond its prefix, or contains every address.
    """
    network = ip_network(text)
    if isinstance(network, IPv6Network):
        mapped = network.network_address.ipv4_mapped
        if mapped is not None and network.prefixlen >= _MAPPED_BITS:
            network = IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))
    if network.prefixlen == 0 or (isinstance(network, IPv6Network) and "%" in text):
        raise ValueError("a network that does not contain every address")
    return network


def _parse_address(text: str) -> Address | None:
    """Return an address, None for other text. An IPv4-mapped IPv6 address becomes IPv4."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _parse_hop(text: str) -> Address | None:
    """Return the address of an entry. Some proxies add a port or write brackets."""
    if len(text) > _MAX_HOP_LENGTH or "%" in text:  # a zone may contain any text
        return None
    found = _WITH_PORT.fullmatch(text)
    return _parse_address(text if found is None else found[1] or found[2])
