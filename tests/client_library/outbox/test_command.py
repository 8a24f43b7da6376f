"""``ojs-outbox`` prints what creates the tables, and says what is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from ojs_client import outbox_command as command
from ojs_client.outbox import enqueue
from tests.client_library.outbox.conftest import waiting

PROGRAM = str(Path(sys.executable).with_name("ojs-outbox"))


def test_the_printed_sql_creates_the_tables(database: str) -> None:
    done = subprocess.run([PROGRAM, "schema"], capture_output=True, text=True, check=True)
    with psycopg.connect(database) as connection:
        connection.execute(done.stdout.encode())
        enqueue(connection, "t.outbox")
    assert len(waiting(database)) == 1


def test_missing_tables_are_explained(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["status", "--database", database]) == 1
    assert "ojs-outbox schema | psql" in capsys.readouterr().err


def test_a_missing_database_is_explained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    with pytest.raises(SystemExit, match="2"):
        command.main(["relay"])
    assert "--database or DATABASE_URL" in capsys.readouterr().err


def test_a_missing_driver_is_explained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    assert command.main(["status", "--database", "postgresql:///x"]) == 1
    assert "pip install 'ojs-client[outbox]'" in capsys.readouterr().err
