"""A process imports what it uses: imports are most of what its start costs."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import pytest

NOWHERE = {"redis", "opentelemetry", "jwt", "cryptography"}
"""redis-py is for embedded servers; traces, and logins by OpenID Connect, have to be configured."""
WEB = {"quart", "flask", "werkzeug", "jinja2", "asyncio"}
COMMAND_LINE = {"click"}
"""Only the command that a user types parses options; quart imports click in API processes."""
STORE = {
    "hypercorn",
    "croniter",
    "prometheus_client",
    "ojs_scheduler.main",
    "ojs_cluster.store.engine.jobs.read_jobs",
}


@pytest.mark.parametrize(
    ("module", "unused"),
    [
        ("ojs_cluster.cli", NOWHERE | WEB | STORE),
        ("ojs_cluster.server.commands.serve", NOWHERE | WEB | STORE | COMMAND_LINE),
        ("ojs_cluster.server.processes.scheduler_process", NOWHERE | WEB | COMMAND_LINE),
        ("ojs_cluster.server.processes.api_process", NOWHERE | {"ojs_cluster.ui.quart_views"}),
    ],
)
def test_a_process_imports_no_more_than_it_uses(module: str, unused: set[str]) -> None:
    program = f"import sys, {module}; print(*sys.modules)"
    run = [sys.executable, "-c", program]
    imported = subprocess.run(run, check=True, capture_output=True, text=True).stdout.split()
    assert module in imported
    assert unused.isdisjoint(imported)


def test_the_package_installs_no_module_of_another_project() -> None:
    """PyPI has a package ``scheduler``."""
    names = (metadata.distribution("ojs-cluster").read_text("top_level.txt") or "").split()
    assert names == ["ojs_cluster", "ojs_scheduler"]
