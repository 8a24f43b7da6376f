"""Decide which URLs and addresses webhooks may reach.

A client chooses the URL of a webhook, and the server sends the request from inside the operator's
network. So a webhook must not reach the metadata service of a cloud, Redis, or the operator's other
services. A name is resolved once for each attempt. If one of its addresses is not public, the
attempt fails. The connection goes to a checked address, so a name whose address changes after the
check (DNS rebinding) is harmless. Redirects are not followed, because they could lead to any
address.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

from ojs_cluster.core.access.client_address import Address, Network
from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.outgoing.url import HttpUrl, parse_http_url

# The IANA registries of special-purpose addresses. ``Address.is_global`` was refused: its answer
# depends on the version of Python, and it accepts multicast and the NAT64 prefix for local use.
_NOT_PUBLIC_4: Final = tuple(
    ip_network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
        *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16"),
        *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
    )
)
_PUBLIC_6: Final = ip_network("2000::/3")
"""The only IPv6 addresses that IANA has allocated for global unicast."""
_NOT_PUBLIC_6: Final = tuple(
    ip_network(text) for text in ("2001::/23", "2001:db8::/32", "3fff::/20", "5f00::/16")
)
"""Networks in ``_PUBLIC_6`` that are not public. 2001::/23 includes Teredo (RFC 4380), whose
addresses contain IPv4 addresses."""
_EMBEDDING: Final = tuple(
    (ip_network(network), shift)
    for network, shift in (
        ("::ffff:0:0/96", 0),  # mapped
        ("::ffff:0:0:0/96", 0),  # translated
        ("64:ff9b::/96", 0),  # NAT64
        ("2002::/16", 80),  # 6to4
        ("::/96", 0),  # compatible, deprecated
    )
)
"""IPv6 networks whose addresses contain an IPv4 address, and the number of bits after it."""


class RefusedAddress(OSError):
    """The host has an address that webhooks must not reach."""


def parse_url(text: str, *, allow_http: bool) -> HttpUrl:
    """Return the parts of the URL of a webhook.

    Args:
        text: the URL.
        allow_http: whether it may begin with ``http://``.

    Raises:
        InvalidRequest: it is not a URL to which webhooks are sent.
    """
    try:
        url = parse_http_url(text)
    except ValueError as problem:
        raise InvalidRequest(f"url {problem}", field="url") from None
    if not url.secure and not allow_http:
        raise InvalidRequest(
            "url must begin with https://; OJS_WEBHOOK_ALLOW_HTTP=true also accepts http://",
            field="url",
        )
    return url


def check_literal(url: HttpUrl, allowed: Iterable[Network]) -> None:
    """Check a host that is an address. A name is checked at each delivery instead.

    Every spelling of an address that the resolver of the machine accepts is checked, such as
    ``127.1``.

    Raises:
        InvalidRequest: webhooks must not reach the address.
    """
    try:
        found = socket.getaddrinfo(url.host, url.port, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return
    try:
        check_addresses([str(entry[4][0]) for entry in found], allowed)
    except RefusedAddress as error:
        raise InvalidRequest(
            f"url: {error}; OJS_WEBHOOK_ALLOW_CIDRS opens networks", field="url"
        ) from None


def check_addresses(addresses: Sequence[str], allowed: Iterable[Network]) -> None:
    """Check all addresses of a host.

    Raises:
        RefusedAddress: webhooks must not reach one of them. The message does not contain the
            address, because clients must not learn addresses of the operator's network.
    """
    allowed = tuple(allowed)
    for text in addresses:
        address = _plain(text)
        if address is None or not (
            any(address in network for network in allowed) or is_public(address)
        ):
            raise RefusedAddress("the host has an address that is not public")


def is_public(address: Address) -> bool:
    """Return whether an address is public. It must not contain another address."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_4)
    return address in _PUBLIC_6 and not any(address in network for network in _NOT_PUBLIC_6)


def _plain(text: str) -> Address | None:
    """Return an address, or the IPv4 address inside it; None for anything else."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return None
        for network, shift in _EMBEDDING:
            # ``::`` and ``::1`` are in ``::/96``, but contain no IPv4 address.
            if address in network and int(address) > 1:
                return IPv4Address(int(address) >> shift & 0xFFFFFFFF)
    return address
