"""docker-compose.yml without Docker: its form, and the parts of it that run anywhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from ruamel.yaml import YAML

from ojs_cluster.core.access.client_address import TrustedProxies, networks
from ojs_cluster.server.config.all_variables import VARIABLES
from ojs_cluster.server.embedded.binaries import find_server
from ojs_cluster.server.embedded.servers import Embedded, EmbeddedNode
from tests.helm.test_pods import failover_s, longest_poll_s
from tests.image.dockerfile import read_stages
from tests.server.programs import free_port
from tests.support.servers import own_server, wait_until

ROOT = Path(__file__).parent.parent.parent
FILE = ROOT / "docker-compose.yml"
COMPOSE: Any = YAML(typ="safe").load(FILE)
SERVICES: Any = COMPOSE["services"]
PROXY = (ROOT / COMPOSE["configs"]["haproxy"]["file"]).read_text()
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
        (command,) = SERVICES[name]["command"]
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


def test_only_holders_of_the_password_reach_valkey(tmp_path: Path) -> None:
    """The script that starts each node runs here with the server of the tests."""
    links, password = tmp_path / "bin", "a long $HOME text"
    links.mkdir()
    (links / "valkey-server").symlink_to(find_server().path)
    port = free_port()
    (script,) = SERVICES[VALKEYS[0]]["command"]
    assert script.count("valkey-server -") == 1
    script = script.replace("valkey-server -", f"valkey-server - --port {port} --dir {tmp_path}")
    env = {"PATH": f"{links}:{os.environ['PATH']}", "REDISCLI_AUTH": password}
    command = [*SERVICES[VALKEYS[0]]["entrypoint"], interpolated(script)]
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL) as started:
        try:
            with (
                redis.Redis(port=port) as stranger,
                redis.Redis(port=port, password=password) as owner,
            ):
                wait_until(lambda: answers(owner), what="the server has started")
                with pytest.raises(redis.AuthenticationError):
                    stranger.ping()
                assert owner.config_get("masterauth") == {"masterauth": password}
            arguments = Path(f"/proc/{started.pid}/cmdline").read_bytes()
            assert password.encode() not in arguments
            assert b"valkey-server" in arguments, "the server gets the signals of Docker"
        finally:
            started.terminate()
    for name in ("api", "scheduler"):
        given = SERVICES[name]["environment"]["OJS_REDIS_PASSWORD"]
        assert given == SERVICES[VALKEYS[0]]["environment"]["REDISCLI_AUTH"]
        assert given.startswith("${VALKEY_PASSWORD:?")


def answers(client: redis.Redis) -> bool:
    """Return whether a server answers."""
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def test_compose_can_create_what_it_mounts_into_read_only_containers() -> None:
    """It refuses texts and variables there: only files can be mounted."""
    for kind in ("configs", "secrets"):
        assert all(set(each) == {"file"} for each in COMPOSE.get(kind, {}).values())


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
    content = PROXY
    timeouts = dict(re.findall(r"^ *timeout (\S+) (\d+)s$", content, re.MULTILINE))
    assert min(int(timeouts["server"]), int(timeouts["client"])) > longest_poll_s()
    assert re.findall(r"^ *retry-on (.*)$", content, re.MULTILINE) == ["conn-failure"]


def checks() -> tuple[int, int]:
    """Seconds between two checks of a node, and how many of them take it out."""
    content = PROXY
    ((inter, fall),) = re.findall(r"\bcheck inter (\d+)s fall (\d+)\b", content)
    return int(inter), int(fall)


def test_the_proxy_keeps_its_nodes_while_a_master_is_replaced() -> None:
    # No node is ready during that time: one lost master would stop all shards.
    (timeout_ms,) = {
        re.search(r"--cluster-node-timeout (\d+)", SERVICES[name]["command"][0])[1]  # type: ignore[index]
        for name in VALKEYS
    }
    inter_s, fall = checks()
    assert inter_s * (fall - 1) > failover_s(int(timeout_ms) / 1000)
    assert "option httpchk GET /ready" in PROXY


def test_the_audit_has_the_addresses_of_the_load_balancers_clients() -> None:
    """Docker may forward a client under the network's gateway, which must not vouch for anybody."""
    trusted = SERVICES["api"]["environment"]["OJS_TRUSTED_PROXIES"]
    assert trusted == SERVICES["haproxy"]["networks"]["ojs"]["ipv4_address"]
    assert "option forwardfor" in PROXY
    proxies = TrustedProxies(networks(interpolated(trusted)))
    assert proxies.client_of("10.87.0.10", "192.0.2.7, 10.87.0.1") == "10.87.0.1"


