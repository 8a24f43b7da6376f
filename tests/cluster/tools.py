"""``kubectl`` and ``helm``: what is asked of a cluster goes through these two programs only."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.helm.chart import options

Object = dict[str, Any]
_CALL_S = 120
WAIT_S = 600
"""For what has to pull images, form a cluster or end a pod's grace period."""


class Failed(Exception):
    """A program ended with an error; the message is what it said."""


def run(command: Sequence[str], *, timeout_s: float, text: str = "") -> str:
    """Run a program and return its output. Raises ``Failed``, also when it does not end in time."""
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"{' '.join(command)}: no end in {timeout_s} s") from None
    if done.returncode != 0:
        raise Failed(f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


@dataclass(frozen=True)
class Kubectl:
    """``kubectl`` for one cluster, and one namespace of it when that is named."""

    program: str
    kubeconfig: Path
    namespace: str = ""

    def within(self, namespace: str) -> Kubectl:
        """The same for a namespace."""
        return replace(self, namespace=namespace)

    def command(self, *words: str) -> list[str]:
        """The whole command line."""
        where = ["--namespace", self.namespace] if self.namespace else []
        return [self.program, "--kubeconfig", str(self.kubeconfig), *where, *words]

    def run(self, *words: str, timeout_s: float = _CALL_S, text: str = "") -> str:
        """Run it. Raises ``Failed``."""
        return run(self.command(*words), timeout_s=timeout_s, text=text)

    def get(self, kind: str, name: str) -> Object:
        """Return one object. Raises ``Failed`` when it is not there."""
        found: Object = json.loads(self.run("get", kind, name, "--output", "json"))
        return found

    def list(self, kind: str, labels: Mapping[str, str] | None = None) -> list[Object]:
        """Return the objects of a kind that have these labels."""
        chosen = [f"{key}={value}" for key, value in (labels or {}).items()]
        selector = ["--selector", ",".join(chosen)] if chosen else []
        answer = json.loads(self.run("get", kind, *selector, "--output", "json"))
        found: list[Object] = answer["items"]
        return found

    def apply(self, *objects: Object) -> None:
        """Create or change objects."""
        everything = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.run("apply", "--filename", "-", text=json.dumps(everything))

    def delete(self, kind: str, *names: str, force: bool = False) -> None:
        """Delete objects; with ``force`` their hosts are not asked. Absent ones are no error."""
        how = ["--grace-period=0", "--force"] if force else []
        self.run("delete", kind, *names, "--ignore-not-found", "--wait=false", *how)

    def execute(self, pod: str, container: str, *command: str) -> str:
        """Run a command in a container."""
        return self.run("exec", pod, "--container", container, "--", *command)


@dataclass(frozen=True)
class Helm:
    """``helm`` for one namespace of a cluster."""

    program: str
    kubeconfig: Path
    namespace: str

    def command(self, *words: str) -> list[str]:
        """The whole command line."""
        return [
            self.program,
            "--kubeconfig",
            str(self.kubeconfig),
            "--namespace",
            self.namespace,
            *words,
        ]

    def run(self, *words: str) -> str:
        """Run it. Raises ``Failed``."""
        return run(self.command(*words), timeout_s=WAIT_S + 60)

    def deploy(
        self, verb: str, release: str, chart: Path, values: Sequence[Path], sets: Mapping[str, Any]
    ) -> str:
        """``install`` or ``upgrade`` a release and wait until it is ready. Raises ``Failed``."""
        waits = ("--wait", "--timeout", f"{WAIT_S}s")
        return self.run(verb, release, str(chart), *waits, *options(values, sets))
