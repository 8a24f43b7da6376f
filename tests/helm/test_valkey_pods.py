"""A pod of the bundled cluster: its server, its probes, its end, and what restarts it."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from ojs_cluster.server.embedded.ports import reserve_any
from ojs_cluster.server.embedded.servers import ServerBinary
from ojs_cluster.server.supervision.process_spawner import spawn
from tests.helm.chart import CHART, Chart, Rendering
from tests.helm.valkey_pods import CLI, PATIENCE_S, SHELL, pods
from tests.support.servers import wait_until

VALUES = CHART / "ci" / "bundled-cluster-values.yaml"
NEXT_RELEASE = [
    ("Chart.yaml", "\nversion: ", "\nversion: 9"),
    ("Chart.yaml", '\nappVersion: "', '\nappVersion: "9'),
]
DOWNWARD = {"POD_IP": "127.0.0.1", "POD_NAME": "jobs-ojs-cluster-valkey-4", "NODE_NAME": "host.a"}
"""What Kubernetes tells a container of its pod, by the names that the chart gives."""
QUOTED = 'a "quoted" one, with \\ and \\n and $HOME'


def scripts(rendering: Rendering) -> dict[str, str]:
    found: dict[str, str] = rendering.one("ConfigMap", "-valkey")["data"]
    return found


def template(rendering: Rendering) -> dict[str, Any]:
    found: dict[str, Any] = rendering.one("StatefulSet", "-valkey")["spec"]["template"]
    return found


def server(rendering: Rendering) -> dict[str, Any]:
    """The container of the server itself."""
    (found,) = (c for c in template(rendering)["spec"]["containers"] if c["name"] == "valkey")
    return dict(found)


class Started:
    """A server that the rendered script has started, with commands beside it."""

    def __init__(self, rendering: Rendering, folder: Path, port: int, password: str) -> None:
        self.folder = folder
        self.port = port
        self.password = password
        self._rendering = rendering

    def client(self) -> redis.Redis:
        password = self.password or None
        return redis.Redis("127.0.0.1", self.port, password=password, decode_responses=True)

    def answers(self) -> bool:
        with contextlib.suppress(redis.ConnectionError), self.client() as client:
            return bool(client.ping())
        return False

    def probe(self, name: str) -> subprocess.CompletedProcess[str]:
        """Run one of the rendered probes."""
        program, *options, script = server(self._rendering)[name]["exec"]["command"]
        assert program == "sh"
        local = self.folder / Path(script).name
        local.write_text(scripts(self._rendering)[local.name])
        return subprocess.run(
            [SHELL, *options, str(local)],
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def environment(self) -> dict[str, str]:
        secret = {"OJS_REDIS_PASSWORD": self.password} if self.password else {}
        return {"PATH": f"{self.folder / 'bin'}:/usr/bin:/bin", **DOWNWARD, **secret}


@contextlib.contextmanager
def started(chart: Chart, binary: ServerBinary, folder: Path, password: str) -> Iterator[Started]:
    """Run the script of a pod, with the programs of the image on their own ports."""
    rendering = chart.render(VALUES, sets={"valkey.maxmemory": "100mb"})
    script = scripts(rendering)["start.sh"].replace(" /tmp/", f" {folder}/")
    (folder / "start.sh").write_text(script.replace("dir /data", f"dir {folder}"))
    with contextlib.ExitStack() as stack:
        port, bus = reserve_any(), reserve_any()
        stack.callback(port.release)
        stack.callback(bus.release)
        programs = {
            "valkey-server": f'{binary.path} "$@" --port {port.port} --cluster-port {bus.port}',
            "valkey-cli": f'{CLI} -p {port.port} "$@"',
        }
        (folder / "bin").mkdir()
        for name, command in programs.items():
            program = folder / "bin" / name
            program.write_text(f"#!/bin/sh\nexec {command}\n")
            program.chmod(0o755)
        here = Started(rendering, folder, port.port, password)
        process = spawn(
            [SHELL, str(folder / "start.sh")],
            output=folder / "server.log",
            env=here.environment(),
        )
        stack.callback(process.wait)
        stack.callback(process.kill)

        def answered() -> bool:
            assert process.poll() is None, (folder / "server.log").read_text()
            return here.answers()

        wait_until(answered, timeout_s=PATIENCE_S, what="the server accepts the password")
        yield here


def test_a_pod_starts_a_server_that_keeps_jobs(
    chart: Chart, server_binary: ServerBinary, tmp_path: Path
) -> None:
    rendering = chart.render(VALUES)
    nodes = rendering.one("ConfigMap", "-valkey")["data"]["nodes"].splitlines()
    assert nodes[:2] == ["masters 3", "replicas 1"]
    name = nodes[2 + 4].removeprefix("node ").removesuffix(":6379")
    fields = {each["name"]: each["valueFrom"] for each in server(rendering)["env"]}
    assert fields.keys() >= DOWNWARD.keys()
    with started(chart, server_binary, tmp_path, QUOTED) as here, here.client() as client:
        wanted = {
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory": str(100 * 1024 * 1024),
            "maxmemory-policy": "noeviction",
            "hash-max-listpack-value": "1024",
            "cluster-enabled": "yes",
            "cluster-announce-ip": "127.0.0.1",
            # The other nodes see by these names which pod a node is, and on which host.
            "cluster-announce-hostname": name,
            "cluster-announce-human-nodename": "host.a",
            "masterauth": QUOTED,
        }
        assert {name: client.config_get(name)[name] for name in wanted} == wanted


@pytest.mark.skipif(CLI is None, reason="needs valkey-cli or redis-cli")
@pytest.mark.parametrize("password", ["", QUOTED], ids=["open", "password"])
def test_probes_distinguish_a_live_node_from_one_with_a_role(
    chart: Chart, server_binary: ServerBinary, tmp_path: Path, password: str
) -> None:
    with started(chart, server_binary, tmp_path, password) as here:
        alive = here.probe("startupProbe")
        assert (alive.returncode, alive.stderr) == (0, "")
        assert here.probe("readinessProbe").returncode != 0
        with here.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        wait_until(
            lambda: here.probe("readinessProbe").returncode == 0,
            timeout_s=PATIENCE_S,
            what="it is ready with its slots",
        )
        assert here.probe("readinessProbe").stderr == ""
        with here.client() as client:
            client.execute_command("CONFIG", "SET", "requirepass", "another")
        assert here.probe("startupProbe").returncode != 0
        assert here.probe("readinessProbe").returncode != 0


def test_the_first_process_of_every_container_ends_on_sigterm(chart: Chart, tmp_path: Path) -> None:
    # The server and Valkey handle the signal. A container's first process ignores a signal without
    # a handler; here such a process would end.
    rendering = chart.render(VALUES)
    programs = tmp_path / "bin"
    programs.mkdir()
    asks = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1]))).recv(1)"
    (programs / "valkey-cli").write_text(f'#!/bin/sh\nexec {sys.executable} -c "{asks}" "$5"\n')
    (programs / "valkey-cli").chmod(0o755)
    hook = rendering.one("ConfigMap", "-test")["data"]
    (tmp_path / "meet.sh").write_text(scripts(rendering)["meet.sh"])
    for name in ("valkey_cluster.py", "valkey_nodes.py", "valkey_slots.py"):
        (tmp_path / name).write_text(scripts(rendering)[name])
    (tmp_path / "hook.py").write_text(hook["lifecycle.py"])
    with contextlib.ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        silent.settimeout(60)
        where = f"127.0.0.1:{silent.getsockname()[1]}"
        commands = {
            "meet": [SHELL, str(tmp_path / "meet.sh"), f"{where}@1", "nodes", where],
            "form": [sys.executable, str(tmp_path / "valkey_cluster.py"), where, "1"],
            "hook": [sys.executable, str(tmp_path / "hook.py")],
        }
        env = {"PATH": f"{programs}:/usr/bin:/bin", "OJS_URL": f"http://{where}"}
        for name, command in commands.items():
            process = spawn(command, output=tmp_path / f"{name}.log", env=env)
            stack.callback(process.wait)
            stack.callback(process.kill)
            stack.enter_context(silent.accept()[0])  # it asks, and waits for the answer
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) in (0, 128 + signal.SIGTERM), name


def test_nodes_that_do_not_answer_are_asked_at_the_same_time(chart: Chart, tmp_path: Path) -> None:
    # When all pods restart, most addresses in DNS lead nowhere. Here no question is ever given up.
    files = scripts(chart.render(VALUES))
    for name in ("meet.sh", "meet.awk"):
        (tmp_path / name).write_text(files[name])
    asks = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1]))).recv(1)"
    asks = f'exec {sys.executable} -c "{asks}" "$5"'
    programs = {
        "timeout": 'shift; exec "$@"',
        "valkey-cli": f'case "$*" in *nodes) echo me - myself, ;; *) {asks} ;; esac',
    }
    (tmp_path / "bin").mkdir()
    for name, command in programs.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{command}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(5)]
        any_pod, *pods_ = [f"127.0.0.1:{each.getsockname()[1]}" for each in silent]
        (tmp_path / "nodes").write_text(
            "replicas 1\n" + "".join(f"node {each}\n" for each in pods_)
        )
        process = spawn(
            [SHELL, str(tmp_path / "meet.sh"), "here:1@1", str(tmp_path / "nodes"), any_pod],
            output=tmp_path / "meet.log",
            env={"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"},
        )
        stack.callback(process.wait)
        stack.callback(process.terminate)
        for each in silent:
            each.settimeout(PATIENCE_S)
            stack.enter_context(each.accept()[0])


def test_a_hanging_process_does_not_hide_the_new_node_of_its_pod(
    chart: Chart, tmp_path: Path
) -> None:
    # A stopped process accepts connections: its row stays "connected" behind that of the new node.
    files = scripts(chart.render(VALUES))
    for name in ("meet.sh", "meet.awk"):
        (tmp_path / name).write_text(files[name])
    (tmp_path / "nodes").write_text("replicas 1\nnode pod-0:1\nnode pod-1:2\n")
    rows = (
        ("0", "here:1@1,pod-0", "myself,master", "connected"),
        ("1", "new:2@2,pod-1", "master", "connected"),
        ("2", "hung:3@3,pod-1", "master,fail?", "connected"),
    )
    report = "\n".join(
        f"{digit * 40} {place} {flags} - 0 0 0 {link}" for digit, place, flags, link in rows
    )
    (tmp_path / "bin").mkdir()
    (tmp_path / "report").write_text(f"{report}\n")
    (tmp_path / "bin" / "valkey-cli").write_text(
        f'#!/bin/sh\necho "$3:$5" >>{tmp_path}/asked\ncat {tmp_path}/report\n'
    )
    (tmp_path / "bin" / "valkey-cli").chmod(0o755)
    asked_places = tmp_path / "asked"
    with contextlib.ExitStack() as stack:
        process = spawn(
            [SHELL, str(tmp_path / "meet.sh"), "here:1@1", str(tmp_path / "nodes"), "any:4"],
            output=tmp_path / "meet.log",
            env={"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"},
        )
        stack.callback(process.wait)
        stack.callback(process.terminate)
        wait_until(
            lambda: asked_places.exists() and asked_places.read_text().count("here:1") > 4,
            timeout_s=PATIENCE_S,
            what="several checks",
        )
    assert "new:2" in asked_places.read_text()
    assert "hung:3" not in asked_places.read_text()


def test_an_upgrade_does_not_change_the_decisions_of_a_running_sidecar(
    chart: Chart, tmp_path: Path
) -> None:
    # The kubelet replaces the mounted files before the pod restarts.
    (tmp_path / "meet.sh").write_text(scripts(chart.render(VALUES))["meet.sh"])
    (tmp_path / "meet.awk").write_text('END { print "missing"; print "meet before:1" }')
    (tmp_path / "nodes").write_text("replicas 1\nnode pod-0:1\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "valkey-cli").write_text("#!/bin/sh\necho me - myself,\n")
    (tmp_path / "bin" / "valkey-cli").chmod(0o755)
    log = tmp_path / "meet.log"

    def await_actions(count: int) -> list[str]:
        def found() -> list[str]:
            return [line for line in log.read_text().splitlines() if line.startswith("meet ")]

        wait_until(lambda: len(found()) >= count, timeout_s=PATIENCE_S, what=f"{count} actions")
        return found()

    with contextlib.ExitStack() as stack:
        process = spawn(
            [SHELL, str(tmp_path / "meet.sh"), "here:1@1", str(tmp_path / "nodes"), "any:1"],
            output=log,
            env={"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"},
        )
        stack.callback(process.wait)
        stack.callback(process.terminate)
        so_far = len(await_actions(1))
        (tmp_path / "meet.awk").write_text('END { print "missing"; print "meet after:1" }')
        assert {line.split(":")[0] for line in await_actions(so_far + 3)} == {"meet before"}


def test_probes_ask_the_scripts_and_wait_for_a_server_that_loads(chart: Chart) -> None:
    rendering = chart.render(VALUES)
    probes = server(rendering)
    assert probes["startupProbe"]["exec"]["command"] == ["sh", "/scripts/ping.sh"]
    assert probes["readinessProbe"]["exec"]["command"] == ["sh", "-e", "/scripts/ready.sh"]
    # A restart does not repair a server that is busy or not part of the cluster.
    assert probes["livenessProbe"]["tcpSocket"] == {"port": "redis"}
    start = probes["startupProbe"]
    assert start["periodSeconds"] * start["failureThreshold"] >= 600
    assert {"name": "scripts", "mountPath": "/scripts", "readOnly": True} in probes["volumeMounts"]
    assert scripts(rendering).keys() >= {"start.sh", "ping.sh", "ready.sh", "meet.sh"}


def test_nodes_are_found_before_they_are_ready(chart: Chart) -> None:
    # They are ready only in a cluster, and form one by these names.
    rendering = chart.render(VALUES)
    service = rendering.one("Service", "-valkey")["spec"]
    assert service["clusterIP"] == "None"
    assert service["publishNotReadyAddresses"] is True
    # The Service without an address per pod has one that DNS may answer for as long as it likes.
    any_pod = rendering.one("Service", "-valkey-meet")["spec"]
    assert "clusterIP" not in any_pod
    assert (any_pod["publishNotReadyAddresses"], any_pod["selector"]) == (True, service["selector"])
    nodes = rendering.one("StatefulSet", "-valkey")
    assert nodes["spec"]["serviceName"] == rendering.one("Service", "-valkey")["metadata"]["name"]
    assert nodes["spec"]["podManagementPolicy"] == "Parallel"


def test_another_version_of_the_server_restarts_no_node(chart: Chart, tmp_path: Path) -> None:
    other = chart.copied(tmp_path / "chart", *NEXT_RELEASE)
    before, after = (each.render(VALUES) for each in (chart, other))
    assert before.api["spec"]["template"] != after.api["spec"]["template"]
    assert template(before) == template(after)
    assert template(
        chart.render(VALUES, sets={"image.tag": "9", "image.pullPolicy": "Always"})
    ) == (template(before))
    images = {each["image"] for each in template(before)["spec"]["containers"]}
    assert images == {"valkey/valkey:8.1"}


@pytest.mark.parametrize(
    "change",
    [
        ("templates/_valkey.tpl", "appendfsync everysec", "appendfsync always"),
        ("files/valkey_meet.sh", "period=5", "period=6"),
        ("files/valkey_meet.awk", "+ 2 <= count", "+ 3 <= count"),
    ],
    ids=["start.sh", "meet.sh", "meet.awk"],
)
def test_what_a_node_reads_at_its_start_restarts_it_when_it_changes(
    chart: Chart, tmp_path: Path, change: tuple[str, str, str]
) -> None:
    other = chart.copied(tmp_path / "chart", change)
    assert scripts(chart.render(VALUES)) != scripts(other.render(VALUES))
    assert template(chart.render(VALUES)) != template(other.render(VALUES))


@pytest.mark.parametrize("name", ["valkey.masters", "valkey.replicasPerMaster"])
def test_more_nodes_restart_no_node(chart: Chart, name: str) -> None:
    before, after = chart.render(VALUES), chart.render(VALUES, sets={name: 5})
    assert scripts(before)["nodes"] != scripts(after)["nodes"]
    assert template(before) == template(after)


@pytest.mark.parametrize("name", ["valkey.maxmemory", "redis.password"])
def test_a_changed_value_restarts_nodes(chart: Chart, name: str) -> None:
    value = {"valkey.maxmemory": "200mb", "redis.password": "another"}[name]
    assert template(chart.render(VALUES)) != template(chart.render(VALUES, sets={name: value}))


def asked(client: redis.Redis) -> int:
    """Return how often sidecars asked a node about the cluster."""
    stats: dict[str, dict[str, int]] = client.info("commandstats")
    return stats.get("cmdstat_cluster|info", {"calls": 0})["calls"]


@pytest.mark.skipif(CLI is None, reason="needs valkey-cli or redis-cli")
def test_a_name_of_another_release_joins_no_clusters(
    chart: Chart, server_binary: ServerBinary, tmp_path: Path
) -> None:
    # DNS is late, and the address of a removed pod belongs to another release now.
    with (
        pods(chart.render(VALUES), server_binary, tmp_path / "own", count=1) as one,
        pods(chart.render(VALUES), server_binary, tmp_path / "other", count=1) as another,
    ):
        another.end_sidecars()
        (stranger,) = another.all
        with stranger.node.client() as client:
            client.config_set("cluster-announce-hostname", "else-valkey-1.else-valkey")
            client.config_resetstat()
            names = tmp_path / "own" / "names"
            own = (tmp_path / "own" / "nodes").read_text()
            names.write_text(f"{own}node jobs-ojs-cluster-valkey-1.jobs:{stranger.node.port}\n")
            names.rename(tmp_path / "own" / "nodes")
            wait_until(
                lambda: asked(client) > 3,
                timeout_s=PATIENCE_S,
                what="the sidecar asked it, more than once",
            )
        assert len(stranger.rows()) == 1
        assert len(one.all[0].rows()) == 1
