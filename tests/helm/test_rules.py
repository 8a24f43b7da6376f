"""Rules for every pod and every value of the chart, including later additions."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.helm.chart import CHART, Chart, Rendering, container
from tests.helm.values_table import leaves

BUNDLED = CHART / "ci" / "bundled-cluster-values.yaml"
PODS = {
    "api": "api",
    "scheduler": "scheduler",
    "test": "tests",
    "valkey": "valkey",
    "valkey-form": "valkey.form",
}
"""Path of the values of each kind of pod, by its component."""
CONTAINERS = {"meet": "valkey.sidecar", "exporter": "valkey.exporter"}
"""Path of the values of each container that has its own."""
TOLERATIONS = [{"key": "dedicated", "operator": "Exists"}]
TEMPLATES = "\n".join(
    file.read_text() for file in sorted((CHART / "templates").rglob("*")) if file.is_file()
)


def by_component(rendering: Rendering) -> dict[str, Any]:
    """Every pod or template of pods, by its component."""
    return {
        pod["metadata"]["labels"]["app.kubernetes.io/component"]: pod for _, pod in rendering.pods()
    }


@pytest.fixture(scope="module")
def placed(chart: Chart) -> dict[str, Any]:
    """Return the pods of a chart in which each kind of pod has the same settings."""
    sets: dict[str, Any] = {"valkey.exporter.enabled": True}
    for where in PODS.values():
        sets[f"{where}.tolerations"] = TOLERATIONS
        sets[f"{where}.nodeSelector"] = {"disk": "fast"}
        sets[f"{where}.priorityClassName"] = "high"
        sets[f"{where}.podLabels"] = {"told": where}
        sets[f"{where}.podAnnotations"] = {"told": where}
    for where in {*PODS.values(), *CONTAINERS.values()}:
        sets[f"{where}.resources"] = resources(where)
    return by_component(chart.render(BUNDLED, sets=sets))


def resources(where: str) -> dict[str, Any]:
    """Return requests and limits that only one kind of pod has."""
    return {"limits": {"cpu": "1", "memory": f"{100 + len(where)}Mi"}}


def test_every_kind_of_pod_takes_tolerations_resources_and_labels(placed: dict[str, Any]) -> None:
    assert set(placed) == set(PODS)
    for component, pod in placed.items():
        where, spec = PODS[component], pod["spec"]
        assert spec["tolerations"] == TOLERATIONS, component
        assert spec["nodeSelector"] == {"disk": "fast"}, component
        assert spec["priorityClassName"] == "high", component
        assert pod["metadata"]["labels"]["told"] == where
        assert pod["metadata"]["annotations"]["told"] == where
        for each in [*spec["containers"], *spec.get("initContainers", [])]:
            wanted = resources(CONTAINERS.get(each["name"], where))
            assert each["resources"]["limits"] == wanted["limits"], component


def test_jobs_and_valkey_nodes_are_outside_of_a_mesh(chart: Chart) -> None:
    pods = by_component(chart.render(BUNDLED))
    for component in ("test", "valkey", "valkey-form"):
        metadata = pods[component]["metadata"]
        assert metadata["labels"]["sidecar.istio.io/inject"] == "false", component
        assert metadata["annotations"]["linkerd.io/inject"] == "disabled", component
    assert "sidecar.istio.io/inject" not in pods["api"]["metadata"]["labels"]


@pytest.mark.parametrize(
    ("wanted", "api_versions", "adapted"),
    [
        ("auto", [], False),
        ("auto", ["--api-versions", "security.openshift.io/v1"], True),
        ("force", [], True),
        ("disabled", ["--api-versions", "security.openshift.io/v1"], False),
    ],
)
def test_on_openshift_users_and_groups_are_left_out(
    chart: Chart, wanted: str, api_versions: list[str], adapted: bool
) -> None:
    sets = {"compatibility.openshift": wanted}
    rendering = chart.render(BUNDLED, sets=sets, more=api_versions)
    components = [
        pod["metadata"]["labels"]["app.kubernetes.io/component"] for _, pod in rendering.pods()
    ]
    assert set(components) == set(PODS)
    for name, pod in rendering.pods():
        contexts = [pod["spec"]["securityContext"]]
        contexts += [each["securityContext"] for each in pod["spec"]["containers"]]
        fixed = {"runAsUser", "runAsGroup", "fsGroup"} & {key for each in contexts for key in each}
        assert bool(fixed) is not adapted, name
        assert contexts[0]["runAsNonRoot"] is True


def test_every_service_may_have_both_families_of_addresses(rendering: Rendering) -> None:
    for service in rendering.all("Service"):
        assert service["spec"]["ipFamilyPolicy"] == "PreferDualStack"
    assert rendering.environment_of_config()["OJS_HOST"] == "::"


def test_a_host_of_the_user_has_precedence(chart: Chart) -> None:
    sets = {"config.OJS_HOST": "127.0.0.1", "service.ipFamilyPolicy": ""}
    rendering = chart.render(CHART / "ci" / "minimal-values.yaml", sets=sets)
    assert rendering.environment_of_config()["OJS_HOST"] == "127.0.0.1"
    assert "ipFamilyPolicy" not in rendering.one("Service")["spec"]


def test_of_variables_with_one_name_the_last_is_set(chart: Chart) -> None:
    ours = {"name": "REDIS_URL", "value": "redis://other"}
    twice = [{"name": "TZ", "value": "UTC"}, ours, {"name": "TZ", "value": "CET"}]
    rendering = chart.render(CHART / "ci" / "minimal-values.yaml", sets={"extraEnv": twice})
    for deployment in (rendering.api, rendering.scheduler):
        env = container(deployment)["env"]
        names = [entry["name"] for entry in env]
        assert len(names) == len(set(names))
        assert env[-2:] == [ours, {"name": "TZ", "value": "CET"}]


def test_every_value_is_used_by_a_template() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for path in leaves(values, ""):
        *above, last = path.split(".")
        # Probes are rendered as a whole, by their names.
        names = [above[-1]] if above and above[-1].endswith("Probe") else [*above[-1:], last]
        for name in names:
            assert re.search(rf'[."]{name}\b', TEMPLATES), f"no template uses {path}"


def test_a_load_balancer_gets_its_source_ranges(chart: Chart) -> None:
    sets = {
        "service.type": "LoadBalancer",
        "service.externalTrafficPolicy": "Local",
        "service.loadBalancerSourceRanges": ["10.0.0.0/8", "fd00::/8"],
    }
    spec = chart.render(CHART / "ci" / "minimal-values.yaml", sets=sets).one("Service")["spec"]
    assert spec["externalTrafficPolicy"] == "Local"
    assert spec["loadBalancerSourceRanges"] == ["10.0.0.0/8", "fd00::/8"]
