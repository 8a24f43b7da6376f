"""To switch a scaler on, or to upgrade while it is, starts and ends no pod.

A Deployment that names no replicas where the release before it named some gets one pod, which is
Kubernetes's default. So the chart asks the cluster how many there are, which `helm template` cannot
show. Here Helm asks a server that knows what Kubernetes answers to it, and nothing more.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import yaml

from tests.helm.chart import CHART, NEWEST, Chart, Manifest, Rendering, options

KINDS = {
    "v1": ("ConfigMap", "Secret", "Service", "ServiceAccount"),
    "apps/v1": ("Deployment",),
    "autoscaling/v2": ("HorizontalPodAutoscaler",),
    "keda.sh/v1alpha1": ("ScaledObject",),
    "policy/v1": ("PodDisruptionBudget",),
}
SCALERS: dict[str, dict[str, Any]] = {
    "autoscaling": {"api.autoscaling.enabled": True},
    "keda": {"api.keda.enabled": True, "api.keda.serverAddress": "http://p:9090"},
}


def discovery() -> dict[str, Any]:
    """What a cluster says of its kinds, by path."""
    groups = [version.split("/") for version in KINDS if "/" in version]
    found: dict[str, Any] = {
        "/version": {"major": "1", "minor": "35", "gitVersion": f"v{NEWEST}.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {
            "kind": "APIGroupList",
            "apiVersion": "v1",
            "groups": [
                {"name": name, "versions": [{"groupVersion": f"{name}/{v}", "version": v}]}
                for name, v in groups
            ],
        },
    }
    for version, kinds in KINDS.items():
        found[f"/apis/{version}" if "/" in version else f"/api/{version}"] = {
            "kind": "APIResourceList",
            "groupVersion": version,
            "resources": [
                {"name": f"{kind.lower()}s", "namespaced": True, "kind": kind, "verbs": ["get"]}
                for kind in kinds
            ],
        }
    return found


@contextmanager
def cluster(live: Manifest | None) -> Iterator[str]:
    """Serve a cluster in which nothing is but the API's Deployment; gives the URL."""
    answers = discovery()
    if live:
        answers["/apis/apps/v1/namespaces/work/deployments/jobs-ojs-cluster-api"] = live

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = answers.get(self.path.partition("?")[0])
            status = {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}
            body = json.dumps(answer or status).encode()
            self.send_response(200 if answer else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def upgraded(chart: Chart, live: Manifest | None, sets: dict[str, Any]) -> Any:
    """The API's Deployment as an upgrade would send it to a cluster."""
    command = ["template", "jobs", str(CHART), "--namespace", "work", "--is-upgrade"]
    command += options([CHART / "ci" / "minimal-values.yaml"], {**sets, "tests.enabled": False})
    with cluster(live) as url:
        command += ["--dry-run=server", "--disable-openapi-validation"]
        command += ["--kubeconfig", os.devnull, "--kube-apiserver", url]
        manifests = list(yaml.safe_load_all(chart.run(*command)))
    return Rendering([each for each in manifests if each]).api


def deployment(replicas: int) -> Manifest:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "jobs-ojs-cluster-api", "namespace": "work"},
        "spec": {"replicas": replicas},
    }


@pytest.mark.parametrize("scaler", SCALERS)
def test_who_scales_keeps_the_pods_that_there_are(chart: Chart, scaler: str) -> None:
    assert upgraded(chart, deployment(7), SCALERS[scaler])["spec"]["replicas"] == 7
    assert "replicas" not in upgraded(chart, None, SCALERS[scaler])["spec"]


def test_nobody_scales_and_the_value_decides(chart: Chart) -> None:
    assert upgraded(chart, deployment(7), {"api.replicas": 3})["spec"]["replicas"] == 3
