"""docker-compose.yml without Docker: its form, and the parts of it that run anywhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from ojs_cluster.server.variables import VARIABLES
from tests.helm.test_pods import failover_s, longest_poll_s
from tests.image.dockerfile import read_stages
from tests.support.servers import own_server, wait_until

ROOT = Path(__file__).parent.parent.parent
FILE = ROOT / "docker-compose.yml"
COMPOSE: Any = YAML(typ="safe").load(FILE)
SERVICES: Any = COMPOSE["services"]
VALKEYS = [name for name in SERVICES if name.startswith("valkey-")]
CLI = shutil.which("valkey-cli") or shutil.which("redis-cli")
HAPROXY = shutil.which("haproxy")


def interpolated(text: str, **values: str) -> str:
    """A text as compose gives it to a container: ${NAME:-default} and $$ replaced."""
    text = re.sub(r"(?<!\$)\$\{(\w+):-([^}]*)\}", lambda m: values.get(m[1], m[2]), text)
    return text.replace("$$", "$")


def test_the_file_follows_the_compose_schema() -> None:
    done = subprocess.run(
        [
            Path(sys.executable).parent / "check-jsonschema",
            *("--builtin-schema", "vendor.compose-spec", FILE),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_it_is_the_installation_that_the_readme_draws() -> None:
    assert len(VALKEYS) == 6
    assert SERVICES["api"]["deploy"]["replicas"] == 2
    assert SERVICES["scheduler"]["deploy"]["replicas"] == 2
    assert SERVICES["scheduler"]["command"] == ["scheduler"]
    assert list(COMPOSE["volumes"]) == VALKEYS
    addresses = [SERVICES[name]["networks"]["ojs"]["ipv4_address"] for name in VALKEYS]
    joined = SERVICES["cluster-init"]["environment"]["NODES"].split()
    assert [f"{address}:6379" for address in addresses] == joined


def test_jobs_are_kept_on_disk_and_never_evicted() -> None:
    for name in VALKEYS:
        command = SERVICES[name]["command"]
        for option in (
            "--cluster-enabled yes",
            "--appendonly yes",
            "--appendfsync everysec",
            "--maxmemory-policy noeviction",
            "--hash-max-listpack-value 1024",
        ):
            assert option in command
        assert SERVICES[name]["volumes"] == [f"{name}:/data"]


def test_nothing_may_write_or_gain_rights_and_only_the_proxy_is_published() -> None:
    for name, service in SERVICES.items():
        assert ("ports" in service) == (name == "haproxy"), name
        if name != "cluster-init":
            assert service["read_only"] is True, name
            assert service["cap_drop"] == ["ALL"], name
            assert service["security_opt"] == ["no-new-privileges:true"], name
    assert SERVICES["haproxy"]["ports"] == ["${OJS_PUBLISH:-127.0.0.1:8080}:8080"]
    assert SERVICES["api"]["environment"]["OJS_API_KEY"].startswith("${OJS_API_KEY:?")


def test_every_variable_is_one_that_the_server_knows() -> None:
    known = {variable.name for variable in VARIABLES}

    assert SERVICES["api"]["environment"].keys() <= known
    assert SERVICES["scheduler"]["environment"].keys() <= known


def test_containers_are_given_longer_to_stop_than_they_need() -> None:
    default = {variable.name: variable.default for variable in VARIABLES}
    delay = int(SERVICES["api"]["environment"]["OJS_SHUTDOWN_DELAY"].removesuffix("s"))
    drain = int(default["OJS_SHUTDOWN_TIMEOUT"].removesuffix("s"))

    assert int(SERVICES["api"]["stop_grace_period"].removesuffix("s")) > delay + drain
    port = SERVICES["scheduler"]["environment"]["OJS_SCHEDULER_PORT"]
    assert f":{port}/health" in SERVICES["scheduler"]["healthcheck"]["test"][-1]
    assert "serve" in read_stages((ROOT / "Dockerfile").read_text())[-1].last("CMD")


def test_the_proxy_waits_longer_than_a_long_poll_and_repeats_nothing_that_was_sent() -> None:
    content = COMPOSE["configs"]["haproxy"]["content"]
    timeouts = dict(re.findall(r"^ *timeout (\S+) (\d+)s$", content, re.MULTILINE))
    assert min(int(timeouts["server"]), int(timeouts["client"])) > longest_poll_s()
    assert re.findall(r"^ *retry-on (.*)$", content, re.MULTILINE) == ["conn-failure"]


def checks() -> tuple[int, int]:
    """Seconds between two checks of a node, and how many of them take it out."""
    content = COMPOSE["configs"]["haproxy"]["content"]
    ((inter, fall),) = re.findall(r"\bcheck inter (\d+)s fall (\d+)\b", content)
    return int(inter), int(fall)


def test_the_proxy_keeps_its_nodes_while_a_master_is_replaced() -> None:
    # No node is ready meanwhile: one lost master would take all shards away.
    (timeout_ms,) = {
        re.search(r"--cluster-node-timeout (\d+)", SERVICES[name]["command"])[1]  # type: ignore[index]
        for name in VALKEYS
    }
    inter_s, fall = checks()
    assert inter_s * (fall - 1) > failover_s(int(timeout_ms) / 1000)
    assert "option httpchk GET /ready" in COMPOSE["configs"]["haproxy"]["content"]


def test_a_node_that_drains_serves_until_the_proxy_has_taken_it_out() -> None:
    delay_s = int(SERVICES["api"]["environment"]["OJS_SHUTDOWN_DELAY"].removesuffix("s"))
    inter_s, fall = checks()
    assert delay_s > inter_s * fall


@pytest.mark.skipif(CLI is None, reason="needs valkey-cli or redis-cli")
def test_the_join_script_makes_a_cluster_and_run_again_leaves_it(tmp_path: Path) -> None:
    [script] = SERVICES["cluster-init"]["command"]
    links = tmp_path / "bin"
    links.mkdir()
    (links / "valkey-cli").symlink_to(str(CLI))
    # Started as a cluster and taken apart: so the ports are known to be free, those of the bus too.
    with own_server(tmp_path / "nodes", masters=3, replicas=1) as servers:
        for node in servers.nodes:
            with node.client() as client:
                client.cluster("RESET", "HARD")
        addresses = [f"127.0.0.1:{node.port}" for node in servers.nodes]
        env = {"PATH": f"{links}:{os.environ['PATH']}", "NODES": " ".join(addresses)}

        def join() -> str:
            return subprocess.run(
                [*SERVICES["cluster-init"]["entrypoint"], interpolated(script)],
                env=env,
                check=True,
                capture_output=True,
                text=True,
                timeout=120,
            ).stdout

        def replicas() -> int:
            with servers.nodes[0].client() as client:
                nodes = client.cluster("nodes")
            return sum("slave" in node["flags"] for node in nodes.values())

        assert "slots" in join()
        wait_until(lambda: replicas() == 3, timeout_s=60, what="a replica for each master")
        assert join() == ""


@pytest.mark.skipif(HAPROXY is None, reason="needs haproxy")
def test_the_proxy_takes_its_configuration(tmp_path: Path) -> None:
    file = tmp_path / "haproxy.cfg"
    file.write_text(COMPOSE["configs"]["haproxy"]["content"])

    done = subprocess.run(
        [str(HAPROXY), "-c", "-f", file], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
