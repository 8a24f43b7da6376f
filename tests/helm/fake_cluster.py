"""A fake API server for tests of what Helm does with a cluster.

Helm's ``lookup`` is empty without a cluster, and a rollback sends what an earlier revision
rendered. Real helm programs talk to this server over HTTP. It supports discovery, objects by path,
label selectors, and of server-side apply the owner of one field: ``spec.replicas``, which a scaler
shares with Helm.
"""

from __future__ import annotations

import base64
import copy
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.helm.chart import LOADER, NEWEST, Chart, Manifest

KINDS = {
    "v1": ("ConfigMap", "Secret", "Service", "ServiceAccount", "Pod", "PersistentVolumeClaim"),
    "apps/v1": ("Deployment", "StatefulSet"),
    "autoscaling/v2": ("HorizontalPodAutoscaler",),
    "batch/v1": ("Job",),
    "gateway.networking.k8s.io/v1": ("HTTPRoute",),
    "keda.sh/v1alpha1": ("ScaledObject",),
    "monitoring.coreos.com/v1": ("ServiceMonitor", "PodMonitor", "PrometheusRule"),
    "networking.k8s.io/v1": ("NetworkPolicy", "Ingress"),
    "policy/v1": ("PodDisruptionBudget",),
}
NAMESPACE = "work"
OPTIONS = ["--namespace", NAMESPACE, "--kubeconfig", os.devnull, "--qps=1000", "--burst-limit=1000"]


