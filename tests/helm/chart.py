"""Render the chart and look up its manifests."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parent.parent.parent / "helm" / "ojs-cluster"
CI = sorted((CHART / "ci").glob("*-values.yaml"))
OLDEST, NEWEST = "1.27", "1.35"
"""Versions of Kubernetes for rendering and validation."""

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The C parser where PyYAML has it; the other one takes most of the time of these tests."""

Manifest = dict[str, Any]


class Refused(Exception):
    """Helm refused to render; the message is what a user reads."""


@lru_cache(maxsize=512)
def _run_once(helm: Path, chart: Path, *arguments: str) -> str:
    """Run helm for a rendering once. Many tests render the same, and the chart does not change."""
    return Chart(helm, chart).run(*arguments)


@dataclass(frozen=True)
class Chart:
    """The chart of this checkout, or a copy of it, and the program that renders it."""

    helm: Path
    path: Path = CHART

    def copied(self, folder: Path, *changes: tuple[str, str, str]) -> Chart:
        """Return a copy with replaced texts, as another version of the chart could be."""
        shutil.copytree(self.path, folder)
        for name, old, new in changes:
            text = (folder / name).read_text()
            assert old in text, f"{old!r} is not in {name}"
            (folder / name).write_text(text.replace(old, new))
        return Chart(self.helm, folder)

    def run(self, *arguments: str) -> str:
        """Run helm.

        Raises:
            Refused: helm failed, with its message.
        """
        done = subprocess.run(
            [str(self.helm), *arguments], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise Refused(done.stdout + done.stderr)
        return done.stdout

    def render(
        self,
        *values: Path,
        sets: Mapping[str, Any] | None = None,
        kubernetes: str = NEWEST,
        release: str = "jobs",
        more: Sequence[str] = (),
    ) -> Rendering:
        """Return the manifests as `helm install` would send them.

        Args:
            values: files such as those of `ci/`.
            sets: single values by their dotted path, set as JSON.
            kubernetes: version of the cluster.
            release: name of the release.
            more: further options of `helm template`.
        """
        command = ["template", release, str(self.path), "--namespace", "work"]
        command += ["--kube-version", f"v{kubernetes}.0", *options(values, sets or {}), *more]
        text = _run_once(self.helm, self.path, *command)
        return Rendering([each for each in yaml.load_all(text, LOADER) if each])

    def notes(self, *values: Path, sets: Mapping[str, Any] | None = None) -> str:
        """Return what ``helm install`` prints at its end; arguments as for ``render``."""
        command = ["install", "jobs", str(self.path), "--namespace", "work", "--dry-run=client"]
        return self.run(*command, *options(values, sets or {})).partition("\nNOTES:\n")[2]


def options(values: Sequence[Path], sets: Mapping[str, Any]) -> list[str]:
    """Return options of helm for values: files, and single ones as JSON."""
    found: list[str] = []
    for file in values:
        found += ["--values", str(file)]
    for path, value in sets.items():
        found += ["--set-json", f"{path}={json.dumps(value)}"]
    return found


@dataclass(frozen=True)
class Rendering:
    """The manifests of one release."""

    manifests: Sequence[Manifest]

    def all(self, kind: str) -> list[Manifest]:
        """Return every manifest of a kind."""
        return [each for each in self.manifests if each["kind"] == kind]

    def one(self, kind: str, ending: str = "") -> Manifest:
        """Return the manifest of a kind whose name has this ending."""
        found = [m for m in self.all(kind) if m["metadata"]["name"].endswith(ending)]
        assert len(found) == 1, f"{len(found)} {kind} that end in {ending!r}"
        return found[0]

    @property
    def api(self) -> Manifest:
        """Return the API's Deployment."""
        return self.one("Deployment", "-api")

    @property
    def scheduler(self) -> Manifest:
        """Return the scheduler's Deployment."""
        return self.one("Deployment", "-scheduler")

    def pods(self) -> list[tuple[str, Manifest]]:
        """Return name of the owner, labels and spec of every kind of pod."""
        found = []
        for each in self.manifests:
            name = f"{each['kind']}/{each['metadata']['name']}"
            if each["kind"] in ("Deployment", "StatefulSet", "Job"):
                found.append((name, each["spec"]["template"]))
            elif each["kind"] == "Pod":
                found.append((name, each))
        return found

    def environment_of_config(self) -> dict[str, str]:
        """Return the variables of the ConfigMap that API and scheduler read."""
        (source, *_) = container(self.api)["envFrom"]
        found: dict[str, str] = self.one("ConfigMap", source["configMapRef"]["name"])["data"]
        return found

    def environment(self, deployment: Manifest) -> dict[str, str]:
        """Return all variables of the first container, with values of the release's ConfigMaps and
        Secrets.

        Raises:
            AssertionError: a variable comes from elsewhere.
        """
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        found: dict[str, str] = {}
        for source in container["envFrom"]:
            found |= self.one("ConfigMap", source["configMapRef"]["name"])["data"]
        for entry in container["env"]:
            found[entry["name"]] = (
                entry["value"]
                if "value" in entry
                else self.secret(entry["valueFrom"]["secretKeyRef"])
            )
        return found

    def secret(self, wanted: Manifest) -> str:
        """Return the value of a reference by name and key in the release's own Secret."""
        value: str = self.one("Secret", wanted["name"])["data"][wanted["key"]]
        return base64.b64decode(value).decode()


def container(deployment: Manifest) -> Manifest:
    """Return the only container of a Deployment."""
    (only,) = deployment["spec"]["template"]["spec"]["containers"]
    found: Manifest = only
    return found
