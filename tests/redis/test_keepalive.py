"""Idle connections: probes that keep a gateway's entry, and that find a peer that is gone."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys

import pytest
import trio

from ojs_cluster.redis import Address, keepalive
from ojs_cluster.redis.transport import UNACKNOWLEDGED_S, PlainTransport, open_transport
from ojs_cluster.server.http.listener import open_listener

TCP = socket.IPPROTO_TCP
linux = pytest.mark.skipif(sys.platform != "linux", reason="options of Linux")


def options(sock: socket.socket) -> dict[str, int]:
    """What the kernel says of a connection."""
    return {
        "on": sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
        "idle": sock.getsockopt(TCP, socket.TCP_KEEPIDLE),
        "interval": sock.getsockopt(TCP, socket.TCP_KEEPINTVL),
        "probes": sock.getsockopt(TCP, socket.TCP_KEEPCNT),
        "unacknowledged": sock.getsockopt(TCP, socket.TCP_USER_TIMEOUT),
    }


PROBED = {
    "on": 1,
    "idle": keepalive.IDLE_S,
    "interval": keepalive.INTERVAL_S,
    "probes": keepalive.PROBES,
}


def test_a_dead_peer_is_found_in_half_a_minute() -> None:
    assert keepalive.IDLE_S + keepalive.PROBES * keepalive.INTERVAL_S <= 30
    assert UNACKNOWLEDGED_S <= 30


@linux
async def test_connections_to_redis_send_probes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        transport = await open_transport(Address("127.0.0.1", server.getsockname()[1]), None)
        assert isinstance(transport, PlainTransport)
        seen = options(transport._sock)
        transport.close()
    assert seen == {**PROBED, "unacknowledged": UNACKNOWLEDGED_S * 1000}


@linux
async def test_accepted_connections_send_probes() -> None:
    listener = open_listener("127.0.0.1", 0, backlog=5, write_timeout_s=7.0)
    with listener, socket.create_connection(listener.getsockname()):
        await trio.lowlevel.wait_readable(listener)
        accepted, _ = listener.accept()
        with accepted:
            seen = options(accepted)
    assert seen == {**PROBED, "unacknowledged": 7000}


BLACK_HOLE = """
import socket, subprocess, trio
from ojs_cluster.redis import Address, keepalive, transport

keepalive.IDLE_S = keepalive.INTERVAL_S = keepalive.PROBES = 1
transport.UNACKNOWLEDGED_S = 2.0

def switch(state):
    subprocess.run(["ip", "link", "set", "lo", state], check=True)

async def main():
    switch("up")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = Address("127.0.0.1", server.getsockname()[1])
        connection = await transport.open_transport(address, None)
        accepted, _ = server.accept()
        switch("down")  # from now on every packet is lost, without a notice to either end
        with trio.fail_after(90):
            try:
                print("received", await connection.receive())
            except OSError as error:
                print("found dead:", type(error).__name__)

trio.run(main)
"""


@linux
def test_an_idle_connection_whose_packets_are_lost_is_found_dead() -> None:
    """In a network namespace of its own, whose only link is cut."""
    alone = ["unshare", "--user", "--map-root-user", "--net"]
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("no unshare or ip on this machine")
    if subprocess.run([*alone, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no network namespaces on this machine")
    done = subprocess.run(
        [*alone, sys.executable, "-c", BLACK_HOLE], check=False, capture_output=True, text=True
    )
    assert done.stdout == "found dead: TimeoutError\n", done.stderr
