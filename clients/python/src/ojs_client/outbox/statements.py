"""What an application writes in its own transaction, by the connection that it has."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Coroutine, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol, TypeAlias, Unpack, overload

from ojs_client.options import (
    JSON,
    JobOptions,
    NewJob,
    as_new_job,
    iso_time,
    new_job_id,
    seconds,
)
from ojs_client.transport import encode
from ojs_client.values import Encodable


class HasCursor(Protocol):
    """A ``psycopg.Connection``, or ``django.db.connection``."""

    def cursor(self) -> Any:
        """Return a cursor, a context manager."""


class Executes(Protocol):
    """A session or a connection of SQLAlchemy."""

    def execute(self, statement: Any, parameters: Any = None, /) -> Any:
        """Execute a statement."""


class ExecutesAsync(Protocol):
    """An async session or connection of SQLAlchemy, or a ``psycopg.AsyncConnection``."""

    def execute(self, statement: Any, parameters: Any = None, /) -> Awaitable[Any]:
        """Execute a statement."""


SyncConnection: TypeAlias = HasCursor | Executes

_ENQUEUE: Final = (
    "INSERT INTO ojs_outbox (job_id, queue, job) VALUES (%(job_id)s, %(queue)s, %(job)s)"
)
_ONCE: Final = "INSERT INTO ojs_once (job_id) VALUES (%(job_id)s) ON CONFLICT DO NOTHING"
_PARAMETER: Final = re.compile(r"%\((\w+)\)s")
_IDLE: Final = 0
"""The status of a connection of psycopg that is in no transaction."""


@overload
def enqueue(
    connection: ExecutesAsync,
    type: str,
    /,
    *args: Encodable,
    **options: Unpack[JobOptions],
) -> Coroutine[Any, Any, str]: ...
@overload
def enqueue(connection: ExecutesAsync, job: NewJob, /) -> Coroutine[Any, Any, str]: ...
@overload
def enqueue(
    connection: SyncConnection,
    type: str,
    /,
    *args: Encodable,
    **options: Unpack[JobOptions],
) -> str: ...
@overload
def enqueue(connection: SyncConnection, job: NewJob, /) -> str: ...
def enqueue(
    connection: SyncConnection | ExecutesAsync,
    type: str | NewJob,
    /,
    *args: JSON,
    **options: Unpack[JobOptions],
) -> str | Coroutine[Any, Any, str]:
    """Write a job into the outbox, in the transaction of a connection, and return its id.

    The job exists when the outermost transaction commits. Then a relay sends it to the server.
    ``delay`` and ``expires`` count from now, by the clock of this machine. The middleware of an
    ``App`` is not called.

    Args:
        connection: a session or connection of SQLAlchemy, a connection of psycopg, or
            ``django.db.connection``. With an async one, await the result.
        type: the type of the job, which chooses its handler; or a job of ``new_job``, with its
            arguments and options.
        *args: the arguments.
        **options: see ``JobOptions``. Without ``job_id`` the job gets a new id.

    Raises:
        TypeError: there is no such option, or an argument has no JSON form.
        ValueError: options contradict each other, or have no valid form.
    """
    job = as_new_job(type, *args, **options)
    job_id = job.options.get("job_id") or new_job_id()
    body = encode({**_with_times(job), "id": job_id}).decode()
    queue = job.options.get("queue", "default")
    values = {"job_id": job_id, "queue": queue, "job": body}
    if not _is_async(connection):
        _execute(connection, _ENQUEUE, values)
        return job_id

    async def write() -> str:
        await _execute_async(connection, _ENQUEUE, values)
        return job_id

    return write()


@overload
def once(connection: ExecutesAsync, job_id: str) -> Coroutine[Any, Any, bool]: ...
@overload
def once(connection: SyncConnection, job_id: str) -> bool: ...
def once(
    connection: SyncConnection | ExecutesAsync, job_id: str
) -> bool | Coroutine[Any, Any, bool]:
    """Return whether no committed transaction has called this for the job.

    The handler writes its effects in the same transaction, if the result is True. Then they
    happen once, however often the job runs. While another transaction is about to commit the same
    job, the call waits for it. Rows are deleted by the relay after 30 days.

    Args:
        connection: as for ``enqueue``. With an async one, await the result.
        job_id: the id of the job that runs.

    Raises:
        RuntimeError: the connection is in no transaction, so this would be committed at once.
    """
    if _commits_at_once(connection):
        raise RuntimeError("once() without a transaction would forbid effects that may not happen")
    values = {"job_id": job_id}
    if not _is_async(connection):
        return _execute(connection, _ONCE, values) == 1

    async def write() -> bool:
        return await _execute_async(connection, _ONCE, values) == 1

    return write()


def _with_times(job: NewJob) -> dict[str, JSON]:
    """Return the request of a job with absolute times: it may be sent much later."""
    body, given, now = job.json(), job.options, datetime.now(UTC)
    if "delay" in given:
        body["options"]["scheduled_at"] = iso_time(now + timedelta(seconds=seconds(given["delay"])))
    if "expires" in given and not isinstance(expires := given["expires"], datetime):
        body["options"]["expires_at"] = iso_time(now + timedelta(seconds=seconds(expires)))
    return body


def _is_async(connection: Any) -> bool:
    return inspect.iscoroutinefunction(getattr(connection, "execute", None))


def _commits_at_once(connection: Any) -> bool:
    if hasattr(connection, "get_autocommit"):  # of Django
        return bool(connection.get_autocommit())
    is_committing = getattr(connection, "autocommit", False)
    return bool(is_committing) and int(connection.info.transaction_status) == _IDLE


def _execute(connection: Any, sql: str, values: Mapping[str, str]) -> int:
    """Execute a statement; return the number of its rows."""
    if not hasattr(connection, "cursor"):
        rows: int = connection.execute(_sqlalchemy(sql), values).rowcount
        return rows
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        rows = cursor.rowcount
        return rows


async def _execute_async(connection: Any, sql: str, values: Mapping[str, str]) -> int:
    statement = sql if hasattr(connection, "cursor") else _sqlalchemy(sql)
    rows: int = (await connection.execute(statement, values)).rowcount
    return rows


def _sqlalchemy(sql: str) -> Any:
    from sqlalchemy import text

    return text(_PARAMETER.sub(r":\1", sql))
