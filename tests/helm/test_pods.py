"""Lifecycle of pods: probes, drain, privileges, spread, scaling."""

from __future__ import annotations

import re
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from ojs_cluster.http.routes.all_routes import ROUTES
from ojs_cluster.http.settings import HttpSettings
from ojs_cluster.server.config.load import load
from tests.helm.chart import CHART, CI, NEWEST, OLDEST, Chart, Rendering, container
from tests.support.certificates import Certificates

MINIMAL = CHART / "ci" / "minimal-values.yaml"
OWN_SECRETS = sorted({f.stem.removesuffix("-values") for f in CI} - {"existing-secrets"})


def longest_poll_s() -> float:
    """Return the longest long poll of the server."""
    (default,) = (each.default for each in fields(HttpSettings) if each.name == "max_wait_ms")
    return float(default) / 1000  # type: ignore[arg-type] # an int, mypy does not know which


def failover_s(node_timeout_s: float) -> float:
    """Return how long a slot is without a master at most, if it has a replica.

    A node is pinged at least every half timeout, and missed after a whole one without an answer.
    The election begins within a second; another second is for the votes and the announcement.
    """
    return 1.5 * node_timeout_s + 2


def config_map(rendering: Rendering) -> dict[str, str]:
    """Return the variables that are not secret."""
    (source, *_) = container(rendering.api)["envFrom"]
    found: dict[str, str] = rendering.one("ConfigMap", source["configMapRef"]["name"])["data"]
    return found


def pre_stop_s(deployment: Any) -> int:
    hook = container(deployment)["lifecycle"]["preStop"]
    program, seconds = hook["exec"]["command"]
    assert program == "sleep"
    return int(seconds)


