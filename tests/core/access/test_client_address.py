"""The address of a client behind proxies: a client cannot choose it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ojs_cluster.core.access.client_address import MAX_HOPS, TrustedProxies, parse_network

PROXIES = TrustedProxies(
    parse_network(text) for text in ("10.0.0.0/8", "192.0.2.7", "fd00::/8", "::ffff:172.16.0.0/108")
)


@pytest.mark.parametrize(
    ("peer", "header", "client"),
    [
        # A client that is no trusted proxy may write any text.
        ("203.0.113.9", None, "203.0.113.9"),
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),
        ("203.0.113.9", "10.0.0.1", "203.0.113.9"),
        ("2001:db8::1", "198.51.100.1", "2001:db8::1"),
        # A trusted proxy tells who connected to it; what stands further left came from there.
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "198.51.100.1, 203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "127.0.0.1,10.0.0.9, 203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "198.51.100.1, 203.0.113.9, 10.2.3.4, 192.0.2.7", "203.0.113.9"),
        ("192.0.2.7", "203.0.113.9", "203.0.113.9"),
        ("192.0.2.8", "203.0.113.9", "192.0.2.8"),
        # All are trusted: the first of them.
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        # Empty elements of a list mean nothing (RFC 9110 5.6.1).
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", ", 203.0.113.9 ,,\t", "203.0.113.9"),
        # IPv6, mapped IPv4, ports, brackets, zones.
        ("fd00::1", "2001:DB8:0:0::9", "2001:db8::9"),
        ("::ffff:10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "::ffff:203.0.113.9", "203.0.113.9"),
        ("172.16.5.5", "203.0.113.9", "203.0.113.9"),
        ("::ffff:203.0.113.9", "198.51.100.1", "203.0.113.9"),
        ("10.0.0.1", "203.0.113.9:4711", "203.0.113.9"),
        ("10.0.0.1", "[2001:db8::9]:443", "2001:db8::9"),
        ("10.0.0.1", "[2001:db8::9]", "2001:db8::9"),
        ("10.0.0.1", "[10.0.0.2]:80, 10.0.0.3:80", "10.0.0.2"),
        ("fe80::1%eth0", "203.0.113.9", "fe80::1"),
        # What is no address ends the walk at the proxy that gave it.
        ("10.0.0.1", "203.0.113.9, unknown", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9, _hidden, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", "203.0.113.9, 10.0.0.2%\n", "10.0.0.1"),
        ("10.0.0.1", "fe80::1%203.0.113.9", "10.0.0.1"),
        ("10.0.0.1", "010.0.0.2", "10.0.0.1"),
        ("10.0.0.1", "10.2", "10.0.0.1"),
        ("10.0.0.1", "0x0a000002", "10.0.0.1"),
        ("10.0.0.1", "167772162", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9:123456", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9:", "10.0.0.1"),
        ("10.0.0.1", "[203.0.113.9", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9 10.0.0.2", "10.0.0.1"),
        ("10.0.0.1", '"203.0.113.9"', "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9\N{SUPERSCRIPT TWO}", "10.0.0.1"),
        ("10.0.0.1", "1" * 60_000, "10.0.0.1"),
        # A connection that is gone has no peer.
        ("", "203.0.113.9", ""),
        ("somewhere", "203.0.113.9", ""),
    ],
)
def test_the_client_is_the_first_address_from_the_right_that_is_not_trusted(
    peer: str, header: str | None, client: str
) -> None:
    assert PROXIES.client_of(peer, header) == client


def test_without_trusted_proxies_no_header_counts() -> None:
    assert TrustedProxies().client_of("127.0.0.1", "203.0.113.9") == "127.0.0.1"
    assert TrustedProxies().client_of("::1", "203.0.113.9") == "::1"


def test_a_bounded_number_of_entries_is_read() -> None:
    hops = ["203.0.113.9", *["10.0.0.2"] * (MAX_HOPS - 1)]
    assert PROXIES.client_of("10.0.0.1", ",".join(hops)) == "203.0.113.9"
    hops.append("10.0.0.2")
    assert PROXIES.client_of("10.0.0.1", ",".join(hops)) == "10.0.0.2"
    assert PROXIES.client_of("10.0.0.1", "," * 60_000) == "10.0.0.1"


@given(st.text(max_size=200), st.sampled_from(["203.0.113.9", "2001:db8::9"]))
def test_nothing_to_the_left_of_the_clients_own_entry_changes_who_it_is(
    written: str, client: str
) -> None:
    """A client writes the header itself; the proxy appends the address of its client."""
    assert PROXIES.client_of("10.0.0.1", f"{written}, {client}") == client
    assert PROXIES.client_of(client, written) == client


@given(st.text(max_size=80))
def test_the_result_is_an_address_whatever_the_header_says(written: str) -> None:
    found = PROXIES.client_of("10.0.0.1", written)
    assert set(found) <= set("0123456789abcdef:.")


@pytest.mark.parametrize(
    "text", ["10.0.0.1/8", "10.0.0", "0.0.0.0/0", "::/0", "::ffff:0:0/96", "fe80::1%x", "proxy", ""]
)
def test_an_invalid_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the caller says what is accepted
        parse_network(text)


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("192.0.2.7", "192.0.2.7/32"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("fd00::/8", "fd00::/8"),
        ("::ffff:172.16.0.0/108", "172.16.0.0/12"),
        ("::ffff:172.16.0.1", "172.16.0.1/32"),
    ],
)
def test_addresses_and_blocks_are_networks(text: str, network: str) -> None:
    assert str(parse_network(text)) == network


def test_a_trusted_address_is_recognized_in_every_spelling() -> None:
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "fd00::1", "fd00::1%eth0"):
        assert PROXIES.trusts(address)
    for address in ("11.1.2.3", "", "x", "fe80::1"):
        assert not PROXIES.trusts(address)
