"""Try wheels as a user does: install them into an empty environment, and run the first job."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.server.programs import ROOT, free_port, program

RESULT = """
import sys
from ojs_client import SyncClient
with SyncClient() as client:
    print(client.result(sys.argv[1], wait=60))
"""
EXTRAS = {"ojs_cluster": "[all]"}


def install(wheels: list[Path], folder: Path) -> Path:
    """Install ``ojs-cluster[all]`` into a new environment; return the folder of its programs.

    Args:
        wheels: the wheels of both packages.
        folder: where to create the environment.
    """
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    # Only the extra of the server asks for that of the client, which has what ``ojsctl`` needs.
    wanted = [f"{path.resolve()}{EXTRAS.get(path.name.partition('-')[0], '')}" for path in wheels]
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, *wanted], check=True, env=environment(folder))
    return folder / "bin"


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Return this environment without what would let programs import from this checkout."""
    ours = ("OJS_", "REDIS_", "PYTHON", "VIRTUAL_ENV", "PYTEST_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    path = f"{folder / 'bin'}{os.pathsep}{kept['PATH']}"
    return {**kept, "PATH": path, "PYTHONPATH": "", "PYTHONUNBUFFERED": "1", **more}


def first_job(wheels: list[Path], folder: Path) -> None:
    """Install the wheels, run the job of the README, and check its result.

    Args:
        wheels: the wheels of both packages.
        folder: an empty folder.

    Raises:
        AssertionError: the job has another result.
    """
    bin = install(wheels, folder / "environment")
    url = f"http://127.0.0.1:{(port := free_port())}"
    shutil.copy(ROOT / "examples" / "worker.py", folder)
    shown = environment(bin.parent, OJS_URL=url, OJS_PORT=str(port))

    def run(*command: str) -> str:
        done = subprocess.run(
            [bin / command[0], *command[1:]],
            cwd=folder,
            env=shown,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        return done.stdout

    versions = {path.name.split("-")[1] for path in wheels}
    assert {run(name, "--version").split()[-1] for name in ("ojs-cluster", "ojsctl")} == versions
    with program(
        [str(bin / "ojs-cluster"), "dev"], env=shown, cwd=folder, interpreter=()
    ) as server:
        server.wait_line("Ctrl-C stops everything", 300)
        worker = [str(bin / "ojs-worker"), "worker:app"]
        with program(worker, env=shown, cwd=folder, interpreter=()) as running:
            args = {"to": "ada@example.com", "subject": "Hello"}
            job = run("ojsctl", "job", "enqueue", "email.send", json.dumps(args), "-o", "json")
            running.wait_line("send 'Hello' to ada@example.com", 120)
            result = run("python", "-c", RESULT, json.loads(job)["id"])
    assert result == "{'status': 'delivered'}\n"
