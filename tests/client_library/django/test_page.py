"""The project of the page about frameworks works as it is shown."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from ojs_client import SyncClient
from tests.client_library.worker_command.conftest import SOURCES
from tests.server.programs import ROOT, program

PAGE = (ROOT / "docs" / "guide" / "frameworks.md").read_text()
PROGRAMS = dict(re.findall(r"^```py\n# (shop/\w+\.py)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
COMMAND = re.findall(r"^\$ python (manage\.py ojs_worker .*)$", PAGE, re.MULTILINE)
OTHER = re.findall(r"^ojsctl (job enqueue shop\..*)$", PAGE, re.MULTILINE)

ADMIN = re.search(r"^  ```html\n  \{# (\S+) #\}\n(.*?)^  ```", PAGE, re.MULTILINE | re.DOTALL)

ADMIN_SETTINGS = """
from shop.settings import *
_APPS = ("admin", "auth", "contenttypes", "sessions", "messages")
INSTALLED_APPS = [*INSTALLED_APPS, *(f"django.contrib.{name}" for name in _APPS)]
ROOT_URLCONF = "with_admin"
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
_PROCESSORS = ("template.context_processors.request", "contrib.auth.context_processors.auth")
_PROCESSORS += ("contrib.messages.context_processors.messages",)
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {"context_processors": [f"django.{name}" for name in _PROCESSORS]},
    }
]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
"""
ADMIN_URLS = """
from django.contrib import admin
from django.urls import path
urlpatterns = [path("admin/", admin.site.urls)]
"""
ADMIN_USE = """
import os
os.environ["DJANGO_SETTINGS_MODULE"] = "admin_settings"
import django
django.setup()
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client
call_command("migrate", verbosity=0)
client = Client()
client.force_login(User.objects.create_superuser("ada"))
print(client.get("/admin/").content.decode())
"""

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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shop").mkdir()
    for name, text in PROGRAMS.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "shop" / "__init__.py").touch()
    return tmp_path


def test_the_admin_links_to_the_dashboard(folder: Path) -> None:
    assert ADMIN is not None
    template = folder / ADMIN[1]
    template.parent.mkdir(parents=True)
    template.write_text(ADMIN[2])
    (folder / "admin_settings.py").write_text(ADMIN_SETTINGS)
    urls = "from django.contrib import admin\nfrom django.urls import path\n"
    (folder / "with_admin.py").write_text(
        f"{urls}urlpatterns = [path('admin/', admin.site.urls)]\n"
    )
    (folder / "use.py").write_text(ADMIN_USE)
    with program(["use.py"], env=SOURCES, cwd=folder) as use:
        assert use.wait_exit(300) == 0, use.output
    assert '<a href="https://jobs.example.com/ui/">Jobs</a> /' in use.output
    assert "Log out" in use.output


def test_the_project_of_the_page_runs(scheduling_url: str, folder: Path) -> None:
    assert set(PROGRAMS) == {"shop/settings.py", "shop/tasks.py", "shop/urls.py"}
    (folder / "use.py").write_text(USE)
    manage = ROOT / "tests" / "client_library" / "django" / "project" / "manage.py"
    (folder / "manage.py").write_text(manage.read_text())
    (command,), (other,) = COMMAND, OTHER
    env = {"OJS_URL": scheduling_url, **SOURCES}
    with program([*command.split(), "--reload"], env=env, cwd=folder) as worker:
        with program(["use.py"], env=env, cwd=folder) as use:
            assert use.wait_exit(300) == 0, use.output
        assert "'user 7 is welcome in fr', 'attempts': 1" in use.output
        ctl = ["-m", "ojs_client.ctl", *shlex.split(other), "-o", "name"]
        with program(ctl, env=env, cwd=folder) as enqueue:
            assert enqueue.wait_exit() == 0, enqueue.output
        with SyncClient(scheduling_url) as client:
            result = client.result(enqueue.output.strip(), wait=120)
        assert result == "user 7 is welcome in de"
        worker.wait_line("worker-3")
