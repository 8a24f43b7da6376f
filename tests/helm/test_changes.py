"""Changes that running Valkey nodes do not support are refused, with the command to run instead."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helm.chart import CHART, Chart, Manifest, Refused, options
from tests.helm.fake_cluster import Cluster, running

VALUES = CHART / "ci" / "bundled-cluster-values.yaml"
NAME = "jobs-ojs-cluster-valkey"
WITH_VOLUMES = {"valkey.persistence.enabled": True, "valkey.persistence.size": "1.5Gi"}
SECRET: Manifest = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {"name": "mine", "namespace": "work"},
    # The password of the value set, and another.
    "data": {"same": "bm90LWEtcmVhbC1wYXNzd29yZA==", "other": "b3RoZXI="},
}


def send(cluster: Cluster, chart: Chart, command: str, sets: dict[str, Any]) -> None:
    """Install or upgrade the release."""
    more = {"tests.enabled": False, "httpRoute.enabled": False, "networkPolicy.enabled": False}
    values = options([VALUES], {**more, **sets})
    cluster.helm(chart, command, "jobs", str(CHART), *values, "--disable-openapi-validation")


@pytest.fixture(scope="module")
def without_volumes(chart: Chart) -> Any:
    """Give a cluster with a release whose nodes keep nothing. Refused upgrades do not change it."""
    with running(SECRET) as cluster:
        send(cluster, chart, "install", {"valkey.masters": 4})
        yield cluster


@pytest.fixture(scope="module")
def with_volumes(chart: Chart) -> Any:
    """Give a cluster with a release whose nodes have volumes."""
    with running() as cluster:
        send(cluster, chart, "install", WITH_VOLUMES)
        (claim,) = cluster.named("StatefulSet", NAME)["spec"]["volumeClaimTemplates"]
        assert claim["spec"]["resources"]["requests"]["storage"] == "1536Mi", "1.5Gi is spelled so"
        yield cluster


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ({"valkey.persistence.enabled": True}, "valkey.persistence.enabled is true"),
        ({"redis.password": "another"}, f"kubectl -n work delete statefulset {NAME}"),
        ({"redis.password": ""}, "another password"),
        ({"valkey.tls.existingSecret": "certificate"}, "with and without TLS"),
        ({"valkey.masters": 3}, "valkey.masters is 3, but the cluster of this release has 4"),
        (
            {
                "redis.password": "",
                "redis.existingSecret.name": "mine",
                "redis.existingSecret.passwordKey": "other",
            },
            "another password",
        ),
    ],
    ids=str,
)
def test_nodes_without_volumes_refuse(
    chart: Chart, without_volumes: Cluster, sets: dict[str, Any], message: str
) -> None:
    with pytest.raises(Refused, match=message):
        send(without_volumes, chart, "upgrade", {"valkey.masters": 4, **sets})


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ({"valkey.persistence.enabled": False}, "valkey.persistence.enabled is false"),
        (
            {"valkey.persistence.size": "2Gi"},
            f"kubectl -n work delete statefulset {NAME} --cascade=orphan",
        ),
        ({"valkey.persistence.storageClassName": "fast"}, "storageClassName"),
    ],
    ids=str,
)
def test_nodes_with_volumes_refuse(
    chart: Chart, with_volumes: Cluster, sets: dict[str, Any], message: str
) -> None:
    with pytest.raises(Refused, match=message):
        send(with_volumes, chart, "upgrade", {**WITH_VOLUMES, **sets})


def test_a_refused_change_passes_when_the_statefulset_is_gone(chart: Chart) -> None:
    with running() as cluster:
        send(cluster, chart, "install", WITH_VOLUMES)
        larger = {**WITH_VOLUMES, "valkey.persistence.size": "2Gi"}
        with pytest.raises(Refused):
            send(cluster, chart, "upgrade", larger)
        for path in [name for name in cluster.objects if name.endswith(f"/statefulsets/{NAME}")]:
            del cluster.objects[path]
        send(cluster, chart, "upgrade", {**larger, "redis.password": "another"})


def test_an_upgrade_without_changes_is_not_refused(
    chart: Chart, with_volumes: Cluster, without_volumes: Cluster
) -> None:
    send(with_volumes, chart, "upgrade", {**WITH_VOLUMES, "valkey.maxmemory": "100mb"})
    moved = {
        "redis.password": "",
        "redis.existingSecret.name": "mine",
        "redis.existingSecret.passwordKey": "same",
    }
    send(without_volumes, chart, "upgrade", {**moved, "valkey.masters": 5})


def test_volumes_that_belong_to_root_get_the_user_of_the_node(chart: Chart) -> None:
    sets = {**WITH_VOLUMES, "valkey.persistence.permissions.enabled": True}
    spec = chart.render(VALUES, sets=sets).one("StatefulSet")["spec"]["template"]["spec"]
    (container,) = spec["initContainers"]
    assert container["command"] == ["chown", "-R", "999:999", "/data"]
    assert container["securityContext"]["runAsUser"] == 0
    assert container["securityContext"]["runAsNonRoot"] is False
    assert {"name": "data", "mountPath": "/data"} in container["volumeMounts"]
    for off in ({"compatibility.openshift": "force"}, {"valkey.persistence.enabled": False}):
        nodes = chart.render(VALUES, sets={**sets, **off}).one("StatefulSet")
        assert "initContainers" not in nodes["spec"]["template"]["spec"]
