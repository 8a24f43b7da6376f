"""The chart's pods as processes of this machine: rendered commands start, serve, and drain.

Commands, environment and probes are those of the rendering. Addresses are values (the cluster, the
port of each pod), so no variable is replaced. The tests do what Kubernetes does, in its order: the
successor of a pod becomes ready, the Service removes the pod while its ``preStop`` runs, then
SIGTERM, and SIGKILL at the end of the grace period.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from ojs_cluster.keys import Keyspace
from ojs_cluster.server.embedded.ports import PortReservation, reserve_any
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.server.supervision.process_spawner import spawn
from tests.helm.chart import CHART, Chart, Manifest, Rendering, container
from tests.helm.test_metrics import names, queries
from tests.server.test_serve import serve
from tests.support.certificates import Certificates
from tests.support.invariants import await_invariants, lost
from tests.support.load import eventually, running_load
from tests.support.proxy import InFlight, proxy
from tests.support.servers import observer, wait_until

HOST = "127.0.0.1"
VALUES = CHART / "ci" / "production-values.yaml"
PRE_STOP_S = 2
PATIENT: dict[str, Any] = {
    f"config.{name}": "30s" for name in ("OJS_REDIS_REPLY_TIMEOUT", "OJS_REDIS_CALL_TIMEOUT")
}
"""Long timeouts, so that a slow machine does not look like a failed request."""
PATIENCE_S = 120
AUTHORIZATION = {"Authorization": "Bearer the-former-key"}
BIN = Path(sys.executable).parent


def pre_stop_s(deployment: Manifest) -> int:
    """Return how long a pod waits before SIGTERM."""
    hook = container(deployment).get("lifecycle", {}).get("preStop", {})
    command = hook.get("exec", {}).get("command", ["sleep", "0"])
    assert command[0] == "sleep"
    return int(command[1])


@dataclass
class Pod:
    """The container of a rendered pod as a local process."""

    manifest: Manifest
    env: dict[str, str]
    log: Path
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start the container's command, with the rendered environment and nothing else."""
        program, *arguments = container(self.manifest)["command"]
        environment = {"PATH": os.environ["PATH"], **self.env}
        self._process = spawn([str(BIN / program), *arguments], output=self.log, env=environment)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "it was not started"
        return self._process

    @property
    def address(self) -> tuple[str, int]:
        (port,) = container(self.manifest)["ports"]
        return HOST, int(port["containerPort"])

    def passes(self, probe: str) -> bool:
        """Return whether a rendered HTTP probe succeeds now."""
        rendered = container(self.manifest)[probe]
        action = rendered["httpGet"]
        (port,) = (p for p in container(self.manifest)["ports"] if p["name"] == action["port"])
        url = f"http://{HOST}:{port['containerPort']}{action['path']}"
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(url, timeout=rendered["timeoutSeconds"]).is_success
        return False

    def await_ready(self) -> None:
        """Pass the startup probe, then the readiness probe."""
        for probe in ("startupProbe", "readinessProbe"):
            passes = partial(self._lives_and_passes, probe)
            wait_until(passes, timeout_s=PATIENCE_S, what=f"the {probe} of {self.log.stem}")

    def _lives_and_passes(self, probe: str) -> bool:
        code = self.process.poll()
        assert code is None, f"ended with {code}\n{self.log.read_text()[-3000:]}"
        return self.passes(probe)

    def end(self) -> int:
        """Send SIGTERM, then SIGKILL at the end of the grace period; return the exit code.

        Raises:
            AssertionError: it had to be killed.
        """
        spec = self.manifest["spec"]["template"]["spec"]
        grace_s = spec["terminationGracePeriodSeconds"]
        left_s = grace_s - pre_stop_s(self.manifest)
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(left_s)
        except subprocess.TimeoutExpired:
            text = self.log.read_text()[-3000:]
            raise AssertionError(f"{self.log.stem}: killed after {left_s} s\n{text}") from None

    def kill(self) -> None:
        """Kill the process and its children."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


class Node:
    """The role of Kubernetes: render, start and replace pods."""

    def __init__(self, chart: Chart, redis_url: str, directory: Path) -> None:
        self._chart = chart
        self._redis_url = redis_url
        self._directory = directory
        self._ports: list[PortReservation] = []
        self.pods: list[Pod] = []
        self.endpoints: list[tuple[str, int]] = []
        self.in_flight = InFlight()

    def render(self, component: str) -> Rendering:
        """Render with its own port for a component, because all pods share one address here."""
        reserved = reserve_any()
        self._ports.append(reserved)
        sets: dict[str, Any] = {
            "redis.url": self._redis_url,
            f"{component}.port": reserved.port,
            "api.drain.preStopSeconds": PRE_STOP_S,
            "config.OJS_HOST": HOST,
            **PATIENT,
        }
        return self._chart.render(VALUES, sets=sets)

    def start(self, component: str) -> Pod:
        """Start one more pod of a component."""
        rendering = self.render(component)
        manifest = getattr(rendering, component)
        log = self._directory / f"{component}-{len(self.pods)}.log"
        pod = Pod(manifest, rendering.environment(manifest), log)
        self.pods.append(pod)
        pod.start()
        return pod

    def replace_api(self, old: Pod) -> Pod:
        """One step of a rolling update: `maxSurge: 1`, `maxUnavailable: 0`."""
        new = self.start("api")
        new.await_ready()
        self.endpoints.append(new.address)
        wait_until(partial(old.passes, "livenessProbe"), timeout_s=PATIENCE_S, what="it lives")
        self.endpoints.remove(old.address)
        # The proxies remove the pod at once here. On a slow machine a delay could exceed `preStop`,
        # which is no fault of the pod.
        wait_until(
            lambda: self.in_flight.of(old.address) == 0,
            timeout_s=PATIENCE_S,
            what="requests that the proxy had sent are answered",
        )
        time.sleep(pre_stop_s(old.manifest))
        assert old.end() == 0
        return new

    def close(self) -> None:
        for pod in self.pods:
            pod.kill()
        for port in self._ports:
            port.release()


@contextlib.contextmanager
def node(chart: Chart, embedded: Embedded, directory: Path) -> Iterator[Node]:
    here = Node(chart, embedded.url, directory)
    try:
        yield here
    finally:
        here.close()


def leader(embedded: Embedded) -> int | None:
    """Return the process id of the leading scheduler."""
    with observer(embedded) as redis:
        held = redis.get(Keyspace(64).meta.leader("default"))
    return int(held.decode().split(":")[1]) if isinstance(held, bytes) else None


async def test_pods_are_replaced_under_load_without_a_failed_request(
    chart: Chart, cluster: Embedded, tmp_path: Path
) -> None:
    with node(chart, cluster, tmp_path) as here:
        apis = [here.start("api"), here.start("api")]
        for _ in range(2):
            here.start("scheduler")
        for pod in here.pods:
            pod.await_ready()
        for pod in apis:
            here.endpoints.append(pod.address)
        with proxy(tmp_path, here.endpoints, "python", here.in_flight) as url:
            async with running_load(
                url, producers=2, workers=3, headers=AUTHORIZATION, timeout_s=PATIENCE_S
            ) as load:
                await load.progress(20, PATIENCE_S)
                for pod in apis:
                    await trio.to_thread.run_sync(here.replace_api, pod)
                    await load.progress(20, PATIENCE_S)

                new = here.start("scheduler")
                await trio.to_thread.run_sync(new.await_ready)
                led = None
                with trio.fail_after(PATIENCE_S):
                    while led is None:
                        led = leader(cluster)
                        await trio.sleep(0.05)
                (old,) = (pod for pod in here.pods if pod.process.pid == led)
                assert await trio.to_thread.run_sync(old.end) == 0
                await eventually(
                    lambda: leader(cluster) not in (None, led),
                    timeout_s=PATIENCE_S,
                    what="another leads",
                )
                await load.progress(20, PATIENCE_S)
                await load.drain(PATIENCE_S)

    assert load.ledger.retried == [], "a request failed, and was repeated"
    assert load.ledger.violations == []
    report = await_invariants(cluster)
    assert lost(report, load.ledger.acknowledged) == set()


def test_processes_serve_the_metrics_that_prometheus_scrapes(
    chart: Chart, cluster: Embedded, tmp_path: Path
) -> None:
    with node(chart, cluster, tmp_path) as here:
        served: set[str] = set()
        for component in ("api", "scheduler"):
            pod = here.start(component)
            pod.await_ready()
            rendering = here.render(component)
            (endpoint,) = rendering.one("ServiceMonitor", f"-{component}")["spec"]["endpoints"]
            (port,) = container(pod.manifest)["ports"]
            assert port["name"] == endpoint["port"]
            url = "http://{}:{}".format(*pod.address) + endpoint["path"]
            assert httpx.get(url, timeout=PATIENCE_S).status_code == 401
            key = rendering.secret(endpoint["authorization"]["credentials"])
            headers = {"Authorization": f"Bearer {key}"}
            answer = httpx.get(url, headers=headers, timeout=PATIENCE_S)
            assert answer.status_code == 200
            served |= set(re.findall(r"^# TYPE (\w+)", answer.text, re.MULTILINE))
        assert "ojs_redis_up" in served
        for query in queries(rendering):
            assert names(query) <= served, f"no process serves all of {query}"


def test_a_backup_is_made_and_read_in_a_pod(
    chart: Chart, cluster: Embedded, tmp_path: Path
) -> None:
    guide = (CHART.parent.parent / "docs" / "operations.md").read_text()
    found = re.findall(r"\bkubectl exec (?:-i )?deployment/(\S+) -- (.*) [<>] ", guide)
    assert [command.split()[1] for _, command in found] == ["export", "import"]
    text = b""
    with node(chart, cluster, tmp_path) as here:
        for name, command in found:
            rendering = here.render("scheduler")
            env = rendering.environment(rendering.one("Deployment", name))
            program, argument = command.split()
            done = subprocess.run(
                [str(BIN / program), argument],
                env={"PATH": os.environ["PATH"], **env},
                input=text,
                capture_output=True,
                timeout=PATIENCE_S,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            text = done.stdout
            if argument == "export":
                assert all(json.loads(line) for line in text.splitlines())
                assert text


def test_the_hook_of_helm_test_runs_a_job_through_the_service(
    chart: Chart, cluster: Embedded, tmp_path: Path
) -> None:
    with node(chart, cluster, tmp_path) as here:
        api = here.start("api")
        api.await_ready()
        rendering = here.render("api")
        hook = rendering.one("Pod", "-test")
        (only,) = hook["spec"]["containers"]
        program, script = only["command"]
        assert program == "python"
        local = tmp_path / Path(script).name
        local.write_text(rendering.one("ConfigMap", "-test")["data"][local.name])
        (service,) = (entry["value"] for entry in only["env"] if entry["name"] == "OJS_URL")
        name = rendering.one("Service", "ojs-cluster")["metadata"]["name"]
        assert service == f"http://{name}.work.svc:80"
        done = subprocess.run(
            [sys.executable, str(local)],
            env={"OJS_URL": "http://{}:{}".format(*api.address), "OJS_API_KEY": "not-a-real-key"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "it is completed" in done.stdout
        wrong = subprocess.run(
            [sys.executable, str(local)],
            env={"OJS_URL": "http://{}:{}".format(*api.address), "OJS_API_KEY": "wrong"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert wrong.returncode != 0
        assert "401" in wrong.stderr


def test_the_hook_of_helm_test_has_a_key_of_its_own_beside_a_file_of_keys(
    chart: Chart, standalone: Embedded, tmp_path: Path
) -> None:
    """A key file has only hashes. Without a key the hook prints what is missing, and succeeds."""
    secret = "s" * 40
    digest = sha256(secret.encode()).hexdigest()
    (tmp_path / "keys.toml").write_text(
        f'[[key]]\nname = "hook"\nsha256 = "{digest}"\npreset = "admin"\n'
    )
    sets = {
        "redis.url": standalone.url,
        "auth.keysFile.existingSecret": "api-keys",
        "tests.existingSecret.name": "hook-key",
        "tests.existingSecret.key": "secret",
    }
    (only,) = chart.render(sets=sets).one("Pod", "-test")["spec"]["containers"]
    given = {entry["name"]: entry for entry in only["env"]}["OJS_API_KEY"]
    assert given["valueFrom"]["secretKeyRef"] == {"name": "hook-key", "key": "secret"}
    with serve(standalone.url, OJS_API_KEYS_FILE=str(tmp_path / "keys.toml")) as (server, port):
        server.wait_line("ready to serve")
        for key, said in ((secret, "it is completed"), ("", "tests.existingSecret")):
            done = subprocess.run(
                [sys.executable, str(CHART / "files" / "lifecycle.py")],
                env={"OJS_URL": f"http://{HOST}:{port}", "OJS_API_KEY": key},
                capture_output=True,
                text=True,
                timeout=PATIENCE_S,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            assert said in done.stdout


@pytest.mark.parametrize("ca", ["ca.crt", ""])
def test_the_hook_of_helm_test_speaks_tls(
    standalone: Embedded, certificates: Certificates, ca: str
) -> None:
    with serve(standalone.url, **certificates.env) as (server, port):
        server.wait_line("ready to serve")
        env = {"OJS_URL": f"https://{HOST}:{port}", "OJS_CA": ca and str(certificates.files / ca)}
        done = subprocess.run(
            [sys.executable, str(CHART / "files" / "lifecycle.py")],
            env=env,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "it is completed" in done.stdout
