"""The tests that the guide shows pass when a reader saves them beside the worker of the guide."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

GUIDE = Path(__file__).parents[2] / "docs" / "guide"
_PROGRAM = re.compile(r"^```python\n# (\w+\.py)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_the_tests_of_the_guide_pass(tmp_path: Path) -> None:
    programs = dict(_PROGRAM.findall((GUIDE / "testing.md").read_text()))
    assert set(programs) == {"test_orders.py", "test_report.py", "test_signup.py"}
    programs["orders.py"] = dict(_PROGRAM.findall((GUIDE / "first-worker.md").read_text()))[
        "orders.py"
    ]
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "anyio"],
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
    assert "8 passed" in done.stdout
