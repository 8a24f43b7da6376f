"""The deployments for the kill tests, and shared steps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import httpx
import pytest

from tests.kill.rounds import ROUNDS, USUAL
from tests.support.deployment import TOPOLOGIES, Deployment, Topology, deploy, unavailable
from tests.support.nodes import Environment
from tests.support.servers import wait_until

ENV = {"OJS_SCHEDULER_LEASE": "2s", "OJS_HEARTBEAT_INTERVAL_MS": "500"}
"""Short times, so that a round is short. The rules do not depend on them."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marks = [pytest.mark.soak] if ROUNDS > USUAL else []
    # A round of the second kind takes one failover longer, so only soak tests repeat it.
    for name, count in (("kill_round", ROUNDS), ("sure_round", ROUNDS if marks else 1)):
        if name in metafunc.fixturenames:
            rounds = [pytest.param(number, marks=marks) for number in range(1, count + 1)]
            metafunc.parametrize(name, rounds)


# Deployments end with their file: many idle processes would cost the rest of a run more than a new
# start for each file.


def _deployed(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    topology: Topology,
    node_timeout_ms: int,
    env: Environment = ENV,
) -> Iterator[Deployment]:
    if missing := unavailable("valkey-cluster"):
        pytest.skip(missing)
    directory = tmp_path_factory.mktemp(name)
    with deploy(directory, topology, env=env, node_timeout_ms=node_timeout_ms) as running:
        yield running


@pytest.fixture(scope="module")
def three_masters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Three masters without replicas: nothing may be lost if any other process dies."""
    yield from _deployed(tmp_path_factory, "kill", TOPOLOGIES["valkey-cluster"], 5000)


@pytest.fixture(scope="module")
def with_replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Three masters with a replica each."""
    yield from _deployed(tmp_path_factory, "failover", _replicated_topology(), 5000)


@pytest.fixture(scope="module")
def with_sure_replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Three masters with a replica each, and writes acknowledged only after replication."""
    # Writes stay unconfirmed after a failover until the killed node is back. The clients of the
    # test repeat such requests. A shorter wait lets them do so more often.
    env = {**ENV, "OJS_DURABILITY": "replica", "OJS_DURABILITY_TIMEOUT": "300ms"}
    yield from _deployed(tmp_path_factory, "durable", _replicated_topology(), 5000, env)


def _replicated_topology() -> Topology:
    return Topology(TOPOLOGIES["valkey-cluster"].servers, "valkey", masters=3, replicas=1)


@pytest.fixture
def deployment(three_masters: Deployment) -> Deployment:
    """Return three masters, two nodes of two processes and two schedulers, without jobs."""
    empty(three_masters.url)
    return three_masters


@pytest.fixture
def replicated(with_replicas: Deployment) -> Deployment:
    """Return the same with a replica for each master, all of them in sync."""
    empty(with_replicas.url)
    return with_replicas


@pytest.fixture
def surely_replicated(with_sure_replicas: Deployment) -> Deployment:
    """Return ``replicated`` with OJS_DURABILITY=replica."""
    empty(with_sure_replicas.url)
    return with_sure_replicas


def empty(url: str) -> None:
    """Delete all data of a deployment."""

    # A process that has just been restarted may still be opening its store.
    def done() -> bool:
        with contextlib.suppress(httpx.TransportError):
            answer = httpx.post(f"{url}/ojs/v1/admin/reset", timeout=30)
            return answer.status_code == 200
        return False

    wait_until(done, what="the deployment is empty")
