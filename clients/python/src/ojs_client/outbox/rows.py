"""The rows of the outbox, for relays and operators: blocking calls of psycopg."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeAlias

import psycopg

_DRIVER: Final = re.compile(r"^postgres(ql)?\+\w+:")
_LOCK_S: Final = 300
"""How long a relay that stands still keeps its rows, in seconds: longer than its requests take."""
_CLAIM: Final = """
    SELECT position, job_id, queue, job FROM ojs_outbox
    WHERE error IS NULL AND queue <> ALL(%s)
    ORDER BY position LIMIT %s FOR UPDATE SKIP LOCKED"""
_REFUSE: Final = "UPDATE ojs_outbox SET error = %s WHERE position = %s"
_COUNTS: Final = """
    SELECT count(*) FILTER (WHERE error IS NULL), count(error),
        extract(epoch FROM now() - min(created_at) FILTER (WHERE error IS NULL))::float8
    FROM ojs_outbox"""

_Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Row:
    """A job that waits. ``job`` is the JSON of its request."""

    position: int
    job_id: str
    queue: str
    job: bytes


@dataclass(frozen=True, slots=True)
class RefusedJob:
    """A job that the server has refused."""

    job_id: str
    queue: str
    created_at: datetime
    error: str


@dataclass(frozen=True, slots=True)
class Status:
    """What is in the outbox.

    Args:
        waiting: number of jobs that no relay has sent yet.
        refused: number of jobs that the server has refused.
        oldest_s: age of the oldest waiting job in seconds; None without one.
        examples: the first refused jobs.
    """

    waiting: int
    refused: int
    oldest_s: float | None
    examples: tuple[RefusedJob, ...]


class OutboxRows:
    """One connection to the database. Not thread-safe.

    Args:
        database: the address of the database; that of a driver of SQLAlchemy is good, too.
    """

    def __init__(self, database: str) -> None:
        self._database = _DRIVER.sub("postgresql:", database)
        self._open: _Connection | None = None

    @property
    def _connection(self) -> _Connection:
        if self._open is None:
            # Without limits, a call would never return from a network that drops everything.
            self._open = psycopg.connect(
                self._database,
                connect_timeout=10,
                tcp_user_timeout=30_000,
                keepalives_idle=30,
                prepare_threshold=None,  # a pooler may change the server connection
            )
        return self._open

    def close(self) -> None:
        """Close the connection, which frees claimed rows. The next call opens another one."""
        connection, self._open = self._open, None
        if connection is not None:
            connection.close()

    def claim(self, portion: int, without: Sequence[str]) -> list[Row]:
        """Return the first rows that no other relay has claimed, and lock them until ``settle``.

        Args:
            portion: maximum number of rows.
            without: queues whose rows stay.
        """
        found = self._connection.execute(_CLAIM, (list(without), portion)).fetchall()
        if found:
            self._connection.execute(
                "SELECT set_config('idle_in_transaction_session_timeout', %s, true)",
                (f"{_LOCK_S}s",),
            )
        else:
            self._connection.rollback()
        return [Row(number, job_id, queue, job.encode()) for number, job_id, queue, job in found]

    def settle(self, sent: Sequence[int], refused: Mapping[int, str]) -> None:
        """Delete rows, store the errors of others, and unlock the rest.

        Args:
            sent: positions of the jobs that the server has.
            refused: the errors of jobs that the server has refused, by position.
        """
        connection = self._connection
        if sent:
            connection.execute("DELETE FROM ojs_outbox WHERE position = ANY(%s)", (list(sent),))
        for position, error in refused.items():
            connection.execute(_REFUSE, (error.replace("\0", "")[:2000], position))
        connection.commit()

    def forget_once(self, older_s: float) -> None:
        """Delete the rows of ``once`` of this age in seconds."""
        self._connection.execute(
            "DELETE FROM ojs_once WHERE done_at < now() - make_interval(secs => %s)", (older_s,)
        )
        self._connection.commit()

    def status(self, examples: int | None) -> Status:
        """Return what is in the outbox, with some refused jobs; None for all of them."""
        with self._connection.transaction():
            waiting, count, age_s = self._connection.execute(_COUNTS).fetchone() or (0, 0, None)
            refused = self._connection.execute(
                "SELECT job_id, queue, created_at, error FROM ojs_outbox"
                " WHERE error IS NOT NULL ORDER BY position LIMIT %s",
                (examples,),
            ).fetchall()
        return Status(waiting, count, age_s, tuple(RefusedJob(*each) for each in refused))

    def retry(self, job_ids: Sequence[str]) -> int:
        """Let relays send refused jobs again; return how many.

        Args:
            job_ids: the jobs; empty for all.
        """
        return self._change("UPDATE ojs_outbox SET error = NULL", job_ids)

    def remove(self, job_ids: Sequence[str]) -> int:
        """Delete refused jobs; return how many.

        Args:
            job_ids: the jobs; empty for all.
        """
        return self._change("DELETE FROM ojs_outbox", job_ids)

    def _change(self, statement: str, job_ids: Sequence[str]) -> int:
        with self._connection.transaction():
            return self._connection.execute(
                f"{statement} WHERE error IS NOT NULL AND (%(all)s OR job_id = ANY(%(ids)s))",
                {"all": not job_ids, "ids": list(job_ids)},
            ).rowcount
