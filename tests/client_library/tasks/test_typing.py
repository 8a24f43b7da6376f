"""Type checkers find the mistakes of a program, and nothing else."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
from functools import cache
from pathlib import Path

import pytest

import ojs_client

PROGRAM = Path(__file__).with_name("typing_mistakes.txt").read_text()
MISTAKES = {n for n, line in enumerate(PROGRAM.splitlines(), 1) if "  # error: " in line}
SOURCES = Path(ojs_client.__file__).parents[1]
PYRIGHT = (sys.executable, "-m", "pyright")


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


def run(folder: Path, *command: str) -> str:
    packages = sysconfig.get_path("purelib")
    env = {**os.environ, "PYTHONPATH": f"{SOURCES}:{packages}", "MYPYPATH": str(SOURCES)}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=folder, env=env, timeout=300
    )
    return done.stdout + done.stderr


@cache
def has_pyright() -> bool:
    """Whether it is installed, and could get the program that it runs."""
    return "pyright 1" in run(Path(), *PYRIGHT, "--version")


def test_mypy_finds_each_mistake(program: Path) -> None:
    output = run(program.parent, sys.executable, "-m", "mypy", "--strict", "program.py")
    found = re.findall(r"program\.py:(\d+): error", output)
    assert set(map(int, found)) == MISTAKES, output


def test_pyright_finds_each_mistake(program: Path) -> None:
    if not has_pyright():
        pytest.skip("pyright is not installed")
    settings = {"typeCheckingMode": "strict", "extraPaths": [str(SOURCES)]}
    program.with_name("pyrightconfig.json").write_text(json.dumps(settings))
    output = run(program.parent, *PYRIGHT, "--outputjson")
    reports = json.loads(output)["generalDiagnostics"]
    assert {each["range"]["start"]["line"] + 1 for each in reports} == MISTAKES, output


def test_each_public_name_has_a_type(tmp_path: Path) -> None:
    if not has_pyright():
        pytest.skip("pyright is not installed")
    options = ["--ignoreexternal", "--verifytypes", "ojs_client"]
    output = run(tmp_path, *PYRIGHT, *options)
    assert "Type completeness score: 100%" in output, output
