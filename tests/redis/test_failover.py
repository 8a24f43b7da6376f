"""Nodes that die, hang, load, or are note_demoted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import trio
from redis.backoff import NoBackoff
from redis.retry import Retry

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.redis import Client, ClientSettings, open_client
from ojs_cluster.server.embedded.servers import Embedded, EmbeddedNode
from tests.redis.helpers import client_of, eventually, in_thread, key_on, slot_of
from tests.support.servers import own_server, wait_until

NODE_TIMEOUT_MS = 5000
MARGIN_S = 20.0
"""What callers may need after the cluster has recovered, however busy the machine is."""


NOTHING_UNWRITTEN = {"appendfsync": "always"}
"""Else a write that waits for the disk, behind an fsync in progress, is lost by SIGKILL."""


@pytest.fixture
def replicated(tmp_path: Path) -> Iterator[Embedded]:
    """Three masters with a replica each, to be killed."""
    with own_server(tmp_path, replicas=1, node_timeout_ms=NODE_TIMEOUT_MS) as servers:
        yield servers


async def cluster_recovered(survivors: list[EmbeddedNode], lost: EmbeddedNode) -> None:
    """Wait until every survivor says ok and names another owner."""

    def recovered() -> bool:
        for node in survivors:
            try:
                with node.client(timeout_s=5) as observer:
                    info = observer.execute_command(  # type: ignore[no-untyped-call]
                        "CLUSTER", "INFO"
                    )
                    slots = observer.execute_command(  # type: ignore[no-untyped-call]
                        "CLUSTER", "SLOTS"
                    )
            except redis.RedisError:
                return False
            if "ok" not in str(info) or str(lost.port) in str(slots):
                return False
        return True

    with trio.fail_after(120):
        while not await in_thread(recovered):  # noqa: ASYNC110 - servers have no event for it
            await trio.sleep(0.02)


class Probe:
    """Writes one counter over and over, and remembers what it was told."""

    def __init__(self, client: Client, key: bytes) -> None:
        self.acknowledged = 0
        self.outcomes: list[str] = []
        self.last_value = 0
        self._client = client
        self._key = key

    async def run(self) -> None:
        slot = slot_of(self._key)
        while True:
            try:
                reply = await self._client.call(slot, b"INCR", self._key)
                assert isinstance(reply, int)
                self.last_value = reply
                self.acknowledged += 1
            except BackendUnavailable as error:
                self.outcomes.append(error.outcome)
            await trio.sleep(0.005)


@pytest.mark.parametrize("way", ["kill", "pause"])
async def test_callers_recover_by_themselves_after_the_clusters_failover(
    replicated: Embedded, way: str
) -> None:
    """A killed master refuses connections; a paused one keeps them and answers nothing."""
    victim = replicated.nodes[0]
    keys = [key_on(replicated, index, b"probe%d" % n) for n, index in enumerate((0, 0, 1, 2))]
    # A paused node is noticed by its silence, which others must not be taken for on a busy machine.
    silence_s = 10.0 if way == "pause" else 60.0
    async with (
        client_of(replicated, reply_timeout_s=silence_s, call_timeout_s=120.0) as client,
        client_of(replicated, reply_timeout_s=60.0, call_timeout_s=120.0) as patient,
        trio.open_nursery() as nursery,
    ):
        probes = [Probe(client if n < 2 else patient, key) for n, key in enumerate(keys)]
        for probe in probes:
            nursery.start_soon(probe.run)
        await eventually(lambda: all(probe.acknowledged > 20 for probe in probes))

        await in_thread(getattr(replicated, way), victim)
        survivors = [node for node in replicated.nodes if node is not victim]
        await cluster_recovered(survivors, victim)
        # By now redis-py sees the new master; callers need no failover of their own.
        # Each succeeds twice: the first time may be the answer to what was sent before the loss.
        before = [probe.acknowledged for probe in probes]
        await eventually(
            lambda: all(p.acknowledged >= b + 2 for p, b in zip(probes, before, strict=True)),
            timeout_s=MARGIN_S + (silence_s if way == "pause" else 0),
            what="every caller succeeds again",
        )
        # Only calls in flight at that moment may be in doubt: one per probe of that node.
        assert [len(probe.outcomes) for probe in probes[2:]] == [0, 0]
        assert all(probe.outcomes in ([], ["unknown"]) for probe in probes[:2])
        assert client.healthy or way == "pause"
        nursery.cancel_scope.cancel()
        if way == "pause":
            replicated.resume(victim)

    for probe in probes:
        assert probe.last_value <= probe.acknowledged + len(probe.outcomes)


async def test_master_without_replica_fails_only_its_slots_and_comes_back(tmp_path: Path) -> None:
    with own_server(
        tmp_path, node_timeout_ms=5000, append_only=True, config=NOTHING_UNWRITTEN
    ) as servers:
        lost, kept = key_on(servers, 0), key_on(servers, 1)
        async with (
            client_of(servers, call_timeout_s=120) as client,
            client_of(servers, call_timeout_s=3.0) as hasty,
        ):
            await client.call(slot_of(lost), b"SET", lost, 1)
            await in_thread(servers.kill, servers.nodes[0])

            await eventually(
                lambda: not (client.healthy or hasty.healthy), what="the loss was noticed"
            )
            with pytest.raises(BackendUnavailable) as caught:
                await hasty.call(slot_of(lost), b"INCR", lost)
            assert caught.value.outcome == "not_applied"
            assert await client.call(slot_of(kept), b"SET", kept, 1) == b"OK"

            # A process that starts now serves what can be served.
            async with client_of(servers, call_timeout_s=120) as second:
                assert not second.healthy
                assert await second.call(slot_of(kept), b"GET", kept) == b"1"

                await in_thread(servers.restart, servers.nodes[0])
                # The restarted node says CLUSTERDOWN for a while: callers only wait.
                assert await second.call(slot_of(lost), b"INCR", lost) == 2
            await eventually(lambda: client.healthy and hasty.healthy)


async def test_whole_cluster_restart_is_survived(tmp_path: Path) -> None:
    with own_server(tmp_path, append_only=True, config=NOTHING_UNWRITTEN) as servers:
        key = key_on(servers, 1)
        async with client_of(servers, call_timeout_s=120) as client:
            await client.call(slot_of(key), b"SET", key, b"kept")
            for node in servers.nodes:
                await in_thread(servers.kill, node)
            await eventually(lambda: not client.healthy)

            async with trio.open_nursery() as nursery:
                replies: list[object] = []

                async def read() -> None:
                    replies.append(await client.call(slot_of(key), b"GET", key))

                nursery.start_soon(read)
                for node in servers.nodes:
                    await in_thread(servers.restart, node)
            assert replies == [b"kept"]
            await eventually(lambda: client.healthy)


def is_loading(node: EmbeddedNode) -> bool:
    """Whether the node answers, and says that it is still reading its data."""
    # redis-py would retry both errors for longer than the loading takes.
    with redis.Redis(port=node.port, retry=Retry(NoBackoff(), 0)) as observer:
        try:
            observer.get("k:1")
        except redis.BusyLoadingError:
            return True
        except redis.RedisError:
            pass  # not listening yet
        return False


def hurry(node: EmbeddedNode) -> None:
    """Let a loading node read the rest of its data without pauses."""
    with node.client() as observer:
        observer.config_set("key-load-delay", "0")


async def test_loading_server_is_waited_for(tmp_path: Path) -> None:
    with own_server(tmp_path, cluster=False, append_only=True) as server:
        node = server.nodes[0]
        with node.client() as observer:
            observer.mset({f"k:{n}": "v" for n in range(5000)})
            observer.bgrewriteaof()
            wait_until(lambda: observer.info("persistence")["aof_rewrite_in_progress"] == 0)
        # LOADING until the test shortens the delay; the server reads commands during that time.
        server.config["key-load-delay"] = "20000"  # microseconds per key
        server.config["loading-process-events-interval-bytes"] = "1024"
        async with client_of(server, call_timeout_s=120) as client:
            await in_thread(server.kill, node)

            async with trio.open_nursery() as nursery:
                replies: list[object] = []

                async def read() -> None:
                    replies.append(await client.call(0, b"GET", b"k:7"))

                nursery.start_soon(read)
                nursery.start_soon(in_thread, server.restart, node)
                await in_thread(wait_until, lambda: is_loading(node))
                assert replies == []
                await in_thread(hurry, node)
            assert replies == [b"v"]


async def test_demoted_standalone_server_is_waited_for(tmp_path: Path) -> None:
    with own_server(tmp_path, cluster=False) as server, server.nodes[0].client() as observer:
        async with client_of(server, call_timeout_s=120) as client:
            await in_thread(observer.replicaof, "127.0.0.1", "1")
            async with trio.open_nursery() as nursery:
                replies: list[object] = []

                async def write() -> None:
                    replies.append(await client.call(0, b"INCR", b"n"))

                nursery.start_soon(write)
                await trio.sleep(0.2)
                assert replies == [], "READONLY was handled as an answer"
                await in_thread(observer.replicaof, "NO", "ONE")
            assert replies == [1]


async def test_of_two_standalone_servers_the_master_is_used(tmp_path: Path) -> None:
    with (
        own_server(tmp_path / "a", cluster=False) as first,
        own_server(tmp_path / "b", cluster=False) as second,
        second.nodes[0].client() as replica,
    ):
        replica.replicaof("127.0.0.1", str(first.nodes[0].port))
        url = f"redis://{second.nodes[0].address},{first.nodes[0].address}"
        async with open_client(ClientSettings.from_url(url)) as client:
            assert client.topology.masters[0].port == first.nodes[0].port
            await client.call(0, b"SET", b"k", 1)

            await in_thread(first.kill, first.nodes[0])
            await in_thread(replica.replicaof, "NO", "ONE")
            await eventually(
                lambda: client.healthy and client.topology.masters[0].port == second.nodes[0].port
            )
            assert await client.call(0, b"SET", b"k", 2) == b"OK"
            assert client.topology.masters[0].port == second.nodes[0].port
