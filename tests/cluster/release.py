"""One release of the chart on a cluster, and what is watched of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cluster import objects
from tests.cluster.entry import Entry, entry
from tests.cluster.objects import Object
from tests.cluster.tools import WAIT_S, Failed, Helm, Kubectl
from tests.helm.chart import CHART

KEY = "not-a-real-key"
AUTHORIZATION = {"Authorization": f"Bearer {KEY}"}
BUNDLED = CHART / "ci" / "bundled-cluster-values.yaml"
_ASK_VALKEY = (
    'if [ -n "${OJS_REDIS_PASSWORD:-}" ]; then export REDISCLI_AUTH="$OJS_REDIS_PASSWORD"; fi; '
    "exec valkey-cli cluster nodes"
)
_POLL_S = 2


def await_until(condition: Callable[[], bool], what: str, *, timeout_s: float = WAIT_S) -> None:
    """Poll; errors of kubectl count as no. Raises AssertionError when it does not hold in time."""
    deadline = time.monotonic() + timeout_s
    trouble = ""
    while True:
        try:
            if condition():
                return
        except Failed as error:
            trouble = str(error)
        assert time.monotonic() < deadline, f"not reached in {timeout_s} s: {what} {trouble}"
        time.sleep(_POLL_S)


@dataclass
class Release:
    """A release, and its values at the last deployment."""

    name: str
    kube: Kubectl
    helm: Helm
    sets: dict[str, Any]
    values: Sequence[Path] = (BUNDLED,)
    history: list[dict[str, Any]] = field(default_factory=list)

    def install(self) -> None:
        """Install it and wait until it is ready."""
        self.helm.deploy("install", self.name, CHART, self.values, self.sets)

    def upgrade(self, **changes: Any) -> None:
        """Change values, named with ``__`` for a dot, and wait until it is ready again."""
        sets = self.sets | {name.replace("__", "."): value for name, value in changes.items()}
        self.helm.deploy("upgrade", self.name, CHART, self.values, sets)
        self.sets = sets

    def rollback(self) -> None:
        """Return to the revision before."""
        self.helm.run("rollback", self.name, "--wait", "--timeout", f"{WAIT_S}s")

    def test(self) -> None:
        """Run the hook of ``helm test``."""
        self.helm.run("test", self.name, "--logs", "--timeout", f"{WAIT_S}s")

    def uninstall(self) -> None:
        """Remove it. Volumes of a StatefulSet stay."""
        self.helm.run(
            "uninstall", self.name, "--wait", "--timeout", f"{WAIT_S}s", "--ignore-not-found"
        )

    def labels(self, component: str) -> dict[str, str]:
        """Labels that select a component's objects."""
        prefix = "app.kubernetes.io"
        return {f"{prefix}/instance": self.name, f"{prefix}/component": component}

    def pods(self, component: str) -> list[Object]:
        """Pods of a component, those that end included."""
        return self.kube.list("pods", self.labels(component))

    def one(self, kind: str, component: str) -> Object:
        """The one object of a kind and a component."""
        (found,) = self.kube.list(kind, self.labels(component))
        return found

    @property
    def service(self) -> str:
        return objects.name(self.one("service", "api"))

    def entry(self, *, avoid: Sequence[str] = ()) -> contextlib.AbstractContextManager[Entry]:
        """Open the way in for clients."""
        return entry(self.kube, self.service, avoid=avoid)

    def ready(self, component: str) -> int:
        """How many pods of a component are ready."""
        return sum(map(objects.is_ready, self.pods(component)))

    def await_ready(self) -> None:
        """Wait until as many pods of everything are ready as there should be."""
        for kind, component in (
            ("statefulset", "valkey"),
            ("deployment", "api"),
            ("deployment", "scheduler"),
        ):
            for owner in self.kube.list(kind, self.labels(component)):
                wanted = owner["spec"]["replicas"]
                await_until(
                    lambda c=component, w=wanted: self.ready(c) >= w,  # type: ignore[misc]
                    f"{wanted} pods of {component} are ready",
                )

    def members(self, pod: str) -> list[objects.Member]:
        """What a Valkey pod says of the cluster."""
        return objects.members(self.kube.execute(pod, "valkey", "sh", "-c", _ASK_VALKEY))

    def view(self) -> list[objects.Member]:
        """What the first Valkey pod says that is ready."""
        for pod in self.pods("valkey"):
            if objects.is_ready(pod):
                return self.members(objects.name(pod))
        raise Failed("no Valkey pod is ready")

    def masters(self) -> dict[str, Object]:
        """Pods that serve slots, by name."""
        addresses = {member.address for member in self.view() if member.is_master}
        return {
            objects.name(pod): pod
            for pod in self.pods("valkey")
            if pod["status"].get("podIP") in addresses
        }

    def await_whole(self, *, masters: int = 3, replicas: int = 1) -> None:
        """Wait until every slot has a master, every master its replicas, and all is ready."""
        await_until(
            lambda: objects.faults(self.view(), masters, replicas) == [],
            f"{masters} masters with {replicas} replicas each",
        )
        self.await_ready()

    def diagnosis(self) -> str:
        """What a reader of a failure needs: pods, events and the ends of logs."""
        said = []
        for words in (
            ("get", "pods", "--output", "wide"),
            ("get", "events", "--sort-by=.lastTimestamp"),
            (
                *("logs", "--selector", f"app.kubernetes.io/instance={self.name}"),
                *("--all-containers", "--prefix", "--tail=30", "--max-log-requests=40"),
            ),
        ):
            with contextlib.suppress(Failed):
                said.append(self.kube.run(*words)[-8000:])
        return "\n".join(said)


@contextlib.contextmanager
def namespace(kube: Kubectl, name: str) -> Iterator[Kubectl]:
    """A namespace that enforces Pod Security ``restricted``; deleted with all that is in it."""
    level = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    kube.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": level}}
    )
    try:
        yield kube.within(name)
    finally:
        kube.delete("namespace", name)


@contextlib.contextmanager
def installed(release: Release) -> Iterator[Release]:
    """Install a release, and remove it; a failure prints what the cluster says of it."""
    try:
        release.install()
        yield release
    except BaseException:
        print(release.diagnosis())
        raise
    finally:
        with contextlib.suppress(Failed):
            release.uninstall()


@contextlib.contextmanager
def tainted(kube: Kubectl, nodes: Sequence[str], taint: str) -> Iterator[None]:
    """Nodes that refuse new pods without a toleration, such as ``key=value:NoSchedule``."""
    try:
        kube.run("taint", "nodes", *nodes, taint)
        yield
    finally:
        for node in nodes:
            with contextlib.suppress(Failed):
                kube.run("taint", "nodes", node, f"{taint}-")


@contextlib.contextmanager
def cordoned(kube: Kubectl, node: str) -> Iterator[None]:
    """A node that takes no new pods."""
    try:
        kube.run("cordon", node)
        yield
    finally:
        kube.run("uncordon", node)


def options_of(settings: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Values of a release for tests: the image, and a way in."""
    return {
        **settings,
        "service.type": "NodePort",
        "httpRoute.enabled": False,  # the Gateway API is in few clusters
        **{name.replace("__", "."): value for name, value in more.items()},
    }
