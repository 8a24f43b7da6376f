"""The deployments that are killed piece by piece, and steps that the tests share."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.kill.rounds import ROUNDS, USUAL
from tests.support.deployment import TOPOLOGIES, Deployment, Topology, deploy, unavailable
from tests.support.servers import wait_until

ENV = {"OJS_SCHEDULER_LEASE": "2s", "OJS_HEARTBEAT_INTERVAL_MS": "500"}
"""Short times, so that a round is short; the rules are the same at any length."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kill_round" in metafunc.fixturenames:
        marks = [pytest.mark.soak] if ROUNDS > USUAL else []
        rounds = [pytest.param(number, marks=marks) for number in range(1, ROUNDS + 1)]
        metafunc.parametrize("kill_round", rounds)


def _deployed(
    tmp_path_factory: pytest.TempPathFactory, name: str, topology: Topology, node_timeout_ms: int
) -> Iterator[Deployment]:
    if missing := unavailable("valkey-cluster"):
        pytest.skip(missing)
    directory = tmp_path_factory.mktemp(name)
    with deploy(directory, topology, env=ENV, node_timeout_ms=node_timeout_ms) as running:
        yield running


@pytest.fixture(scope="session")
def three_masters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Three masters without replicas: nothing may be lost, whatever else dies."""
    yield from _deployed(tmp_path_factory, "kill", TOPOLOGIES["valkey-cluster"], 5000)


@pytest.fixture(scope="session")
def with_replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Three masters with a replica each."""
    servers = TOPOLOGIES["valkey-cluster"].servers
    topology = Topology(servers, "valkey", masters=3, replicas=1)
    yield from _deployed(tmp_path_factory, "failover", topology, 1000)


@pytest.fixture
def deployment(three_masters: Deployment) -> Deployment:
    """Three masters, two nodes of two processes, two schedulers, and no job."""
    _reset(three_masters)
    return three_masters


@pytest.fixture
def replicated(with_replicas: Deployment) -> Deployment:
    """The same with a replica for each master, all of them in sync."""
    _reset(with_replicas)
    return with_replicas


def _reset(running: Deployment) -> None:
    # A process that was killed a moment ago may still be opening its store, and then says so.
    def done() -> bool:
        answer = httpx.post(f"{running.url}/ojs/v1/admin/reset", timeout=10)
        return answer.status_code == 200

    wait_until(done, what="the deployment is empty")
