"""The page about workers on Kubernetes: its manifest fits the chart and the worker."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ojs_client import Worker, __version__
from tests.helm.chart import CHART, NEWEST, OLDEST, Chart, Manifest
from tests.helm.crds import validate

PAGE = CHART.parent.parent / "docs" / "guide" / "workers-on-kubernetes.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
DEPLOYMENT, VALUES = (text for language, text in BLOCKS if language == "yaml")
_DRAIN_S = 20
"""Time in seconds that a drain takes at most after the grace period, as the page says."""


def default(argument: str) -> Any:
    """Return the default value of an argument of ``Worker``."""
    return inspect.signature(Worker).parameters[argument].default


@pytest.fixture
def deployment() -> Manifest:
    manifest: Manifest = yaml.safe_load(DEPLOYMENT)
    return manifest


@pytest.mark.parametrize("kubernetes", [OLDEST, NEWEST])
def test_the_manifest_is_valid(deployment: Manifest, kubernetes: str) -> None:
    validate(deployment, kubernetes)


def test_kubernetes_waits_for_the_drain(deployment: Manifest) -> None:
    pod = deployment["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > default("grace") + _DRAIN_S
    longer = re.search(
        r"grace=(\d+)\)` and `terminationGracePeriodSeconds: (\d+)", PAGE.read_text()
    )
    assert longer is not None
    assert int(longer[2]) > int(longer[1]) + _DRAIN_S


def test_the_chart_scales_the_deployment(
    chart: Chart, deployment: Manifest, tmp_path: Path
) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(VALUES)
    rendered = chart.render(CHART / "ci" / "minimal-values.yaml", values)
    scaler = rendered.one("ScaledObject")
    assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]
    *_, backlog = scaler["spec"]["triggers"]
    assert backlog["metadata"]["threshold"] == str(default("concurrency"))
    (worker,) = deployment["spec"]["template"]["spec"]["containers"]
    url = next(each["value"] for each in worker["env"] if each["name"] == "OJS_URL")
    names = [service["metadata"]["name"] for service in rendered.all("Service")]
    assert url.removeprefix("http://") in names


def test_the_linter_finds_nothing_in_the_dockerfile(tmp_path: Path) -> None:
    (text,) = (text for language, text in BLOCKS if language == "dockerfile")
    assert f" ojs-client=={__version__}\n" in text
    (tmp_path / "Dockerfile").write_text(text)
    done = subprocess.run(
        [Path(sys.executable).parent / "hadolint", "--no-color", tmp_path / "Dockerfile"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")
