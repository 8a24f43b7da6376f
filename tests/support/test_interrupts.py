"""Ctrl-C ends a test run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
_TESTS = """
import pytest, trio

@pytest.fixture(scope="session", autouse=True)
def used():
    yield
    print("torn down")

async def interrupted():
    raise KeyboardInterrupt

async def test_first():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        nursery.start_soon(interrupted)

def test_second():
    print("went on")
"""


def test_an_interrupt_in_a_nursery_ends_the_run_and_tears_down(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "from tests.support.interrupts import pytest_exception_interact\n"
    )
    (tmp_path / "test_two.py").write_text(_TESTS)
    command = [sys.executable, "-m", "pytest", "-s", "-p", "no:cacheprovider"]
    command += ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stdout
    assert "torn down" in done.stdout
    assert "went on" not in done.stdout
