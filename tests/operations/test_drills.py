"""The blocks of the guide for an incident or a change have the effect that it promises."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from pathlib import Path

import httpx

from ojs_cluster.core.jobs.ids import shard_of
from ojs_cluster.server.embedded.servers import Embedded
from tests.operations.guide import KEY, block_with, blocks_of, call, shell
from tests.support.deployment import Deployment
from tests.support.nodes import ApiNode
from tests.support.servers import own_server, wait_until

NEW_MASTER = {"cluster-require-full-coverage": "no", "maxmemory-policy": "noeviction"}


def test_a_new_master_gets_the_settings_of_the_others(
    installation: Deployment, env: dict[str, str], tmp_path: Path
) -> None:
    block = block_with("operations.md", 'config set "$setting"')
    with (
        own_server(tmp_path / "new", cluster=False) as new,
        new.nodes[0].client() as client,
        installation.backend.nodes[0].client() as old,
    ):
        client.config_set("cluster-require-full-coverage", "yes")
        old.config_set("cluster-node-timeout", 14_000)
        shell(block, tmp_path, env | {"NEW": f"127.0.0.1:{new.nodes[0].port}"})
        found = {name: client.config_get(name)[name] for name in NEW_MASTER}
        timeout = client.config_get("cluster-node-timeout")["cluster-node-timeout"]
        old.config_set("cluster-node-timeout", 15_000)
    assert found == NEW_MASTER
    assert timeout == "14000"


def test_a_full_redis_gets_more_memory(
    installation: Deployment, env: dict[str, str], tmp_path: Path
) -> None:
    job = {"type": "t", "args": []}
    for master in installation.backend.masters():
        with master.client() as client:
            client.config_set("maxmemory", 1)
    headers = {"Authorization": f"Bearer {KEY}"}
    url = f"{installation.url}/ojs/v1/jobs"
    answer = httpx.post(url, json=job, headers=headers, timeout=60)
    assert answer.status_code == 503
    assert answer.json()["error"]["details"]["outcome"] == "not_applied"

    shell(block_with("operations.md", "config set maxmemory"), tmp_path, env)

    call(installation.url, "POST", "/jobs", job)


def test_the_backlog_of_a_hot_queue_is_fetched_beside_the_new_jobs(
    installation: Deployment, env: dict[str, str], tmp_path: Path
) -> None:
    url = installation.url

    def enqueue(count: int) -> set[str]:
        jobs = [{"type": "t", "args": [], "options": {"queue": "hot"}}] * count
        return {job["id"] for job in call(url, "POST", "/jobs/batch", {"jobs": jobs})["jobs"]}

    old = enqueue(30)
    shell(block_with("operations.md", '"partitions": 12'), tmp_path, env)
    new: set[str] = set()

    def is_spread() -> bool:
        new.update(enqueue(2))
        return len(shards_of(new)) > 1

    wait_until(is_spread, what="new jobs are in other shards")
    assert len(shards_of(old)) == 1
    body = {"queues": ["hot"], "worker_id": "w", "count": 50}
    fetched: set[str] = set()
    while jobs := call(url, "POST", "/workers/fetch", body)["jobs"]:
        fetched.update(job["id"] for job in jobs)
    assert fetched == old | new


def shards_of(job_ids: set[str]) -> set[int]:
    return {shard_of(job_id, 64) for job_id in job_ids}


def test_a_client_changes_its_key_without_a_refusal(standalone: Embedded, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    tools = Path(sys.executable).parent
    env = {"PATH": f"{tools}:{os.environ['PATH']}", "OJS_API_KEYS_FILE": str(keys)}
    first = shell("ojs-cluster key new --name mailer --preset producer", tmp_path, env)
    keys.write_text(first)
    node = ApiNode(
        "node",
        tmp_path,
        standalone.url,
        workers=1,
        env={"OJS_API_KEYS_FILE": str(keys), "OJS_ALLOW_INSECURE_NO_AUTH": "false"},
    )
    with contextlib.ExitStack() as stack:
        stack.callback(node.stop)
        node.start()

        def status(secret: str) -> int:
            body = {"type": "t", "args": []}
            headers = {"Authorization": f"Bearer {secret}"}
            return httpx.post(f"{node.url}/ojs/v1/jobs", json=body, headers=headers).status_code

        old = secret_in(first)
        assert status(old) == 201
        shell(block_with("security.md", "keys.next"), tmp_path, env)
        new = secret_in((tmp_path / "new-key.toml").read_text())
        assert (tmp_path / "new-key.toml").stat().st_mode & 0o777 == 0o600
        assert new not in keys.read_text()
        wait_until(lambda: status(new) == 201, what="the new key is accepted")
        assert status(old) == 201

        keys.write_text(keys.read_text().replace(first, ""))
        wait_until(lambda: status(old) == 401, what="the old key is refused")
        assert status(new) == 201


def secret_in(printed: str) -> str:
    (secret,) = re.findall(r"^# (ojs_\S+)$", printed, re.MULTILINE)
    return str(secret)


def test_an_installation_moves_from_one_redis_to_a_cluster(
    installation: Deployment, env: dict[str, str], tmp_path: Path
) -> None:
    """The new cluster has data, so that the page also holds when the import runs again."""
    with (
        own_server(tmp_path / "old", cluster=False) as old,
        contextlib.ExitStack() as stack,
    ):
        keys = {"OJS_API_KEY": KEY, "OJS_ALLOW_INSECURE_NO_AUTH": "false"}
        node = ApiNode("old", tmp_path, old.url, workers=1, env=keys)
        stack.callback(node.stop)
        node.start()
        jobs = [{"type": "t", "args": [n], "options": {"queue": f"q{n}"}} for n in range(20)]
        made = call(node.url, "POST", "/jobs/batch", {"jobs": jobs})["jobs"]
        moved = {
            "OJS": node.url,
            "REDIS_URL": old.url,
            "OTHER_REDIS_URL": installation.backend.url,
        }
        for block in blocks_of("standalone-to-cluster.md"):
            shell(block, tmp_path, env | moved)
        refused = httpx.post(
            f"{node.url}/ojs/v1/jobs",
            json=jobs[0],
            headers={"Authorization": f"Bearer {KEY}"},
        )
        assert refused.status_code == 503
    for job in made:
        found = call(installation.url, "GET", f"/jobs/{job['id']}")["job"]
        assert (found["state"], found["args"]) == ("available", job["args"])
    call(installation.url, "POST", "/jobs", jobs[0])
