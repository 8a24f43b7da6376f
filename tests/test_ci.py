"""The workflow tests every version of Python that is promised, and not one of them three times."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
JOBS: Any = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
JOB: Any = JOBS["check"]
VERSIONS: list[str] = JOB["strategy"]["matrix"]["python"]
HERE = ".".join(map(str, sys.version_info[:2]))


def filled_in(text: str, version: str) -> str:
    """A text of the workflow as a job of that version has it."""
    return text.replace("${{ matrix.python }}", version)


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_follows_its_schema(workflow: Path) -> None:
    checker = Path(sys.executable).parent / "check-jsonschema"
    done = subprocess.run(
        [checker, "--builtin-schema", "vendor.github-workflows", workflow],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_the_cluster_of_the_workflow_is_the_one_that_the_script_uses() -> None:
    """The script would make another cluster, and delete it."""
    steps = {step["uses"]: step for step in JOBS["cluster"]["steps"] if "uses" in step}
    kind = steps["helm/kind-action@v1"]["with"]
    script = (ROOT / "tests" / "cluster" / "kind.sh").read_text()
    assert kind["cluster_name"] == "${{ env.OJS_KIND_CLUSTER }}"
    assert f"name=${{OJS_KIND_CLUSTER:-{JOBS['cluster']['env']['OJS_KIND_CLUSTER']}}}" in script
    assert f"--config {kind['config']}" in script
    nodes = yaml.safe_load((ROOT / kind["config"]).read_text())["nodes"]
    assert [node["role"] for node in nodes].count("worker") == 3


def test_every_version_from_the_oldest_on_has_a_job() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    oldest = int(project["requires-python"].removeprefix(">=3."))
    assert [f"3.{oldest + number}" for number in range(len(VERSIONS))] == VERSIONS


@pytest.mark.parametrize("version", VERSIONS)
def test_make_takes_the_version_of_the_job(version: str, tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    program = tmp_path / filled_in(JOB["env"]["PYTHON"], version)
    program.symlink_to(sys.executable)
    done = subprocess.run(
        ["make", "--dry-run", ".venv/bin/python"],  # noqa: S607
        cwd=tmp_path,
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": program.name},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"{program.name} -m venv .venv" in done.stdout


@pytest.mark.parametrize(("version", "passes"), [(HERE, True), ("3.9", False), ("3.1", False)])
def test_a_job_that_has_another_version_fails(version: str, passes: bool, tmp_path: Path) -> None:
    (step,) = (each for each in JOB["steps"] if each.get("name") == "The version that is tested")
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    done = subprocess.run(
        ["bash", "-e", "-c", filled_in(step["run"], version)],  # noqa: S607
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert (done.returncode == 0) is passes
