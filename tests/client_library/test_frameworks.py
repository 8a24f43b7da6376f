"""The programs of the page about frameworks run as they are shown, with the real frameworks."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from tests.client_library.fake.conftest import scheduling_url
from tests.client_library.worker_command.conftest import SOURCES
from tests.server.programs import ROOT, program

__all__ = ["scheduling_url"]

PAGE = (ROOT / "docs" / "guide" / "frameworks.md").read_text()
PROGRAMS = dict(re.findall(r"^```py\n# (\w+\.py)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
# Each prints its line in one piece, because a thread of Litestar logs meanwhile.
USES = {
    "fastapi_shop": """
from starlette.testclient import TestClient
with TestClient(app) as client:
    response = client.post("/users/Ada")
    result = client.get("/jobs/" + response.json()["job"]).json()
    print(f"{response.status_code} {result}")
    print(client.post("/guests/Bob").status_code)
""",
    "litestar_shop": """
from litestar.testing import TestClient
with TestClient(app) as client:
    response = client.post("/users/Ada")
    result = client.get("/jobs/" + response.json()["job"]).json()
    print(f"{response.status_code} {result}")
""",
    "flask_shop": """
client = app.test_client()
response = client.post("/users/Ada")
print(f"{response.status_code} {client.get('/jobs/' + response.json['job']).json}")
""",
}
NAMES_OF_GUESTS = """
import anyio
from ojs_client import Client
async def main():
    async with Client() as client:
        print([job.args async for job in client.jobs.find(queue="mail")])
anyio.run(main)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in PROGRAMS.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_page_has_the_programs() -> None:
    assert set(PROGRAMS) == {"jobs.py", *(f"{name}.py" for name in USES)}


@pytest.mark.parametrize("name", USES)
def test_a_program_enqueues_and_reads(scheduling_url: str, folder: Path, name: str) -> None:
    pytest.importorskip(name.partition("_")[0])
    env = {"OJS_URL": scheduling_url, **SOURCES}
    (folder / "use.py").write_text(f"from {name} import app\n{USES[name]}")
    with program(["-m", "ojs_client.worker_command", "jobs:ojs"], env=env, cwd=folder) as worker:
        with program(["use.py"], env=env, cwd=folder) as use:
            assert use.wait_exit(300) == 0, use.output
        assert "202 {'result': 'Ada is welcome'}" in use.output
        if name == "fastapi_shop":
            (folder / "guests.py").write_text(NAMES_OF_GUESTS)
            with program(["guests.py"], env=env, cwd=folder) as guests:
                assert guests.wait_exit() == 0, guests.output
            assert "[{'name': 'Bob'}]" in guests.output
        worker.signal(signal.SIGTERM)
        assert worker.wait_exit() == 0
