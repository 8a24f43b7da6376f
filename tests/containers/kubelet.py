"""Runs rendered pods as containers: what a kubelet and DNS do, as far as these pods can see.

Commands, environment, volumes, security contexts, memory limits, probes and hooks are taken as they
are rendered. A pod has an address of its own, and another one after each start. Names of Services
and of a StatefulSet's pods are kept in ``/etc/hosts``, which all containers share and which changes
when a pod starts or ends. A Service's name leads to all of its pods, so its port has to be theirs.

Nothing here restarts a container or calls a probe by itself; tests do, at moments that they choose.
What a manifest asks for and this module does not understand fails.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from tests.containers.image import Image
from tests.containers.network import Interface, Network
from tests.containers.oci import DEFAULT_CAPABILITIES, Container, Mount, Settings
from tests.helm.chart import Manifest, Rendering

PATIENCE_S = 300
_PROBE_S = 0.3
"""Between two probes: each starts a process in the container, which costs more than it asks."""
NAMESPACE = "work"
_UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
_REFERENCE = re.compile(r"\$\((\w+)\)")


def await_probes(passed: Callable[[], bool], what: str) -> None:
    """Ask until it is so. Raises AssertionError when it is not in time."""
    deadline = time.monotonic() + PATIENCE_S
    while not passed():
        assert time.monotonic() < deadline, f"not reached in {PATIENCE_S} s: {what}"
        time.sleep(_PROBE_S)


@dataclass
class Pod:
    """A pod that was started.

    Attributes:
        host: name of the host that its environment gives.
        subdomain: name of the Service that names it; empty for none.
    """

    name: str
    template: Manifest
    interface: Interface
    host: str
    folder: Path
    subdomain: str = ""
    containers: dict[str, Container] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return self.interface.address

    @property
    def labels(self) -> dict[str, str]:
        found: dict[str, str] = self.template["metadata"]["labels"]
        return found

    def manifest(self, name: str) -> Manifest:
        """What was rendered for a container."""
        (found,) = (each for each in self.template["spec"]["containers"] if each["name"] == name)
        return dict(found)

    def port(self, manifest: Manifest, wanted: str | int) -> int:
        """A port by its name or number."""
        if isinstance(wanted, int):
            return wanted
        (found,) = (each for each in manifest["ports"] if each["name"] == wanted)
        return int(found["containerPort"])

    def passes(self, probe: str) -> bool:
        """Whether a probe succeeds now for every container that has it."""
        return all(self._passes(name, probe) for name in self.containers)

    def _passes(self, name: str, probe: str) -> bool:
        manifest = self.manifest(name)
        container = self.containers[name]
        code = container.ended()
        assert code is None, f"{self.name}/{name} ended with {code}\n{container.text()}"
        rendered = manifest.get(probe)
        if rendered is None:
            return True
        if command := rendered.get("exec", {}).get("command"):
            return container.execute(*command).returncode == 0
        action = rendered.get("httpGet") or rendered["tcpSocket"]
        where = (self.address, self.port(manifest, action["port"]))
        with contextlib.suppress(OSError, httpx.TransportError):
            if "path" not in action:
                socket.create_connection(where, rendered["timeoutSeconds"]).close()
                return True
            scheme = action.get("scheme", "HTTP").lower()
            url = f"{scheme}://{where[0]}:{where[1]}{action['path']}"
            return httpx.get(url, timeout=rendered["timeoutSeconds"], verify=False).is_success  # noqa: S501
        return False

    def await_ready(self) -> None:
        """Pass the startup probes, then the readiness probes."""
        for probe in ("startupProbe", "readinessProbe"):
            await_probes(partial(self.passes, probe), f"{self.name} passes its {probe}")

    def text(self) -> str:
        """The ends of all its logs."""
        return "\n".join(f"== {name}\n{c.text()}" for name, c in self.containers.items())


@dataclass
class Kubelet:
    """Starts and ends the pods of one release.

    Attributes:
        images: an image by the repository that manifests name.
        range_start: first of the user ids that OpenShift's ``restricted-v2`` gives to this
            namespace: pods get it, with group 0, and may not ask for another. None elsewhere.
    """

    rendering: Rendering
    images: Mapping[str, Image]
    network: Network
    folder: Path
    range_start: int | None = None
    pods: dict[str, Pod] = field(default_factory=dict)
    _started: int = 0

    def start(self, name: str, owner: Manifest, host: str = "host-0") -> Pod:
        """Start a pod of an owner (a Deployment, a Job, ...), or one that is rendered as such."""
        template = owner if owner["kind"] == "Pod" else owner["spec"]["template"]
        assert name not in self.pods, f"{name} is there"
        self._started += 1
        folder = self.folder / f"{name}-{self._started}"
        service = owner["spec"].get("serviceName", "")
        pod = Pod(name, template, self.network.connect(), host, folder, service)
        folder.mkdir(parents=True)
        self.pods[name] = pod
        self._publish()
        for manifest in template["spec"].get("initContainers", []):
            container = self._start(pod, manifest)
            if manifest.get("restartPolicy") != "Always":
                assert container.wait(PATIENCE_S) == 0, container.text()
                container.remove()
        for manifest in template["spec"]["containers"]:
            pod.containers[manifest["name"]] = self._start(pod, manifest)
        return pod

    def _start(self, pod: Pod, manifest: Manifest) -> Container:
        name = f"{self.network.prefix}-{self._started}-{manifest['name']}"
        container = Container(name, self._settings(pod, manifest), pod.folder / name)
        container.start()
        return container

    def _settings(self, pod: Pod, manifest: Manifest) -> Settings:
        spec = pod.template["spec"]
        context = {**spec.get("securityContext", {}), **manifest.get("securityContext", {})}
        image = self.images[re.split(r"[:@]", manifest["image"])[0]]
        uid, gid = self._ids(context, image)
        fs_group = context.get("fsGroup", self.range_start)
        capabilities = set(DEFAULT_CAPABILITIES)
        if context.get("capabilities", {}).get("drop") == ["ALL"]:
            capabilities.clear()
        environment = {**image.env, "HOSTNAME": pod.name, **self._environment(pod, manifest)}
        command = manifest.get("command", image.entrypoint)
        default = [] if "command" in manifest else image.command
        words = [*command, *manifest.get("args", default)]
        limit = manifest.get("resources", {}).get("limits", {}).get("memory")
        return Settings(
            image.root,
            [_REFERENCE.sub(lambda match: environment[match[1]], word) for word in words],
            environment,
            cwd=manifest.get("workingDir", image.workdir),
            uid=uid,
            gid=gid,
            groups=[] if fs_group is None else [fs_group],
            read_only=context.get("readOnlyRootFilesystem", False),
            capabilities=sorted(capabilities),
            no_new_privileges=not context.get("allowPrivilegeEscalation", True),
            confined=context.get("seccompProfile", {}).get("type") == "RuntimeDefault",
            memory_bytes=None if limit is None else int(limit[:-2]) * _UNITS[limit[-2:]],
            mounts=self._mounts(pod, manifest, fs_group),
            network=pod.interface.path,
            hostname=pod.name,
        )

    def _ids(self, context: Mapping[str, Any], image: Image) -> tuple[int, int]:
        if self.range_start is not None:
            for name in ("runAsUser", "fsGroup"):
                wanted = context.get(name, self.range_start)
                assert wanted == self.range_start, f"restricted-v2 refuses {name} {wanted}"
            uid, gid = self.range_start, 0
        elif "runAsUser" in context:
            uid, gid = context["runAsUser"], 0
        else:
            uid, gid = image.ids
        gid = context.get("runAsGroup", gid) if self.range_start is None else gid
        assert uid or not context.get("runAsNonRoot"), "runAsNonRoot, and its user is root"
        return uid, gid

    def _environment(self, pod: Pod, manifest: Manifest) -> dict[str, str]:
        found: dict[str, str] = {}
        for source in manifest.get("envFrom", []):
            found |= self.rendering.one("ConfigMap", source["configMapRef"]["name"])["data"]
        for entry in manifest.get("env", []):
            value = entry.get("value")
            if value is None:
                value = self._value(pod, entry["valueFrom"])
            found[entry["name"]] = _REFERENCE.sub(
                lambda match: found.get(match[1], match[0]), value
            )
        return found

    def _value(self, pod: Pod, source: Manifest) -> str:
        ((kind, wanted),) = source.items()
        if kind == "secretKeyRef":
            return self.rendering.secret(wanted)
        if kind == "configMapKeyRef":
            return str(self.rendering.one("ConfigMap", wanted["name"])["data"][wanted["key"]])
        assert kind == "fieldRef", f"not understood: {source}"
        if match := re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", wanted["fieldPath"]):
            return str(pod.template["metadata"].get(match[1], {}).get(match[2], ""))
        return {
            "status.podIP": pod.address,
            "status.podIPs": pod.address,
            "metadata.name": pod.name,
            "metadata.namespace": NAMESPACE,
            "spec.nodeName": pod.host,
            "status.hostIP": pod.host,
        }[wanted["fieldPath"]]

    def _mounts(self, pod: Pod, manifest: Manifest, group: int | None) -> list[Mount]:
        mounts = [Mount(self._hosts, "/etc/hosts")]
        volumes = {each["name"]: each for each in pod.template["spec"].get("volumes", [])}
        for wanted in manifest.get("volumeMounts", []):
            source = self._volume(pod, volumes[wanted["name"]], group)
            read_only = wanted.get("readOnly", "emptyDir" not in volumes[wanted["name"]])
            if "subPath" in wanted:
                source = source / str(wanted["subPath"])
            mounts.append(Mount(source, wanted["mountPath"], read_only))
        return mounts

    def _volume(self, pod: Pod, volume: Manifest, group: int | None) -> Path:
        folder: Path = pod.folder / "volumes" / volume["name"]
        if folder.exists():
            return folder
        folder.mkdir(parents=True)
        if "emptyDir" in volume:
            folder.chmod(0o777 if group is None else 0o2777)
        elif "configMap" in volume:
            data = self.rendering.one("ConfigMap", volume["configMap"]["name"])["data"]
            mode = volume["configMap"].get("defaultMode", 0o644)
            for name, text in data.items():
                (folder / name).write_text(text)
                (folder / name).chmod(mode)
        else:
            raise AssertionError(f"not understood: {volume}")
        for path in (folder, *folder.iterdir()):
            os.chown(path, 0, 0 if group is None else group)
        return folder

    @property
    def _hosts(self) -> Path:
        return self.folder / "hosts"

    def _publish(self) -> None:
        """Write the names of all that runs: in place, containers have this very file."""
        lines = ["127.0.0.1 localhost"]
        for pod in self.pods.values():
            names = [pod.name]
            if pod.subdomain:
                names += _spellings(f"{pod.name}.{pod.subdomain}")
            for service in self.rendering.all("Service"):
                selector = service["spec"].get("selector", {})
                if selector and selector.items() <= pod.labels.items():
                    names += _spellings(service["metadata"]["name"])
            lines.append(f"{pod.address} {' '.join(names)}")
        with self._hosts.open("r+" if self._hosts.exists() else "w") as file:
            file.write("\n".join(lines) + "\n")
            file.truncate()

    def stop(self, pod: Pod) -> dict[str, int]:
        """End a pod as a kubelet does; gives the exit codes.

        Raises AssertionError when one had to be killed at the end of its grace period.
        """
        deadline = time.monotonic() + pod.template["spec"].get("terminationGracePeriodSeconds", 30)
        for name, container in pod.containers.items():
            hook = pod.manifest(name).get("lifecycle", {}).get("preStop", {})
            if "exec" in hook:
                done = container.execute(*hook["exec"]["command"])
                assert done.returncode == 0, f"preStop of {name}: {done.stderr}"
            elif hook:
                time.sleep(hook["sleep"]["seconds"])
        for container in pod.containers.values():
            container.send(signal.SIGTERM)
        codes = {
            name: container.wait(max(deadline - time.monotonic(), 1))
            for name, container in pod.containers.items()
        }
        self._remove(pod)
        return codes

    def lose(self, pod: Pod) -> None:
        """Take a pod away with its address and its volumes, as when its host is lost."""
        self.network.disconnect(pod.interface)
        pod.interface = Interface("", "")
        self._remove(pod)

    def _remove(self, pod: Pod) -> None:
        for container in pod.containers.values():
            container.remove()
        if pod.interface.namespace:
            self.network.disconnect(pod.interface)
        shutil.rmtree(pod.folder)
        del self.pods[pod.name]
        self._publish()

    def close(self) -> None:
        """Kill whatever is left."""
        for pod in list(self.pods.values()):
            self.lose(pod)


def _spellings(name: str) -> list[str]:
    """What DNS knows a name of this namespace by."""
    return [name, f"{name}.{NAMESPACE}", f"{name}.{NAMESPACE}.svc"]
