"""Which URLs and addresses webhooks may reach."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.webhooks.addresses import (
    RefusedAddress,
    check_addresses,
    check_literal,
    parse_url,
)

REFUSED = (
    *("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255"),
    *("192.168.1.1", "169.254.169.254", "100.64.0.1", "192.0.0.8", "192.0.2.1", "198.18.0.1"),
    *("198.51.100.7", "203.0.113.9", "224.0.0.1", "239.255.255.255", "240.0.0.1"),
    *("255.255.255.255", "192.88.99.1"),
    *("::", "::1", "fe80::1", "fe80::1%eth0", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1"),
    *("2001:db8::1", "3fff::1", "5f00::1", "100::1", "4000::1"),
    *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:0:10.0.0.1"),  # mapped, translated
    *("::127.0.0.1", "::10.0.0.1"),  # compatible
    *("2002:7f00:1::", "2002:a9fe:a9fe::1", "2002:c0a8:101::"),  # 6to4
    *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808"),  # NAT64
    *("2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:20::1"),  # Teredo, ORCHID
    *("", "x", "127.1", "0x7f000001"),
)
PUBLIC = (
    *("8.8.8.8", "1.1.1.1", "172.15.0.1", "172.32.0.1", "100.63.0.1", "100.128.0.1", "223.1.1.1"),
    *("2606:4700:4700::1111", "2a00:1450::1", "::ffff:8.8.8.8", "64:ff9b::808:808"),
    *("2002:808:808::1",),
)


@pytest.mark.parametrize("address", REFUSED)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    with pytest.raises(RefusedAddress) as caught:
        check_addresses([address], ())
    assert not address or address == "x" or address not in str(caught.value)
    with pytest.raises(RefusedAddress):
        check_addresses(["8.8.8.8", address], ())  # one of several is enough


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_accepted(address: str) -> None:
    check_addresses([address], ())


def test_an_operator_opens_networks() -> None:
    allowed = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
    check_addresses(["10.9.9.9", "fd12::1", "::ffff:10.1.1.1", "8.8.8.8"], allowed)
    check_addresses(["::1"], (ip_network("::1/128"),))
    for address in ("127.0.0.1", "fc00::1", "::ffff:127.0.0.1", "fd12::1%lo"):
        with pytest.raises(RefusedAddress):
            check_addresses([address], allowed)


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "ftp://a.example/", "//a.example", "https://", "https:///x", "javascript:alert"),
        *("https://user@a.example/", "https://u:p@a.example/", "https://a.example:0/"),
        *(
            "https://a.example:99999/",
            "https://a.example:x/",
            "https://[::1",
            "https://[fe80::1%25x]/",
        ),
        *(
            "https://a.example/\r\nX: y",
            "https://a.example/ x",
            "https://ä.example/",
            "https://a\\b/",
        ),
        "https://a.example/" + "x" * 2048,
    ],
)
def test_a_url_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_url(text, allow_http=True)
    assert caught.value.field == "url"


def test_http_needs_the_operator() -> None:
    with pytest.raises(InvalidRequest, match="OJS_WEBHOOK_ALLOW_HTTP"):
        parse_url("http://a.example/", allow_http=False)
    assert parse_url("http://a.example/", allow_http=True).port == 80


def test_the_parts_of_a_url() -> None:
    url = parse_url("https://A.example:8443/p%20q?x=1&y#f", allow_http=False)
    assert (url.secure, url.host, url.port) == (True, "a.example", 8443)
    assert (url.authority, url.target) == ("a.example:8443", "/p%20q?x=1&y")
    six = parse_url("https://[2001:DB8::1]", allow_http=False)
    assert (six.host, six.authority, six.target) == ("2001:db8::1", "[2001:db8::1]", "/")


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.1", "2130706433", "0x7f.1", "017700000001", "0", "169.254.169.254"),
        *("[::1]", "[::ffff:10.0.0.1]", "[64:ff9b::7f00:1]"),
    ],
)
def test_every_spelling_of_an_address_is_checked_at_creation(host: str) -> None:
    url = parse_url(f"https://{host}/", allow_http=False)
    with pytest.raises(InvalidRequest, match="not public"):
        check_literal(url, ())


def test_a_name_is_checked_at_delivery_and_not_at_creation() -> None:
    check_literal(parse_url("https://localhost/", allow_http=False), ())
