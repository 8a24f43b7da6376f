"""Enabling a scaler, and upgrades or rollbacks with a scaler, keep the number of pods.

A Deployment without ``replicas`` after one with it gets one pod, the default of Kubernetes. A
Deployment with ``replicas`` that a scaler has changed is a conflict: then Helm neither upgrades nor
rolls back. So the chart reads the cluster, which ``helm template`` cannot show.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.helm.chart import CHART, Chart, Refused, options
from tests.helm.fake_cluster import Cluster, running

API = "jobs-ojs-cluster-api"
SCALERS: dict[str, dict[str, Any]] = {
    "autoscaling": {"api.autoscaling.enabled": True},
    "keda": {"api.keda.enabled": True, "api.keda.serverAddress": "http://p:9090"},
}
ON, OFF = SCALERS["autoscaling"], {"api.autoscaling.enabled": False}


def send(cluster: Cluster, chart: Chart, command: str, sets: dict[str, Any], *more: str) -> None:
    """Install or upgrade the release."""
    values = options([CHART / "ci" / "minimal-values.yaml"], {**sets, "tests.enabled": False})
    more = (*more, "--disable-openapi-validation")
    cluster.helm(chart, command, "jobs", str(chart.path), *values, *more)


def replicas(cluster: Cluster) -> int:
    """Return how many API pods the cluster has."""
    found: int = cluster.named("Deployment", API)["spec"]["replicas"]
    return found


@contextmanager
def scaled(chart: Chart, sets: dict[str, Any]) -> Iterator[Cluster]:
    """Install, enable the scaler, and let it scale to seven."""
    with running() as cluster:
        send(cluster, chart, "install", {})
        send(cluster, chart, "upgrade", sets)
        assert replicas(cluster) == 2, "switching it on keeps the count"
        cluster.scale(API, 7)
        yield cluster


@pytest.mark.parametrize("scaler", SCALERS)
def test_an_upgrade_and_a_rollback_keep_the_pods_of_a_scaler(each_helm: Chart, scaler: str) -> None:
    with scaled(each_helm, SCALERS[scaler]) as cluster:
        send(cluster, each_helm, "upgrade", {**SCALERS[scaler], "api.maxSurge": 2})
        assert replicas(cluster) == 7
        send(cluster, each_helm, "upgrade", {**SCALERS[scaler], "api.maxSurge": 3})
        if "v4" in each_helm.run("version"):
            cluster.scale(API, 9)
            cluster.helm(each_helm, "rollback", "jobs", "3")
            assert replicas(cluster) == 9


def test_a_release_that_began_with_a_scaler_never_names_a_count(each_helm: Chart) -> None:
    with running() as cluster:
        send(cluster, each_helm, "install", ON)
        # The scaler has done nothing yet: the number is the default of Kubernetes, without an
        # owner.
        send(cluster, each_helm, "upgrade", {**ON, "api.maxSurge": 2})
        for count, surge in ((7, 3), (9, 4)):
            cluster.scale(API, count)
            send(cluster, each_helm, "upgrade", {**ON, "api.maxSurge": surge})
            assert replicas(cluster) == count
        cluster.scale(API, 5)
        cluster.helm(each_helm, "rollback", "jobs", "2")
        assert replicas(cluster) == 5


def test_helm_4_takes_over_the_replicas_of_a_scaler_only_with_force(chart: Chart) -> None:
    with scaled(chart, ON) as cluster:
        with pytest.raises(Refused, match=r"conflict with .*\.spec\.replicas"):
            send(cluster, chart, "upgrade", OFF)
        send(cluster, chart, "upgrade", {**OFF, "api.replicas": 3}, "--force-conflicts")
        assert replicas(cluster) == 3
        cluster.scale(API, 4, "kubectl")
        with pytest.raises(Refused, match=r'conflict with \\?"kubectl'):
            send(cluster, chart, "upgrade", {**OFF, "api.replicas": 5})


def test_without_a_scaler_the_value_sets_the_replicas(each_helm: Chart) -> None:
    with running() as cluster:
        send(cluster, each_helm, "install", {})
        assert replicas(cluster) == 2
        send(cluster, each_helm, "upgrade", {"api.replicas": 3})
        assert replicas(cluster) == 3
