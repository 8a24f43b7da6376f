"""What the sets of values in ``ci/`` expect of a cluster, made or replaced for a test."""

from __future__ import annotations

import base64
import contextlib
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tests.cluster import objects
from tests.cluster.objects import Object
from tests.cluster.release import KEY, Release
from tests.cluster.tools import Failed, Kubectl

PASSWORD = "not-a-real-password"  # that of the values


@dataclass(frozen=True)
class Crd:
    """A custom resource that some values ask for."""

    group: str
    version: str
    kind: str
    plural: str

    @property
    def name(self) -> str:
        return f"{self.plural}.{self.group}"

    def exists(self, kube: Kubectl) -> bool:
        """Whether the cluster knows it."""
        with contextlib.suppress(Failed):
            kube.get("crd", self.name)
            return True
        return False

    @contextlib.contextmanager
    def present(self, kube: Kubectl) -> Iterator[None]:
        """Define it while the block runs, without a schema; no controller acts on it."""
        if self.exists(kube):
            yield
            return
        kube.apply(self.definition())
        try:
            kube.run("wait", "--for=condition=Established", f"crd/{self.name}", "--timeout=60s")
            yield
        finally:
            kube.delete("crd", self.name)

    def definition(self) -> Object:
        """A definition without a schema."""
        fields = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        version = {"name": self.version, "served": True, "storage": True}
        metadata: Object = {"name": self.name}
        if self.group.endswith((".k8s.io", ".kubernetes.io")):
            # The API server refuses definitions in its own groups that do not say this.
            metadata["annotations"] = {"api-approved.kubernetes.io": "unapproved, for a test"}
        return {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": metadata,
            "spec": {
                "group": self.group,
                "scope": "Namespaced",
                "names": {"kind": self.kind, "plural": self.plural, "singular": self.kind.lower()},
                "versions": [{**version, "schema": {"openAPIV3Schema": fields}}],
            },
        }


CRDS = (
    Crd("keda.sh", "v1alpha1", "ScaledObject", "scaledobjects"),
    Crd("monitoring.coreos.com", "v1", "ServiceMonitor", "servicemonitors"),
    Crd("monitoring.coreos.com", "v1", "PodMonitor", "podmonitors"),
    Crd("monitoring.coreos.com", "v1", "PrometheusRule", "prometheusrules"),
    Crd("gateway.networking.k8s.io", "v1", "HTTPRoute", "httproutes"),
)
CUSTOM: dict[str, tuple[str, ...]] = {
    "api-tls-values": ("ServiceMonitor",),
    "bundled-cluster-values": ("HTTPRoute",),
    "existing-secrets-values": ("ServiceMonitor",),
    "gateway-values": ("HTTPRoute",),
    "keda-values": ("ScaledObject", "ServiceMonitor"),
    "observed-cluster-values": ("ServiceMonitor", "PodMonitor", "PrometheusRule"),
    "production-values": ("ServiceMonitor", "PrometheusRule"),
}
"""Kinds that each set asks for."""


@dataclass
class Surroundings:
    """A namespace in which a release has a Valkey Cluster that the others use as their Redis."""

    space: Kubectl
    store: Release

    # Values that name what only their author has.
    CHANGES: ClassVar[dict[str, dict[str, Any]]] = {
        "api-tls": {"redis.password": PASSWORD, "tls.existingSecret": "jobs-certificate"},
        "bundled-cluster": {"httpRoute.enabled": True},
        # The certificates that cert-manager would make are Secrets of the namespace.
        "encrypted-cluster": {"extraObjects": [], "valkey.persistence.enabled": False},
        "existing-secrets": {"serviceAccount.create": True, "networkPolicy.redisPorts": [6379]},
        "gateway": {
            "extraObjects": [],
            "httpRoute.enabled": True,
            "redis.password": PASSWORD,
            "tls.existingSecret": "jobs-certificate",
        },
        "keda": {"redis.password": PASSWORD},
        "minimal": {"redis.password": PASSWORD},
        "observed-cluster": {"valkey.persistence.enabled": False},
        "production": {
            "imagePullSecrets": [],
            "api.priorityClassName": "",
            "api.topologySpread.zones": "ScheduleAnyway",
            "networkPolicy.redisTo": [],
            "networkPolicy.apiFrom": [],
        },
        # The bundled servers speak no TLS to the other sets.
        "tls": {
            f"redis.{name}": ""
            for name in ("username", "tls.existingSecret", "tls.certKey", "tls.keyKey")
        },
    }

    @property
    def address(self) -> str:
        """Name and port of the Valkey Cluster."""
        return f"{objects.name(self.store.one('statefulset', 'valkey'))}:6379"

    def changes(self, name: str) -> dict[str, Any]:
        """Values that let a set of ``ci/`` run here."""
        found = dict(self.CHANGES[name])
        if name.endswith("-cluster"):
            return found
        if name == "production":
            found["redis.url"] = f"redis://:{PASSWORD}@{self.address}"
        elif name != "existing-secrets":
            found["redis.url"] = f"redis://{self.address}"
        if name == "keda":
            # Its workers are in a namespace of their own, which a cluster may have for others.
            where = {"name": "mailers", "namespace": self.space.namespace, "maxReplicas": 40}
            deployment = {**where, "queues": ["mail", "mail.bulk"], "jobsPerPod": 25}
            found["workers.scaling.deployments"] = [deployment]
        return found

    def is_plain(self, values: Path) -> bool:
        """Whether clients of the tests can use the API: its key is theirs, and it speaks HTTP."""
        text = values.read_text()
        return f"apiKey: {KEY}" in text and "\ntls:" not in text

    def prepare(self) -> None:
        """Make the Secrets and ConfigMaps, and let the other releases reach the Valkey Cluster."""
        certificate, key = certificate_for(f"*.{self.space.namespace}.svc")
        nodes, nodes_key = certificate_for("*.encrypted-cluster-ojs-cluster-valkey")
        self.space.apply(
            secret("redis-access", url=f"redis://{self.address}", password=PASSWORD),
            secret("ojs-keys", current=KEY, former="the-former-key"),
            secret("scraper", token=KEY),
            secret(
                "valkey-certificate", **{"tls.crt": nodes, "tls.key": nodes_key, "ca.crt": nodes}
            ),
            secret(
                "jobs-certificate",
                **{"tls.crt": certificate, "tls.key": key, "ca.crt": certificate},
            ),
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "cluster-wide"},
                "data": {},
            },
            admission(self.store.labels("valkey")),
        )


def admission(store: Mapping[str, str]) -> Object:
    """A policy that lets all releases of a namespace reach the Valkey Cluster of one of them."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "all-releases"},
        "spec": {
            "podSelector": {"matchLabels": dict(store)},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": {}}]}],
        },
    }


def quota() -> Object:
    """A quota that refuses pods without these requests and limits."""
    return {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "all"},
        "spec": {
            "hard": {
                "requests.cpu": "20",
                "requests.memory": "20Gi",
                "limits.memory": "30Gi",
                "pods": "40",
            }
        },
    }


def secret(name: str, **entries: str) -> Object:
    """A Secret of texts."""
    data = {key: base64.b64encode(text.encode()).decode() for key, text in entries.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data}


def certificate_for(host: str) -> tuple[str, str]:
    """A certificate that signed itself, and its key."""
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder, name)) for name in ("crt", "key")]
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        command += ["-subj", "/CN=ojs-test", "-addext", f"subjectAltName=DNS:{host}"]
        subprocess.run(
            [*command, "-out", files[0], "-keyout", files[1]], check=True, capture_output=True
        )
        return Path(files[0]).read_text(), Path(files[1]).read_text()
