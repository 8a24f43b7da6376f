"""The product runs on every promised version of Python that this machine has."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import httpx
import pytest

from tests.server.programs import ROOT, clean_environment, free_port, get, program
from tests.support.servers import own_server, wait_until

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OLDEST = int(PROJECT["requires-python"].removeprefix(">=3."))
OTHERS = [
    f"python3.{minor}" for minor in range(OLDEST, OLDEST + 10) if minor != sys.version_info.minor
]


def runs(name: str) -> bool:
    """Tell whether a program of that name is an interpreter; version managers have others."""
    found = shutil.which(name)
    return (
        found is not None and not subprocess.run([found, "-c", ""], capture_output=True).returncode
    )


FOUND = [name for name in OTHERS if runs(name)]
IMPORT_ALL = """
import importlib, pkgutil, sys
for name in ("ojs_cluster", "ojs_scheduler"):
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, f"{name}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
"""


def installed(name: str, folder: Path) -> Path:
    """Return an interpreter of that version with what the product needs."""
    subprocess.run([name, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    extras = PROJECT["optional-dependencies"]
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    subprocess.run([*pip, *PROJECT["dependencies"], *extras["oidc"], *extras["otel"]], check=True)
    return python


@pytest.mark.skipif(not FOUND, reason=f"this machine has none of {', '.join(OTHERS)}")
@pytest.mark.parametrize("name", FOUND[:1])
def test_the_server_runs_on_the_oldest_version_here(name: str, tmp_path: Path) -> None:
    python = installed(name, tmp_path / "venv")
    environment = clean_environment({})
    subprocess.run(
        [python, "-W", "error", "-c", IMPORT_ALL], env=environment, cwd=tmp_path, check=True
    )
    port = free_port()
    with own_server(tmp_path, cluster=False) as redis:
        env = {"REDIS_URL": redis.url, "OJS_PORT": str(port), "OJS_SHARDS": "4"}
        command = ["-m", "ojs_cluster.cli", "dev", "--workers", "1"]
        with program(command, env=env, interpreter=(str(python),)) as running:
            running.wait_line("Ctrl-C stops everything")
            wait_until(lambda: get(port, "/ready").status_code == 200, what="the server")
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                new = {"type": "t.old", "args": [1], "options": {"queue": "old", "delay": "PT0.1S"}}
                job_id = client.post("/ojs/v1/jobs", json=new).json()["job"]["id"]
                fetched = client.post(
                    "/ojs/v1/workers/fetch",
                    json={"queues": ["old"], "worker_id": "w", "timeout_ms": 30_000},
                ).json()["jobs"]
                assert [job["id"] for job in fetched] == [job_id]
                done = {"job_id": job_id, "worker_id": "w", "result": {}}
                assert client.post("/ojs/v1/workers/ack", json=done).status_code == 200
                for path in ("", "queues", f"jobs/{job_id}"):
                    page = client.get(f"/ui/{path}", headers={"Accept-Language": "ar"})
                    assert page.status_code == 200
                    assert "Traceback" not in page.text
        assert "Traceback" not in running.output
