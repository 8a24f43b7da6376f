"""Validate manifests: built-in kinds by Kubernetes schemas, others by models of their CRDs."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import kubernetes_validate

from tests.helm.chart import Manifest

MODULES = {
    ("keda.sh/v1alpha1", "ScaledObject"): "cloudcoil.models.keda.v1alpha1",
    ("monitoring.coreos.com/v1", "PodMonitor"): "cloudcoil.models.prometheus_operator.v1",
    ("monitoring.coreos.com/v1", "PrometheusRule"): "cloudcoil.models.prometheus_operator.v1",
    ("monitoring.coreos.com/v1", "ServiceMonitor"): "cloudcoil.models.prometheus_operator.v1",
}
"""Modules with the models. They are imported when needed, because an import takes seconds, and each
process of a parallel test run imports this module.
"""


def validate(manifest: Manifest, kubernetes: str) -> None:
    """Check a manifest against the schema of its kind; unknown fields are errors.

    Raises whatever the schema's library raises for what is wrong.
    """
    kind = (manifest["apiVersion"], manifest["kind"])
    if kind in MODULES:
        _by_model(getattr(import_module(MODULES[kind]), kind[1]), manifest)
    elif kind in SHAPES:
        SHAPES[kind](manifest["spec"])
    else:
        kubernetes_validate.validate(manifest, kubernetes, strict=True)


def _by_model(model: Any, manifest: Manifest) -> None:
    # The models drop unknown fields: a field that is lost is not in the CRD.
    parsed = model.model_validate(manifest)
    assert parsed.model_dump(mode="json", by_alias=True, exclude_unset=True) == manifest


def _http_route(spec: Any) -> None:
    """Check the used fields by hand, because no package has the schema of the Gateway API."""
    assert set(spec) <= {"parentRefs", "hostnames", "rules"}
    assert all(set(ref) <= {"group", "kind", "name", "namespace", "sectionName", "port"}
               and ref["name"] for ref in spec["parentRefs"])  # fmt: skip
    for rule in spec["rules"]:
        assert set(rule) <= {"name", "matches", "filters", "backendRefs", "timeouts"}
        for match in rule["matches"]:
            assert match["path"]["type"] in ("Exact", "PathPrefix", "RegularExpression")
            assert match["path"]["value"].startswith("/")
        for backend in rule["backendRefs"]:
            assert isinstance(backend["port"], int)
            assert backend["name"]


def _gateway(spec: Any) -> None:
    assert set(spec) == {"gatewayClassName", "listeners"}
    for listener in spec["listeners"]:
        assert set(listener) <= {"name", "hostname", "port", "protocol", "tls", "allowedRoutes"}
        assert listener["protocol"] == "HTTPS"
        assert all(each["name"] for each in listener["tls"]["certificateRefs"])


def _backend_tls_policy(spec: Any) -> None:
    assert set(spec) == {"targetRefs", "validation"}
    assert set(spec["validation"]) == {"hostname", "caCertificateRefs"}
    for reference in (*spec["targetRefs"], *spec["validation"]["caCertificateRefs"]):
        assert set(reference) == {"group", "kind", "name"}


def _certificate(spec: Any) -> None:
    assert set(spec) <= {"secretName", "dnsNames", "issuerRef"}
    assert set(spec["issuerRef"]) <= {"group", "kind", "name"}
    assert all(spec["dnsNames"])


SHAPES: dict[tuple[str, str], Callable[[Any], None]] = {
    ("cert-manager.io/v1", "Certificate"): _certificate,
    ("gateway.networking.k8s.io/v1", "BackendTLSPolicy"): _backend_tls_policy,
    ("gateway.networking.k8s.io/v1", "Gateway"): _gateway,
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): _http_route,
}
