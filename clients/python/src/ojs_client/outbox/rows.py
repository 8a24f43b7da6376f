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
    SELECT position, job_id, queue, job, attempts FROM ojs_outbox
    WHERE refused_at IS NULL AND queue <> ALL(%s)
    ORDER BY position LIMIT %s FOR UPDATE SKIP LOCKED"""
_FAIL: Final = """
    UPDATE ojs_outbox SET attempts = attempts + 1, error = %s,
        refused_at = CASE WHEN %s THEN now() END
    WHERE position = %s"""
_FORGET_ONCE: Final = "DELETE FROM ojs_once WHERE done_at < now() - make_interval(secs => %s)"
_FORGET_REFUSED: Final = """
    DELETE FROM ojs_outbox WHERE refused_at < now() - make_interval(secs => %s)"""
_COUNTS: Final = """
    SELECT count(*) FILTER (WHERE refused_at IS NULL), count(refused_at),
        extract(epoch FROM now() - min(created_at) FILTER (WHERE refused_at IS NULL))::float8
    FROM ojs_outbox"""
_EXAMPLES: Final = """
    SELECT job_id, queue, created_at, attempts, error, refused_at FROM ojs_outbox
    WHERE error IS NOT NULL ORDER BY refused_at IS NULL, position LIMIT %s"""

_Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Row:
    """A job that waits.

    Args:
        job: the JSON of its request.
        attempts: how often the server has not taken it.
    """

    position: int
    job_id: str
    queue: str
    job: bytes
    attempts: int


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the server has not taken a job, and whether the job is refused or waits."""

    error: str
    is_final: bool


@dataclass(frozen=True, slots=True)
class FailedJob:
    """A job that the server has not taken.

    Args:
        attempts: how often it was sent alone since it was written, or since ``retry``.
        error: the last error.
        refused_at: when the relay gave up; None for a job that waits.
    """

    job_id: str
    queue: str
    created_at: datetime
    attempts: int
    error: str
    refused_at: datetime | None


@dataclass(frozen=True, slots=True)
class Status:
    """What is in the outbox.

    Args:
        waiting: number of jobs that no relay has sent yet.
        refused: number of jobs that the server has refused.
        oldest_s: age of the oldest waiting job in seconds; None without one.
        examples: some jobs with errors: first those that are refused.
    """

    waiting: int
    refused: int
    oldest_s: float | None
    examples: tuple[FailedJob, ...]


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
                application_name="ojs-outbox",
                connect_timeout=10,
                tcp_user_timeout=30_000,
                keepalives_idle=30,
                prepare_threshold=None,  # a pooler may change the server connection
            )
            # Other levels fail where two relays meet.
            self._open.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
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
        return [
            Row(position, job_id, queue, job.encode(), attempts)
            for position, job_id, queue, job, attempts in found
        ]

    def settle(self, sent: Sequence[int], failed: Mapping[int, Failure]) -> None:
        """Delete rows, store the errors of others, and unlock the rest.

        Args:
            sent: positions of the jobs that the server has.
            failed: why it has not taken others, by position.
        """
        connection = self._connection
        if sent:
            connection.execute("DELETE FROM ojs_outbox WHERE position = ANY(%s)", (list(sent),))
        for position, failure in failed.items():
            error = failure.error.replace("\0", "")[:2000]
            connection.execute(_FAIL, (error, failure.is_final, position))
        connection.commit()

    def forget(self, once_s: float, refused_s: float) -> int:
        """Delete old rows; return how many refused jobs are among them.

        Args:
            once_s: the age of rows of ``once`` in seconds.
            refused_s: how long jobs are refused, in seconds.
        """
        with self._connection.transaction():
            self._connection.execute(_FORGET_ONCE, (once_s,))
            return self._connection.execute(_FORGET_REFUSED, (refused_s,)).rowcount

    def status(self, examples: int | None) -> Status:
        """Return what is in the outbox, with some jobs that have errors; None for all of them."""
        with self._connection.transaction():
            waiting, count, age_s = self._connection.execute(_COUNTS).fetchone() or (0, 0, None)
            failed = self._connection.execute(_EXAMPLES, (examples,)).fetchall()
        return Status(waiting, count, age_s, tuple(FailedJob(*each) for each in failed))

    def retry(self, job_ids: Sequence[str]) -> int:
        """Let relays send refused jobs again; return how many.

        Args:
            job_ids: the jobs; empty for all.
        """
        return self._change("UPDATE ojs_outbox SET refused_at = NULL, attempts = 0", job_ids)

    def remove(self, job_ids: Sequence[str]) -> int:
        """Delete refused jobs; return how many.

        Args:
            job_ids: the jobs; empty for all.
        """
        return self._change("DELETE FROM ojs_outbox", job_ids)

    def _change(self, statement: str, job_ids: Sequence[str]) -> int:
        with self._connection.transaction():
            return self._connection.execute(
                f"{statement} WHERE refused_at IS NOT NULL AND (%(all)s OR job_id = ANY(%(ids)s))",
                {"all": not job_ids, "ids": list(job_ids)},
            ).rowcount
