"""Installed releases can be upgraded: fields that Kubernetes cannot change have not changed.

``selectors.json`` records the identity of every object of an earlier version. Kubernetes refuses a
Deployment with another selector, and a StatefulSet with other claims or another service. A renamed
Service breaks its clients. A change of that file breaks upgrades: it needs a new major version of
the chart, and a note how to migrate.

    python -m tests.helm.test_upgrade

writes it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.helm import tools
from tests.helm.chart import CI, Chart, Rendering

RECORD = Path(__file__).with_name("selectors.json")


def identity(rendering: Rendering) -> dict[str, Any]:
    """Return the fields that must not change, by kind and name."""
    found: dict[str, Any] = {}
    for manifest in rendering.manifests:
        spec = manifest.get("spec", {})
        name = f"{manifest['kind']}/{manifest['metadata']['name']}"
        if manifest["kind"] in ("Deployment", "StatefulSet"):
            found[name] = {"selector": spec["selector"]["matchLabels"]}
        if manifest["kind"] == "StatefulSet":
            claims = spec.get("volumeClaimTemplates", [])
            found[name] |= {
                "service": spec["serviceName"],
                "podManagementPolicy": spec["podManagementPolicy"],
                "claims": [claim["metadata"]["name"] for claim in claims],
            }
        if manifest["kind"] == "Service":
            ports = [(port["name"], port["port"]) for port in spec["ports"]]
            found[name] = {"selector": spec["selector"], "ports": dict(ports)}
        if manifest["kind"] in ("Secret", "ConfigMap", "ServiceAccount"):
            found[name] = {}
    return found


def record(chart: Chart) -> dict[str, Any]:
    """Return what this version installs, for every set of values and for volumes."""
    found = {file.stem: identity(chart.render(file)) for file in CI}
    bundled = next(file for file in CI if "bundled" in file.name)
    with_volumes = chart.render(bundled, sets={"valkey.persistence.enabled": True})
    return {**found, "bundled-cluster-with-volumes": identity(with_volumes)}


def test_an_upgrade_from_the_recorded_version_keeps_what_cannot_change(chart: Chart) -> None:
    now = record(chart)
    for values, objects in json.loads(RECORD.read_text()).items():
        for name, before in objects.items():
            assert now[values].get(name) == before, f"{values}: {name}"


@pytest.mark.parametrize("values", CI, ids=lambda path: path.stem)
def test_selectors_hold_nothing_that_changes_between_versions(chart: Chart, values: Path) -> None:
    for name, kept in identity(chart.render(values)).items():
        assert set(kept.get("selector", {})) <= {
            "app.kubernetes.io/name",
            "app.kubernetes.io/instance",
            "app.kubernetes.io/component",
        }, name


@pytest.mark.parametrize(
    "sets",
    [
        {"commonLabels": {"team": "jobs"}},
        {"commonAnnotations": {"owner": "jobs"}},
        {"image.pullPolicy": "Always"},
        {"imagePullSecrets": ["registry"]},
        {"podSecurityContext.runAsUser": 20001},
        {"redis.password": ""},
        {"serviceAccount.name": "another"},
        {"valkey.maxmemory": "200mb"},
    ],
    ids=str,
)
def test_kubernetes_accepts_an_upgrade_with_a_changed_value(
    chart: Chart, sets: dict[str, Any]
) -> None:
    values = next(file for file in CI if "bundled" in file.name)
    before, after = chart.render(values), chart.render(values, sets=sets)
    assert (
        identity(after).items()
        >= {name: kept for name, kept in identity(before).items() if kept}.items()
    )
    # Nothing of a Job's pods can be changed: it has to be another Job.
    was, now = before.one("Job"), after.one("Job")
    same_name = was["metadata"]["name"] == now["metadata"]["name"]
    assert same_name is (was["spec"] == now["spec"])


if __name__ == "__main__":
    RECORD.write_text(json.dumps(record(Chart(tools.helm())), indent=1, sort_keys=True) + "\n")