def test_the_grace_period_covers_the_wait_the_longest_poll_and_the_flush(
    rendering: Rendering,
) -> None:
    # As the server reads them: what is not rendered has the server's default.
    plain = {name: value for name, value in config_map(rendering).items() if "TLS" not in name}
    listen = load(plain).listen
    grace = rendering.api["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    server_s = listen.shutdown_delay_s + listen.shutdown_timeout_s
    assert listen.shutdown_timeout_s > longest_poll_s()
    assert grace > pre_stop_s(rendering.api) + server_s
    assert pre_stop_s(rendering.api) > 0


def test_the_chart_knows_the_longest_poll(chart: Chart) -> None:
    least = int(longest_poll_s())
    for seconds, fine in ((least, False), (least + 1, True)):
        sets = {"api.drain.timeoutSeconds": seconds}
        if fine:
            chart.render(MINIMAL, sets=sets)
        else:
            with pytest.raises(Exception, match=f"longer than the longest long poll, {least} s"):
                chart.render(MINIMAL, sets=sets)


def test_a_grace_period_that_is_too_short_is_refused(chart: Chart) -> None:
    with pytest.raises(Exception, match=r"terminationGracePeriodSeconds is 44, but a pod needs"):
        chart.render(MINIMAL, sets={"api.terminationGracePeriodSeconds": 44})
    rendering = chart.render(MINIMAL, sets={"api.terminationGracePeriodSeconds": 100})
    assert rendering.api["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 100


@pytest.mark.parametrize("kubernetes", [OLDEST, NEWEST])
def test_every_version_of_kubernetes_runs_the_images_sleep(chart: Chart, kubernetes: str) -> None:
    # Rendered without a cluster, for a version that may be another: the same pods.
    api = chart.render(MINIMAL, kubernetes=kubernetes).api
    assert container(api)["lifecycle"]["preStop"] == {"exec": {"command": ["sleep", "10"]}}


@pytest.mark.parametrize("component", ["api", "scheduler"])
def test_liveness_never_calls_redis_and_readiness_does(
    rendering: Rendering, component: str
) -> None:
    probes = container(getattr(rendering, component))
    assert probes["startupProbe"]["httpGet"]["path"] == "/live"
    assert probes["livenessProbe"]["httpGet"]["path"] == "/live"
    assert probes["readinessProbe"]["httpGet"]["path"] == "/ready"
    ports = {probe["httpGet"]["port"] for name, probe in probes.items() if name.endswith("Probe")}
    assert ports == {port["name"] for port in probes["ports"]}
    # `/ready` waits for Redis as long as this: a probe that gives up earlier learns nothing.
    (patience,) = (f.default for f in fields(HttpSettings) if f.name == "health_timeout_s")
    assert probes["readinessProbe"]["timeoutSeconds"] > patience


def test_a_failover_removes_no_pod_from_the_service(chart: Chart) -> None:
    # If no master answers during it, as when all are lost at once, no pod is ready. Requests that
    # wait in a pod are served after the failover; without a pod in the Service they fail at once.
    rendering = chart.render(CHART / "ci" / "bundled-cluster-values.yaml")
    probe = container(rendering.api)["readinessProbe"]
    patience_s = probe["periodSeconds"] * (probe["failureThreshold"] - 1)
    guide = (CHART.parent.parent / "docs" / "operations.md").read_text()
    (longest,) = re.findall(r"^\| `cluster-node-timeout \d+` \| 5 to (\d+) s \|", guide, re.M)
    assert patience_s > failover_s(int(longest))
    start = rendering.one("ConfigMap", "-valkey")["data"]["start.sh"]
    (bundled_ms,) = re.findall(r"cluster-node-timeout (\d+)", start)
    assert patience_s > failover_s(int(bundled_ms) / 1000)


def test_no_pod_is_missing_during_an_update(rendering: Rendering) -> None:
    for deployment in (rendering.api, rendering.scheduler):
        strategy = deployment["spec"]["strategy"]
        assert strategy["type"] == "RollingUpdate"
        assert strategy["rollingUpdate"]["maxUnavailable"] == 0
        assert strategy["rollingUpdate"]["maxSurge"]


def test_every_container_runs_without_privileges(rendering: Rendering) -> None:
    assert len(rendering.pods()) >= 3
    for name, pod in rendering.pods():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        for each in spec["containers"]:
            context = each["securityContext"]
            assert context["readOnlyRootFilesystem"] is True, name
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert each["resources"]["requests"]["cpu"]
            assert each["resources"]["requests"]["memory"]
            assert each["resources"]["limits"]["memory"]


def test_no_service_account_has_a_token(rendering: Rendering) -> None:
    for account in rendering.all("ServiceAccount"):
        assert account["automountServiceAccountToken"] is False
    for deployment in (rendering.api, rendering.scheduler):
        # What a pod says wins over its account, which may be one of the user's.
        assert deployment["spec"]["template"]["spec"]["automountServiceAccountToken"] is False


def test_pods_spread_over_zones_and_hosts(chart: Chart) -> None:
    rendering = chart.render(CHART / "ci" / "production-values.yaml")
    for deployment, zones in ((rendering.api, "DoNotSchedule"), (rendering.scheduler, "Schedule")):
        spec = deployment["spec"]["template"]["spec"]
        zone, host = spec["topologySpreadConstraints"]
        assert zone["topologyKey"] == "topology.kubernetes.io/zone"
        assert zone["whenUnsatisfiable"].startswith(zones)
        assert host["topologyKey"] == "kubernetes.io/hostname"
        for rule in (zone, host):
            assert rule["labelSelector"] == deployment["spec"]["selector"]
            assert rule["matchLabelKeys"] == ["pod-template-hash"]


def test_what_the_user_adds_is_in_every_container_of_the_server(chart: Chart) -> None:
    rendering = chart.render(
        CHART / "ci" / "production-values.yaml",
        sets={"extraEnvFrom": [{"configMapRef": {"name": "cluster-wide"}}]},
    )
    for deployment in (rendering.api, rendering.scheduler):
        only, spec = container(deployment), deployment["spec"]["template"]["spec"]
        assert {"name": "TZ", "value": "UTC"} in only["env"]
        assert only["envFrom"][-1] == {"configMapRef": {"name": "cluster-wide"}}
        assert {"name": "scratch", "mountPath": "/scratch"} in only["volumeMounts"]
        assert {"name": "scratch", "emptyDir": {}} in spec["volumes"]
        # What the root file system refuses.
        (temporary,) = (m for m in only["volumeMounts"] if m["name"] == "tmp")
        assert temporary["mountPath"] == "/tmp"  # noqa: S108 - where Python looks in the container
        assert {mount["name"] for mount in only["volumeMounts"]} == {
            volume["name"] for volume in spec["volumes"]
        }


def test_each_kind_of_pod_has_its_own_placement(chart: Chart) -> None:
    rendering = chart.render(CHART / "ci" / "production-values.yaml")
    api, scheduler = (
        deployment["spec"]["template"] for deployment in (rendering.api, rendering.scheduler)
    )
    assert api["spec"]["priorityClassName"] == "important"
    assert api["spec"]["nodeSelector"] == {"kubernetes.io/os": "linux"}
    assert api["metadata"]["annotations"]["example.com/pod"] == "api"
    assert scheduler["spec"]["tolerations"] == [{"key": "spot", "operator": "Exists"}]
    assert list(scheduler["spec"]["affinity"]) == ["nodeAffinity"]
    assert not {"priorityClassName", "nodeSelector"} & set(scheduler["spec"])
    assert not {"tolerations", "affinity"} & set(api["spec"])


def test_work_is_throttled_by_no_limit_and_one_process_has_one_core(rendering: Rendering) -> None:
    for deployment in (rendering.api, rendering.scheduler):
        assert "cpu" not in container(deployment)["resources"]["limits"]
    # With `auto` it would be one process for each core of the machine.
    assert config_map(rendering)["OJS_WORKERS"].isdecimal()


def test_two_schedulers_run_by_default(rendering: Rendering) -> None:
    assert rendering.scheduler["spec"]["replicas"] == 2


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        ("soft", "preferredDuringSchedulingIgnoredDuringExecution"),
        ("hard", "requiredDuringSchedulingIgnoredDuringExecution"),
    ],
)
def test_nodes_of_the_bundled_cluster_are_spread_over_hosts(
    chart: Chart, kind: str, rule: str
) -> None:
    values = CHART / "ci" / "bundled-cluster-values.yaml"
    nodes = chart.render(values, sets={"valkey.antiAffinity": kind}).one("StatefulSet")
    ((term,),) = (
        terms
        for name, terms in nodes["spec"]["template"]["spec"]["affinity"]["podAntiAffinity"].items()
        if name == rule
    )
    term = term.get("podAffinityTerm", term)
    assert term["topologyKey"] == "kubernetes.io/hostname"
    assert term["labelSelector"] == nodes["spec"]["selector"]
    assert nodes["spec"]["replicas"] == 6


