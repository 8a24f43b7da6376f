"""The operations guide is true: its commands run, on an installation that is in use."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ojs_cluster.server.config.all_variables import VARIABLES
from tests.operations.guide import DOCS, blocks_of, call, shell
from tests.support.deployment import Deployment
from tests.support.invariants import await_invariants
from tests.support.servers import own_server

GUIDE = (DOCS / "operations.md").read_text()
BLOCKS = blocks_of("operations.md")
MOVES = [block for block in BLOCKS if "rebalance" in block]


def test_every_variable_that_the_guide_names_exists() -> None:
    known = {variable.name for variable in VARIABLES}
    named = set(re.findall(r"`(OJS_[A-Z_]+)(?:=[^`]*)?`", GUIDE))

    assert len(named) > 10
    assert named <= known


def test_every_metric_that_the_guide_names_is_in_the_list_of_metrics() -> None:
    listed = (DOCS / "metrics.md").read_text()
    named = {name for name in re.findall(r"\bojs_[a-z_]+", GUIDE) if name != "ojs_cluster"}

    assert len(named) > 5
    assert {name for name in named if f"`{name}`" not in listed} == set()


def test_an_operator_gets_through_every_command(
    installation: Deployment, env: dict[str, str], tmp_path: Path
) -> None:
    enqueue(installation.url, 50)
    body = {"queues": ["q7"], "worker_id": "hangs"}
    hung = call(installation.url, "POST", "/workers/fetch", body)["jobs"][0]["id"]
    env |= {"JOB": hung, "WORKER": "hangs"}
    # Of another day: what is named by a pattern would be both.
    (tmp_path / "backup-2001-01-01.jsonl").write_text("not a backup\n")

    for block in BLOCKS:
        if "NEW" not in block:
            shell(block, tmp_path, env)

    found = call(installation.url, "GET", f"/jobs/{hung}")["job"]
    assert found["errors"][-1]["type"] == "run_cancelled"


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
    call(url, "POST", "/jobs/batch", {"jobs": jobs})
