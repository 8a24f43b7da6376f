"""The listening socket serves both families of addresses, or IPv4 where there is no other."""

from __future__ import annotations

import errno
import socket

import pytest

from ojs_cluster.server.config.load import load
from ojs_cluster.server.embedded.ports import can_bind
from ojs_cluster.server.http.listener import open_listener

ELSEWHERE = {"OJS_ALLOW_INSECURE_NO_AUTH": "true", "REDIS_URL": "redis://r"}


def default_host() -> str:
    return load(ELSEWHERE).listen.host


def reaches(listener: socket.socket, host: str) -> bool:
    try:
        socket.create_connection((host, listener.getsockname()[1]), timeout=60).close()
    except OSError:
        return False
    return True


def test_the_default_address_takes_clients_of_both_families() -> None:
    with open_listener(default_host(), 0, 16, 60) as listener:
        assert reaches(listener, "127.0.0.1")
        if can_bind("::1", 0):
            assert reaches(listener, "::1")


@pytest.mark.parametrize("missing", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_a_kernel_without_ipv6_serves_the_default_address_over_ipv4(
    monkeypatch: pytest.MonkeyPatch, missing: int
) -> None:
    made = socket.socket

    def without_ipv6(family: int = -1, *arguments: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(missing, "no IPv6 here")
        return made(family, *arguments)

    monkeypatch.setattr(socket, "socket", without_ipv6)
    with open_listener(default_host(), 0, 16, 60) as listener:
        assert listener.family == socket.AF_INET
        assert reaches(listener, "127.0.0.1")
    # An address that was asked for is not replaced by another.
    with pytest.raises(OSError, match="no IPv6 here"):
        open_listener("::1", 0, 16, 60)


def test_a_name_listens_on_the_first_of_its_addresses_that_the_machine_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolve = socket.getaddrinfo

    def several(host: str, port: int, **options: int) -> list[object]:
        assert host == "jobs.example.com"
        addresses = ("192.0.2.1", "127.0.0.1", "127.0.0.2")
        return [entry for each in addresses for entry in resolve(each, port, **options)]

    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", several)
        listener = open_listener("jobs.example.com", 0, 16, 60)
        with listener:
            assert listener.getsockname()[0] == "127.0.0.1"
            # One in use is not replaced: clients would reach the other program.
            with pytest.raises(OSError, match="in use"):
                open_listener("jobs.example.com", listener.getsockname()[1], 16, 60)