def test_a_disruption_budget_lets_kubernetes_nodes_be_drained(rendering: Rendering) -> None:
    for budget in rendering.all("PodDisruptionBudget"):
        # Even a single replica does not block a drain.
        assert "minAvailable" not in budget["spec"]
        assert budget["spec"]["maxUnavailable"] >= 1
        keeps_jobs = budget["metadata"]["name"].endswith("-valkey")
        # A broken pod of the server may always be evicted; a node with jobs only when the others
        # are healthy.
        policy = budget["spec"].get("unhealthyPodEvictionPolicy")
        assert policy == (None if keeps_jobs else "AlwaysAllow")


def test_every_server_has_a_disruption_budget(rendering: Rendering) -> None:
    budgets = {each["metadata"]["name"] for each in rendering.all("PodDisruptionBudget")}
    serving = [*rendering.all("Deployment"), *rendering.all("StatefulSet")]
    assert budgets == {each["metadata"]["name"] for each in serving}


@pytest.mark.parametrize("values", CI, ids=lambda path: path.stem)
def test_a_new_version_of_the_chart_alone_restarts_no_pod(
    chart: Chart, tmp_path: Path, values: Path
) -> None:
    def templates(rendering: Rendering) -> dict[str, Any]:
        return {owner: pod for owner, pod in rendering.pods() if not owner.startswith("Pod/")}

    other = chart.copied(tmp_path / "chart", ("Chart.yaml", "\nversion: ", "\nversion: 9"))
    now = chart.render(values)
    assert now.api["metadata"] != other.render(values).api["metadata"]
    assert templates(now) == templates(other.render(values))
    # A label of objects restarts no pod either, unless it is one of pods as well.
    labelled = chart.render(values, sets={"commonLabels.more": "yes"})
    for name, pod in templates(labelled).items():
        if name.startswith(("Deployment", "StatefulSet")):
            assert pod["metadata"].get("annotations") == (
                templates(now)[name]["metadata"].get("annotations")
            )


