"""A Python without optimization is distinguished from one whose records only look so."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ojs_cluster.server import start_log
from ojs_cluster.server.config.load import load
from ojs_cluster.server.interpreter import is_slow, rank, runs_on_slow_build

ROOT = Path(__file__).parents[2]

DEBIAN_13 = (
    "'--enable-shared' '--prefix=/usr' '--libdir=/usr/lib/x86_64-linux-gnu' '--enable-ipv6' "
    "'--enable-loadable-sqlite-extensions' '--with-dbmliborder=bdb:gdbm' '--with-computed-gotos' "
    "'--without-ensurepip' '--with-system-expat' '--with-dtrace' "
    "'--with-ssl-default-suites=openssl' '--with-system-libmpdec' 'CC=x86_64-linux-gnu-gcc'"
)
UBUNTU = DEBIAN_13 + " 'CFLAGS=-g -fstack-protector-strong -Wformat' 'LDFLAGS=-Wl,-z,relro -g -O2'"
FEDORA = (
    "'--build=x86_64-redhat-linux' '--prefix=/usr' '--enable-ipv6' '--enable-shared' "
    "'--with-computed-gotos=yes' '--with-dbmliborder=gdbm:ndbm:bdb' '--with-system-expat' "
    "'--enable-loadable-sqlite-extensions' '--with-dtrace' '--with-lto' '--with-valgrind' "
    "'--without-ensurepip' '--enable-optimizations'"
)
DOCKER = (
    "'--build=x86_64-linux-gnu' '--enable-loadable-sqlite-extensions' '--enable-optimizations' "
    "'--enable-option-checking=fatal' '--enable-shared' '--with-lto' '--with-ensurepip'"
)
STANDALONE = (
    "'--build=x86_64-unknown-linux-gnu' '--prefix=/install' '--with-openssl=/tools/deps' "
    "'--with-system-expat' '--without-ensurepip' '--enable-shared' '--enable-optimizations' "
    "'--enable-bolt' '--with-lto' 'CC=clang'"
)
MACOS = (
    "'-C' '--enable-framework' '--enable-universalsdk=/' '--with-universal-archs=universal2' "
    "'--with-computed-gotos' '--without-ensurepip' '--enable-optimizations' '--with-lto'"
)
PYENV = "'--prefix=/root/.pyenv/versions/3.13.0' '--enable-shared' 'LDFLAGS=-L/root/.pyenv/lib'"

FAST = {
    "Debian": (DEBIAN_13, "/usr"),
    "Ubuntu": (UBUNTU, "/usr"),
    "Fedora": (FEDORA, "/usr"),
    "the official image": (DOCKER, "/usr/local"),
    "uv": (STANDALONE, "/root/.local/share/uv/python/cpython-3.13"),
    "python.org": (MACOS, "/Library/Frameworks/Python.framework/Versions/3.13"),
    "pyenv with options": (f"{PYENV} '--enable-optimizations' '--with-lto'", "/root/.pyenv"),
    "only link-time": (f"{PYENV} '--with-lto=thin'", "/opt/python"),
}
SLOW = {
    "pyenv": (PYENV, "/root/.pyenv/versions/3.13.0"),
    "plain configure": ("'--prefix=/usr/local'", "/usr/local"),
    "switched off": (f"{PYENV} '--enable-optimizations=no' '--with-lto=no'", "/root/.pyenv"),
    "without": (f"{PYENV} '--without-lto' '--disable-optimizations'", "/root/.pyenv"),
}


@pytest.mark.parametrize(("arguments", "prefix"), FAST.values(), ids=FAST)
def test_optimized_builds_are_not_called_slow(arguments: str, prefix: str) -> None:
    assert not is_slow({"CONFIG_ARGS": arguments}, prefix)


@pytest.mark.parametrize(("arguments", "prefix"), SLOW.values(), ids=SLOW)
def test_builds_that_name_no_optimization_are_slow(arguments: str, prefix: str) -> None:
    assert is_slow({"CONFIG_ARGS": arguments}, prefix)


def test_flags_of_the_compiler_count_as_much_as_options() -> None:
    flags = {"CONFIG_ARGS": PYENV, "PY_CORE_CFLAGS": "-O3 -fprofile-use -fprofile-correction"}
    assert not is_slow(flags, "/opt/python")
    # What the Makefile could have used says nothing: it is there in every build.
    assert is_slow({"CONFIG_ARGS": PYENV, "PGO_PROF_USE_FLAG": "-fprofile-use"}, "/opt/python")


def test_a_build_without_records_or_of_conda_is_trusted() -> None:
    assert not is_slow({}, "C:\\Python313")
    assert not is_slow({"CONFIG_ARGS": None}, "/opt/pypy")
    assert not is_slow({"CONFIG_ARGS": PYENV}, "/opt/conda", conda=True)


def test_a_debug_build_is_slow_wherever_it_came_from() -> None:
    assert is_slow({"CONFIG_ARGS": DEBIAN_13, "Py_DEBUG": 1}, "/usr")


@pytest.mark.parametrize("slow", [True, False])
def test_the_start_says_in_one_line_that_python_is_slow(
    slow: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(start_log, "runs_on_slow_build", lambda: slow)
    with caplog.at_level(logging.INFO):
        start_log.log_warnings(load({"OJS_API_KEY": "0123456789abcdef" * 2}))
    said = [r.getMessage() for r in caplog.records if "profile-guided" in r.getMessage()]
    assert len(said) == slow


def fake(folder: Path, name: str, line: str, status: int = 0) -> None:
    """Put an interpreter into a folder that says ``line`` of itself."""
    folder.mkdir(exist_ok=True)
    program = folder / name
    program.write_text(f"#!/bin/sh\necho '{line}'\nexit {status}\n")
    program.chmod(0o755)


def chosen(tmp_path: Path, *folders: Path) -> str:
    """The interpreter that ``make`` takes when PATH is these folders and a few tools."""
    tools = tmp_path / "tools"
    tools.mkdir(parents=True)
    for tool in ("sh", "sort", "head", "cut", "make"):
        found = shutil.which(tool)
        assert found, tool
        (tools / tool).symlink_to(found)
    done = subprocess.run(
        [str(tools / "make"), "--eval", "say: ; $(info [$(PYTHON)]) @:", "say"],
        cwd=ROOT,
        env={"PATH": ":".join(map(str, (*folders, tools)))},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()[1:-1]


def test_make_takes_an_optimized_build_before_a_newer_one_that_is_not(tmp_path: Path) -> None:
    slow, system, local = (tmp_path / name for name in ("slow", "system", "local"))
    fake(slow, "python3.13", "0 13 /slow/python3.13")
    fake(slow, "python3.11", "0 11 /slow/python3.11")
    assert chosen(tmp_path / "1", slow) == "/slow/python3.13"
    fake(system, "python3.11", "1 11 /system/python3.11")
    fake(system, "python3", "1 11 /system/python3")
    assert chosen(tmp_path / "2", slow, system) == "/system/python3.11"
    fake(local, "python3.13", "1 13 /local/python3.13")
    assert chosen(tmp_path / "3", slow, system, local) == "/local/python3.13"


def test_make_takes_the_first_of_equals_and_none_that_does_not_run(tmp_path: Path) -> None:
    shims, first, second = (tmp_path / name for name in ("shims", "first", "second"))
    fake(shims, "python3.13", "", status=127)
    fake(first, "python3.12", "1 12 /first/python3.12")
    fake(second, "python3.12", "1 12 /second/python3.12")
    assert chosen(tmp_path / "1", shims, first, second) == "/first/python3.12"
    assert chosen(tmp_path / "2", shims) == ""


def test_make_finds_a_python_that_is_the_only_one(tmp_path: Path) -> None:
    only = tmp_path / "only"
    only.mkdir()
    (only / "python3").symlink_to(sys.executable)
    assert chosen(tmp_path / "1", only) == str(only / "python3")
    optimized, minor, path = rank().split(" ", 2)
    assert (optimized, path) == (str(int(not runs_on_slow_build())), sys.executable)
    assert int(minor) == sys.version_info[1]