def test_a_node_that_drains_serves_until_the_proxy_has_taken_it_out() -> None:
    delay_s = int(SERVICES["api"]["environment"]["OJS_SHUTDOWN_DELAY"].removesuffix("s"))
    inter_s, fall = checks()
    assert delay_s > inter_s * fall


@dataclass
class Joined:
    """The six servers, and the join script for them."""

    servers: Embedded
    env: dict[str, str]

    def run(self) -> str:
        """Run the script, which must succeed; gives what it says."""
        [script] = SERVICES["cluster-init"]["command"]
        done = subprocess.run(
            [*SERVICES["cluster-init"]["entrypoint"], interpolated(script)],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def own(self, node: EmbeddedNode) -> list[str]:
        """What a node says of itself: its id, role, master and slots."""
        with node.client() as client:
            reply: bytes = client.execute_command("CLUSTER", "NODES")  # type: ignore[no-untyped-call]
        (line,) = (line for line in reply.decode().splitlines() if "myself" in line)
        id_, _, flags, master, _, _, _, _, *slots = line.split()
        return [id_, flags.removeprefix("myself,"), master, *slots]

    def check(self) -> None:
        """Three masters with equal shares, each with one replica."""
        parts = [self.own(node) for node in self.servers.nodes]
        masters = {id_: slots for id_, role, _, *slots in parts if role == "master"}
        assert sorted(masters.values()) == [["0-5460"], ["10922-16383"], ["5461-10921"]]
        assert sorted(master for _, role, master, *_ in parts if role == "slave") == sorted(masters)


@pytest.fixture
def six(tmp_path: Path) -> Iterator[Joined]:
    if CLI is None:
        pytest.skip("needs valkey-cli or redis-cli")
    links = tmp_path / "bin"
    links.mkdir()
    (links / "valkey-cli").symlink_to(str(CLI))
    # Started as a cluster and taken apart: so the ports are known to be free, those of the bus too.
    with own_server(tmp_path / "nodes", masters=3, replicas=1) as servers:
        for node in servers.nodes:
            command(node, "RESET", "HARD")
        addresses = [f"127.0.0.1:{node.port}" for node in servers.nodes]
        env = {"PATH": f"{links}:{os.environ['PATH']}", "NODES": " ".join(addresses)}
        yield Joined(servers, env)


def command(node: EmbeddedNode, *words: str | int) -> None:
    with node.client() as client:
        client.execute_command("CLUSTER", *words)  # type: ignore[no-untyped-call]


def test_the_join_script_makes_a_cluster_and_run_again_leaves_it(six: Joined) -> None:
    assert "slots 0 to 5460" in six.run()
    six.check()
    assert six.run() == ""
    six.check()


@pytest.mark.parametrize(
    "done", [("met",), ("slots",), ("one-range",), ("met", "slots", "replica")]
)
def test_a_join_that_ended_half_way_is_completed(six: Joined, done: tuple[str, ...]) -> None:
    first, second, third, *others = six.servers.nodes
    ranges = [(first, 0, 5460), (second, 5461, 10921), (third, 10922, 16383)]
    if "met" in done:
        for other in (second, third, *others):
            command(first, "MEET", "127.0.0.1", other.port, other.bus_port)
    if "slots" in done or "one-range" in done:
        for node, low, high in ranges if "slots" in done else ranges[1:2]:
            command(node, "ADDSLOTSRANGE", low, high)
    if "replica" in done:
        id_ = six.own(second)[0]
        wait_until(lambda: knows(others[0], id_), what="they have heard of each other")
        command(others[0], "REPLICATE", id_)

    six.run()

    six.check()
    assert six.run() == ""


def knows(node: EmbeddedNode, id_: str) -> bool:
    with node.client() as client:
        return id_ in str(client.cluster("nodes"))


def test_a_node_whose_volume_was_lost_is_joined_again(six: Joined) -> None:
    six.run()
    lost = next(node for node in six.servers.nodes if six.own(node)[1] == "slave")
    six.servers.kill(lost)
    shutil.rmtree(lost.directory)
    six.servers.restart(lost)

    assert f"127.0.0.1:{lost.port}: a replica of" in six.run()

    six.check()


@pytest.mark.skipif(HAPROXY is None, reason="needs haproxy")
def test_the_proxy_takes_its_configuration(tmp_path: Path) -> None:
    file = tmp_path / "haproxy.cfg"
    file.write_text(PROXY)

    done = subprocess.run(
        [str(HAPROXY), "-c", "-f", file], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