def test_a_changed_value_restarts_the_pods_that_read_it(chart: Chart) -> None:
    def annotations(**sets: Any) -> list[tuple[str, str]]:
        rendering = chart.render(MINIMAL, sets={k.replace("__", "."): v for k, v in sets.items()})
        found = []
        for deployment in (rendering.api, rendering.scheduler):
            notes = deployment["spec"]["template"]["metadata"]["annotations"]
            found.append((notes["checksum/config"], notes["checksum/secret"]))
        return found

    before = annotations()
    for (config, secret), (config_was, secret_was) in zip(
        annotations(config__OJS_LOG_LEVEL="DEBUG"), before, strict=True
    ):
        assert (config != config_was, secret == secret_was) == (True, True)
    for (config, secret), (config_was, secret_was) in zip(
        annotations(auth__apiKey="another"), before, strict=True
    ):
        assert (config == config_was, secret != secret_was) == (True, True)
    assert annotations(service__port=81) == before


@pytest.mark.parametrize("values", OWN_SECRETS)
def test_the_server_accepts_the_environment(
    chart: Chart, values: str, tmp_path: Path, certificates: Certificates
) -> None:
    rendering = chart.render(CHART / "ci" / f"{values}-values.yaml")
    files = {"ca.crt": "ca.crt", "tls.crt": "client.crt", "tls.key": "client.key"}
    for entry, file in files.items():
        shutil.copyfile(certificates.files / file, tmp_path / entry)
    for deployment in (rendering.api, rendering.scheduler):
        environment = rendering.environment(deployment)
        for name, value in environment.items():
            # Mounted files are read when the configuration is.
            environment[name] = value.replace("/etc/ojs/redis-tls", str(tmp_path))
        settings = load(environment)  # raises for a variable that it does not understand
        assert settings.redis.url
        assert settings.access.keys or deployment == rendering.scheduler


def test_files_of_redis_tls_are_mounted_where_the_server_looks(chart: Chart) -> None:
    rendering = chart.render(CHART / "ci" / "tls-values.yaml")
    for deployment in (rendering.api, rendering.scheduler):
        environment = rendering.environment(deployment)
        (mount,) = (m for m in container(deployment)["volumeMounts"] if m["name"] == "redis-tls")
        assert {environment[f"OJS_REDIS_TLS_{what}"] for what in ("CA", "CERT", "KEY")} == {
            f"{mount['mountPath']}/{file}" for file in ("ca.crt", "tls.crt", "tls.key")
        }


