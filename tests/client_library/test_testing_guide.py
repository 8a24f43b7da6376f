"""The tests that the guide shows pass when a reader saves them in the checkout, as its worker."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "guide"
_PROGRAM = re.compile(r"^```python\n# (\w+\.py)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^\.venv/bin/python (-m pytest .*) test_orders\.py$", re.MULTILINE)


def test_the_tests_of_the_guide_pass(tmp_path: Path) -> None:
    page = (GUIDE / "testing.md").read_text()
    programs = dict(_PROGRAM.findall(page))
    (command,) = _COMMAND.findall(page)
    assert set(programs) == {
        "test_orders.py",
        "test_reminders.py",
        "test_report.py",
        "test_signup.py",
    }
    programs["orders.py"] = dict(_PROGRAM.findall((GUIDE / "first-worker.md").read_text()))[
        "orders.py"
    ]
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    tests = sorted(set(programs) - {"orders.py"})
    plugins = ["-p", "anyio", "-p", "ojs_client.pytest_plugin"]
    done = subprocess.run(
        [sys.executable, "-W", "error", *command.split(), "-q", *plugins, *tests],
        cwd=tmp_path,
        # Without the plugins of this machine.
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # Each async test on asyncio and on trio.
    assert "9 passed" in done.stdout
