"""A Django project, and a server for its tasks."""

from __future__ import annotations

import contextlib
import importlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.client_library.fake.conftest import scheduling_url
from tests.server.programs import ROOT, Program, program

__all__ = ["scheduling_url"]

PROJECT = Path(__file__).with_name("project")
LIMIT_S = 120

# Django 6 needs Python 3.12. The backport of its tasks has modules of its own, which would need a
# backend of its own.
collect_ignore_glob = [] if sys.version_info >= (3, 12) else ["test_*.py"]


@pytest.fixture(scope="session")
def project(scheduling_url: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Set Django up in this process, with its tables; return the environment of ``manage.py``."""
    env = {
        "SHOP_OJS_URL": scheduling_url,
        "SHOP_FOLDER": str(tmp_path_factory.mktemp("shop")),
        "DJANGO_SETTINGS_MODULE": "tests.client_library.django.project.shop.settings",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        import django
        from django.core.management import call_command

        django.setup()
        for database in ("default", "other"):
            call_command("migrate", run_syncdb=True, database=database, verbosity=0)
    return {**env, "PYTHONPATH": f"{ROOT}:{ROOT / 'clients' / 'python' / 'src'}"}


@pytest.fixture
def tasks(project: dict[str, str]) -> Any:
    """Return the module with the tasks of the project."""
    return importlib.import_module("tests.client_library.django.project.shop.tasks")


@contextlib.contextmanager
def manage(env: dict[str, str], *arguments: str) -> Iterator[Program]:
    """Run ``manage.py`` until the block ends."""
    with program([str(PROJECT / "manage.py"), *arguments], env=env, cwd=PROJECT) as running:
        yield running


def ended(result: Any) -> Any:
    """Wait until a task has ended, and return its result."""
    deadline = time.monotonic() + LIMIT_S
    while not result.is_finished:
        assert time.monotonic() < deadline, result
        time.sleep(0.05)
        result.refresh()
    return result