def test_the_api_is_given_and_probed_by_its_certificate(chart: Chart) -> None:
    rendering = chart.render(CHART / "ci" / "api-tls-values.yaml")
    listen = load(rendering.environment(rendering.api)).listen
    assert not load(rendering.environment(rendering.scheduler)).listen.tls_cert
    for deployment, scheme in ((rendering.api, "HTTPS"), (rendering.scheduler, None)):
        only = container(deployment)
        schemes = {p["httpGet"].get("scheme") for n, p in only.items() if n.endswith("Probe")}
        assert schemes == {scheme}
        mounts = {mount["name"]: mount["mountPath"] for mount in only["volumeMounts"]}
        assert ("tls" in mounts) == (deployment == rendering.api)
        volumes = {volume["name"] for volume in deployment["spec"]["template"]["spec"]["volumes"]}
        assert ("tls" in volumes) == (deployment == rendering.api)
    spec = rendering.api["spec"]["template"]["spec"]
    mounts = {m["name"]: m for m in container(rendering.api)["volumeMounts"]}
    assert (listen.tls_cert, listen.tls_key) == ("/etc/ojs/tls/tls.crt", "/etc/ojs/tls/tls.key")
    assert mounts["tls"]["mountPath"] == "/etc/ojs/tls"
    assert "subPath" not in mounts["tls"], "a Secret's entry that is mounted alone is never renewed"
    (volume,) = (each for each in spec["volumes"] if each["name"] == "tls")
    assert volume["secret"]["secretName"] == "jobs-certificate"
    # Readable by the group of the pod; no other user can read the key.
    assert volume["secret"]["defaultMode"] == 0o440
    assert spec["securityContext"]["fsGroup"] == spec["securityContext"]["runAsGroup"]


def test_the_scheduler_has_keys_only_for_its_metrics(rendering: Rendering) -> None:
    names = {entry["name"] for entry in container(rendering.scheduler)["env"]}
    with_key = [
        monitor
        for monitor in rendering.all("ServiceMonitor")
        if "authorization" in monitor["spec"]["endpoints"][0]
    ]
    assert bool(names & {"OJS_API_KEY", "OJS_API_KEYS"}) is bool(with_key)


def test_a_file_of_keys_is_mounted_as_a_whole_where_keys_are_checked(chart: Chart) -> None:
    sets: dict[str, Any] = {"auth.apiKey": "", "auth.keysFile.existingSecret": "team-keys"}
    for scraped in (False, True):
        if scraped:
            sets |= {
                "metrics.serviceMonitor.enabled": True,
                "metrics.serviceMonitor.existingSecret.name": "scraper",
                "metrics.serviceMonitor.existingSecret.key": "key",
            }
        rendering = chart.render(MINIMAL, sets=sets)
        readers = [rendering.api, rendering.scheduler] if scraped else [rendering.api]
        for deployment in (rendering.api, rendering.scheduler):
            mounts = [m for m in container(deployment)["volumeMounts"] if m["name"] == "api-keys"]
            file = load(rendering.environment(deployment)).access.keys_file
            if deployment not in readers:
                assert (mounts, file) == ([], "")
                continue
            (mount,) = mounts
            assert mount == {"name": "api-keys", "mountPath": "/etc/ojs/keys", "readOnly": True}
            assert file == "/etc/ojs/keys/keys.toml"
            volumes = deployment["spec"]["template"]["spec"]["volumes"]
            (volume,) = [each for each in volumes if each["name"] == "api-keys"]
            assert volume["secret"] == {"secretName": "team-keys", "defaultMode": 0o440}


def test_the_server_gets_its_workers_and_port(chart: Chart) -> None:
    rendering = chart.render(MINIMAL, sets={"api.workers": 3, "api.port": 9000})
    listen = load(rendering.environment(rendering.api)).listen
    assert (listen.workers, listen.port) == (3, 9000)
    assert container(rendering.api)["ports"] == [
        {"name": "http", "containerPort": 9000, "protocol": "TCP"}
    ]


def test_a_scaler_owns_the_replicas(chart: Chart) -> None:
    assert chart.render(MINIMAL).api["spec"]["replicas"] == 2
    for scaler, kind in (("autoscaling", "HorizontalPodAutoscaler"), ("keda", "ScaledObject")):
        sets: dict[str, Any] = {f"api.{scaler}.enabled": True}
        if scaler == "keda":
            sets["api.keda.serverAddress"] = "http://p:9090"
        rendering = chart.render(MINIMAL, sets=sets)
        # An update with a number would undo the scaler's decision.
        assert "replicas" not in rendering.api["spec"]
        target = rendering.one(kind, "-api")["spec"]["scaleTargetRef"]
        assert target["name"] == rendering.api["metadata"]["name"]


