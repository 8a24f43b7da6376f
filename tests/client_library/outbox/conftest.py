"""A database with the tables of the outbox."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from ojs_client.outbox import SCHEMA
from ojs_client.outbox.rows import OutboxRows
from tests.support.postgres import database, postgres_server  # noqa: F401 - fixtures


@pytest.fixture
def tables(database: str) -> str:  # noqa: F811 - the fixture
    """Return the address of a database with the tables, and one of the application."""
    with psycopg.connect(database) as connection:
        connection.execute(SCHEMA.encode())
        connection.execute("CREATE TABLE orders (number int)")
    return database


@pytest.fixture
def rows(tables: str) -> Iterator[OutboxRows]:
    """Return what operators see."""
    opened = OutboxRows(tables)
    yield opened
    opened.close()


def waiting(database: str) -> list[str]:  # noqa: F811 - no fixture
    """Return the JSON of the jobs in the outbox, in the order of insertion."""
    with psycopg.connect(database) as connection:
        found = connection.execute("SELECT job FROM ojs_outbox ORDER BY position").fetchall()
    return [job for (job,) in found]