def discovery() -> dict[str, Any]:
    """Return the discovery documents of a cluster, by path."""
    groups = [version.split("/") for version in KINDS if "/" in version]
    found: dict[str, Any] = {
        "/version": {"major": "1", "minor": NEWEST.partition(".")[2], "gitVersion": f"v{NEWEST}.0"},
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
        found[_root(version)] = {
            "kind": "APIResourceList",
            "groupVersion": version,
            "resources": [
                {"name": f"{kind.lower()}s", "namespaced": True, "kind": kind, "verbs": ["get"]}
                for kind in kinds
            ],
        }
    return found


def _root(version: str) -> str:
    return f"/apis/{version}" if "/" in version else f"/api/{version}"


def path(manifest: Manifest) -> str:
    """Return the path of an object on the API server."""
    kinds = f"{manifest['kind'].lower()}s"
    name = manifest["metadata"]["name"]
    return f"{_root(manifest['apiVersion'])}/namespaces/{NAMESPACE}/{kinds}/{name}"


class _Refused(Exception):
    """The API server refuses an object; reason and message are those of Kubernetes."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass
class Cluster:
    """Objects by their paths. It serves one helm at a time."""

    url: str = ""
    objects: dict[str, Manifest] = field(default_factory=dict)

    def put(self, *manifests: Manifest) -> None:
        """Store objects as they are."""
        for manifest in manifests:
            self.objects[path(manifest)] = copy.deepcopy(manifest)

    def named(self, kind: str, name: str) -> Manifest:
        """Return the one object of a kind and name."""
        (found,) = (
            each
            for each in self.objects.values()
            if each["kind"] == kind and each["metadata"]["name"] == name
        )
        return found

    def scale(self, name: str, replicas: int, manager: str = "kube-controller-manager") -> None:
        """Set the replicas of a Deployment as a scaler or ``kubectl scale`` does."""
        live = self.named("Deployment", name)
        live["spec"]["replicas"] = replicas
        kept = [each for each in _managers(live) if each.get("subresource") != "scale"]
        for each in kept:
            each["fieldsV1"]["f:spec"].pop("f:replicas", None)
        scaled = {"manager": manager, "operation": "Update", "subresource": "scale"}
        live["metadata"]["managedFields"] = [*kept, {**scaled, "fieldsV1": _owned("f:replicas")}]

    def helm(self, chart: Chart, command: str, *arguments: str) -> str:
        """Run helm against this cluster, without hooks: nothing runs their pods here.

        Raises:
            Refused: helm failed; with what it says.
        """
        if command in ("upgrade", "rollback"):
            arguments = (*arguments, "--no-hooks")
        return chart.run(command, *arguments, *OPTIONS, "--kube-apiserver", self.url)

    def apply(self, where: str, manifest: Manifest, *, forced: bool) -> Manifest:
        """Store what a server-side apply sends.

        Raises:
            _Refused: the number of replicas differs from the one that a scaler owns.
        """
        live = self.objects.get(where)
        sent = manifest.get("spec", {}).get("replicas")
        managers = _managers(live) if live else []
        scaled = [each for each in managers if each.get("subresource") == "scale"]
        if live and sent is not None and scaled and sent != live["spec"]["replicas"] and not forced:
            owner = scaled[0]["manager"]
            raise _Refused("Conflict", f'Apply failed: conflict with "{owner}": .spec.replicas')
        if live and sent is None and scaled:
            manifest["spec"]["replicas"] = live["spec"]["replicas"]
        fields = ["f:template"] if sent is None else ["f:template", "f:replicas"]
        ours = {"manager": "helm", "operation": "Apply", "fieldsV1": _owned(*fields)}
        if forced and sent is not None:
            scaled = []
        manifest["metadata"]["managedFields"] = [ours, *scaled]
        return self._store(where, manifest)

    def _store(self, where: str, manifest: Manifest) -> Manifest:
        manifest["metadata"].setdefault("namespace", NAMESPACE)
        if manifest["kind"] == "Deployment" and manifest["spec"].get("replicas") is None:
            manifest["spec"]["replicas"] = 1
        for claim in manifest.get("spec", {}).get("volumeClaimTemplates", []):
            requests = claim["spec"]["resources"]["requests"]
            whole, _, fraction = requests["storage"].partition(".")
            if fraction == "5Gi":
                requests["storage"] = f"{int(whole) * 1024 + 512}Mi"
        live = self.objects.get(where)
        if live and (changed := _cannot_change(live, manifest)):
            raise _Refused("Invalid", f"spec: Forbidden: updates to {changed} are forbidden")
        self.objects[where] = manifest
        return manifest

    def answer(self, verb: str, url: str, kind_of_body: str, body: bytes) -> tuple[int, Any]:
        """Return status and body for a request."""
        try:
            return self._answer(verb, url, kind_of_body, body)
        except _Refused as problem:
            return _status(problem.reason)["code"], {
                **_status(problem.reason),
                "message": str(problem),
            }

    def _answer(self, verb: str, url: str, kind_of_body: str, body: bytes) -> tuple[int, Any]:
        where, query = urlsplit(url).path, parse_qs(urlsplit(url).query)
        if verb == "GET":
            return self._get(where, query.get("labelSelector", [""])[0])
        sent: Manifest = _decoded(body) if body else {}
        if verb == "DELETE":
            gone = self.objects.pop(where, None)
            return (200, _status("Success")) if gone else (404, _status("NotFound"))
        if query.get("dryRun"):
            return 200, sent
        if verb == "POST":
            where = f"{where}/{sent['metadata']['name']}"
            if where in self.objects:
                return 409, _status("AlreadyExists")
            return 201, self._store(where, sent)
        if verb == "PATCH" and "apply-patch" in kind_of_body:
            return 200, self.apply(where, sent, forced=query.get("force") == ["true"])
        if verb == "PATCH":
            if where not in self.objects:
                return 404, _status("NotFound")
            sent = _merged(self.objects[where], sent)
        return 200, self._store(where, sent)

    def _get(self, where: str, selector: str) -> tuple[int, Any]:
        found = discovery().get(where) or self.objects.get(where)
        if found:
            return 200, found
        kind = _LISTS.get(where.rpartition("/")[2])
        if kind is None:
            return 404, _status("NotFound")
        wanted = dict(pair.split("=") for pair in selector.split(",") if pair)
        items = [
            each
            for name, each in self.objects.items()
            if name.rpartition("/")[0] == where
            and wanted.items() <= each["metadata"].get("labels", {}).items()
        ]
        version = where.removeprefix("/apis/").removeprefix("/api/").partition("/namespaces/")[0]
        return 200, {"kind": f"{kind}List", "apiVersion": version, "items": items}


_LISTS = {f"{kind.lower()}s": kind for kinds in KINDS.values() for kind in kinds}


def _cannot_change(live: Manifest, sent: Manifest) -> str:
    """Return the field that an update may not change but does, or nothing."""
    if live["kind"] == "Deployment":
        fixed = {"selector"}
    elif live["kind"] == "StatefulSet":
        fixed = {*live["spec"], *sent["spec"]} - {"replicas", "template", "updateStrategy"}
    elif live["kind"] == "Job":
        fixed = {"template", "selector"}
    else:
        fixed = set()
    changed = (name for name in fixed if live["spec"].get(name) != sent["spec"].get(name))
    return next(changed, "")


def _owned(*fields: str) -> dict[str, Any]:
    return {"f:spec": {name: {} for name in fields}}


def _managers(live: Manifest) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = live["metadata"].get("managedFields", [])
    return found


def _status(reason: str) -> dict[str, Any]:
    codes = {"Success": 200, "NotFound": 404, "AlreadyExists": 409, "Conflict": 409, "Invalid": 422}
    code = codes[reason]
    outcome = "Success" if code == 200 else "Failure"
    return {"kind": "Status", "apiVersion": "v1", "status": outcome, "reason": reason, "code": code}


def _decoded(body: bytes) -> Manifest:
    """Return what a client sent. Helm sends the Secrets of its releases as protocol buffers."""
    if not body.startswith(b"k8s\0"):
        found: Manifest = yaml.load(body, LOADER)  # noqa: S506 - a safe loader
        return found
    envelope = _fields(body[4:])
    secret = _fields(envelope[2][0])
    metadata = _fields(secret[1][0])
    pairs = (_fields(each) for each in secret.get(2, []))
    labels = (_fields(each) for each in metadata.get(11, []))
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": metadata[1][0].decode(),
            "labels": {each[1][0].decode(): each[2][0].decode() for each in labels},
        },
        "data": {each[1][0].decode(): base64.b64encode(each[2][0]).decode() for each in pairs},
        "type": secret[3][0].decode(),
    }


def _fields(message: bytes) -> dict[int, list[bytes]]:
    """Return the fields of a protocol buffer that have a length, by their numbers."""
    found: dict[int, list[bytes]] = {}
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    while at < len(message):
        key = number()
        length = number()
        if key & 7 == 2:
            found.setdefault(key >> 3, []).append(message[at : at + length])
            at += length
    return found


def _merged(old: Any, patch: Any) -> Any:
    """Return a strategic merge: null removes, and items of lists that have names are merged."""
    if isinstance(patch, list) and isinstance(old, list) and _named([*old, *patch]):
        items = {each["name"]: each for each in old}
        for each in patch:
            if each.get("$patch") == "delete":
                items.pop(each["name"], None)
            else:
                items[each["name"]] = _merged(items.get(each["name"], {}), each)
        return list(items.values())
    if not isinstance(patch, dict) or not isinstance(old, dict):
        return patch
    merged = dict(old)
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        elif not name.startswith("$"):  # how lists are ordered, and what unions keep
            merged[name] = _merged(old.get(name), value)
    return merged


def _named(items: list[Any]) -> bool:
    return all(isinstance(each, dict) and "name" in each for each in items)


@contextmanager
def running(*manifests: Manifest) -> Iterator[Cluster]:
    """Serve a cluster that contains only the given manifests."""
    served = Cluster()
    served.put(*manifests)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 65536  # a response in one packet: Nagle's algorithm would hold the second

        def _answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            kind = self.headers.get("Content-Type") or ""
            code, answer = served.answer(self.command, self.path, kind, self.rfile.read(length))
            body = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

        def log_message(self, format: str, *args: Any) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        served.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()