def test_keda_scales_the_api_by_its_load(chart: Chart) -> None:
    rendering = chart.render(CHART / "ci" / "keda-values.yaml")
    spec = rendering.one("ScaledObject", "-api")["spec"]
    cpu, load, theirs = spec["triggers"]
    assert cpu == {"type": "cpu", "metricType": "Utilization", "metadata": {"value": "70"}}
    for trigger in (load, theirs):
        assert trigger["type"] == "prometheus"
        assert trigger["metadata"]["serverAddress"] == "http://prometheus.monitoring:9090"
    assert (load["metricType"], load["metadata"]["threshold"]) == ("AverageValue", "16")
    # A paused queue has old jobs, which is no reason for more API pods.
    assert "ojs_queue" not in str(spec["triggers"])
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (2, 20)
    down = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
    assert down["stabilizationWindowSeconds"] > 0
    sets = {
        "api.keda.query": "sum(up)",
        "api.keda.cpuUtilization": 0,
        "api.keda.requestsInFlight": 0,
    }
    ours, _ = chart.render(CHART / "ci" / "keda-values.yaml", sets=sets).one(
        "ScaledObject", "-api"
    )["spec"]["triggers"]
    assert (ours["metricType"], ours["metadata"]["query"]) == ("Value", "sum(up)")


def test_requests_in_flight_do_not_count_waiting_requests(chart: Chart) -> None:
    rendering = chart.render(CHART / "ci" / "keda-values.yaml")
    query = rendering.one("ScaledObject", "-api")["spec"]["triggers"][1]["metadata"]["query"]
    (pattern,) = re.findall(r'route!~"([^"]*)"', query)
    assert {route.template for route in ROUTES if re.fullmatch(pattern, route.template)} == {
        "/ojs/v1/workers/heartbeat",
        *(route.template for route in ROUTES if route.waits_for_jobs),
    }


def test_keda_scales_workers_by_their_jobs(chart: Chart) -> None:
    manifest = chart.render(CHART / "ci" / "keda-values.yaml").one("ScaledObject", "mailers")
    assert manifest["metadata"]["namespace"] == "mail"
    spec = manifest["spec"]
    assert spec["scaleTargetRef"] == {"name": "mailers"}
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (0, 40)
    age, backlog = spec["triggers"]
    assert (age["metricType"], age["metadata"]["threshold"]) == ("Value", "30")
    assert (backlog["metricType"], backlog["metadata"]["threshold"]) == ("AverageValue", "25")
    for trigger, metric in (
        (age, "ojs_queue_oldest_available_age_seconds"),
        (backlog, "ojs_queue_jobs"),
    ):
        query = trigger["metadata"]["query"]
        assert metric in query
        assert r'queue=~"mail|mail\\.bulk"' in query
        assert "unless on (queue) (max by (queue) (ojs_queue_paused{" in query
        # Without an answer of Redis there is no value, and the number of workers stays.
        assert re.search(r" or \(max\(ojs_redis_up\{[^}]*\}\) == 1\) \* 0$", query)
        assert trigger["metadata"]["ignoreNullValues"] == "false"


def test_load_scales(chart: Chart) -> None:
    rendering = chart.render(CHART / "ci" / "production-values.yaml")
    spec = rendering.one("HorizontalPodAutoscaler")["spec"]
    cpu, load = spec["metrics"]
    assert cpu["resource"]["name"] == "cpu"
    assert load["external"]["metric"]["name"] == "ojs_http_requests_in_flight"
    assert load["external"]["target"] == {"type": "AverageValue", "averageValue": "16"}
    assert (spec["minReplicas"], spec["maxReplicas"]) == (3, 30)


def test_a_job_of_the_bundled_cluster_has_a_name_of_its_content(chart: Chart) -> None:
    values = CHART / "ci" / "bundled-cluster-values.yaml"
    names = {
        chart.render(values, sets=sets).one("Job")["metadata"]["name"]
        for sets in ({}, {"api.replicas": 5}, {"valkey.masters": 4}, {"image.tag": "2"})
    }
    assert len(names) == 3  # replicas of the API are none of its business
