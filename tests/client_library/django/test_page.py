"""The project of the page about frameworks works as it is shown."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from ojs_client import SyncClient
from tests.client_library.worker_command.conftest import SOURCES
from tests.server.programs import ROOT, program

PAGE = (ROOT / "docs" / "guide" / "frameworks.md").read_text()
PROGRAMS = dict(re.findall(r"^```py\n# (shop/\w+\.py)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
COMMAND = re.findall(r"^\$ python (manage\.py ojs_worker .*)$", PAGE, re.MULTILINE)
OTHER = re.findall(r"^ojsctl (job enqueue shop\..*)$", PAGE, re.MULTILINE)

USE = """
import json, os, sys, time
os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
import django
django.setup()
from django.core.checks import run_checks
from django.test import Client
assert run_checks() == []
get = lambda path: json.loads(Client().get(path).content)
task = get("/sign-up/7")["task"]
get("/report")
deadline = time.monotonic() + 120
while (found := get(f"/result/{task}"))["status"] != "SUCCESSFUL" and time.monotonic() < deadline:
    time.sleep(0.05)
print(found)
"""


def test_the_project_of_the_page_runs(scheduling_url: str, tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    assert set(PROGRAMS) == {"shop/settings.py", "shop/tasks.py", "shop/urls.py"}
    for name, text in PROGRAMS.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "use.py").write_text(USE)
    manage = ROOT / "tests" / "client_library" / "django" / "project" / "manage.py"
    (tmp_path / "manage.py").write_text(manage.read_text())
    (command,), (other,) = COMMAND, OTHER
    env = {"OJS_URL": scheduling_url, **SOURCES}
    with program([*command.split(), "--reload"], env=env, cwd=tmp_path) as worker:
        with program(["use.py"], env=env, cwd=tmp_path) as use:
            assert use.wait_exit() == 0, use.output
        assert "'user 7 is welcome in fr', 'attempts': 1" in use.output
        ctl = ["-m", "ojs_client.ctl", *shlex.split(other), "-o", "name"]
        with program(ctl, env=env, cwd=tmp_path) as enqueue:
            assert enqueue.wait_exit() == 0, enqueue.output
        with SyncClient(scheduling_url) as client:
            result = client.result(enqueue.output.strip(), wait=120)
        assert result == "user 7 is welcome in de"
        worker.wait_line("worker-3")
