"""Enqueue jobs in a transaction of your database, and run the effects of a job once.

``enqueue`` writes the job into a table, in the transaction of its connection. A relay sends the
jobs of committed transactions to the server. ``once`` writes the id of a job into another table.
``SCHEMA`` creates both on PostgreSQL.
"""

from __future__ import annotations

from typing import Any

from ojs_client.options import Duration
from ojs_client.outbox.schema import SCHEMA
from ojs_client.outbox.statements import enqueue, once

__all__ = ["SCHEMA", "enqueue", "once", "relay"]


async def relay(
    database: str,
    *,
    url: str | None = None,
    api_key: str | None = None,
    poll: Duration = 0.25,
    portion: int = 500,
    keep_once: Duration = "720h",
    keep_refused: Duration = "2160h",
    transport: Any = None,
) -> None:
    """Send the jobs of the outbox to the server, until the task is cancelled.

    It goes on after failures of the database and of the server. A row is deleted after the server
    has stored its job, and keeps the error if the server refuses the job. Several relays share the
    rows. It needs the extra ``outbox``, and runs on asyncio or trio.

    Args:
        database: the address of a PostgreSQL database, such as ``postgresql://user@host/name``.
        url: the address of the server; None for ``OJS_URL``, or port 8080 of this machine.
        api_key: the API key; None for ``OJS_API_KEY``.
        poll: pause between two looks at an empty table.
        portion: maximum number of jobs of a request; the server allows 1000 by default.
        keep_once: age at which the rows of ``once`` are deleted.
        keep_refused: how long refused jobs stay in the table.
        transport: how httpx2 reaches the server, for tests and special networks.

    Raises:
        psycopg.ProgrammingError: the tables do not exist, or the user may not use them.
        ValueError: an argument has no valid form.
    """
    from ojs_client.outbox.relaying import run  # producers need no psycopg

    await run(
        database,
        url=url,
        api_key=api_key,
        poll=poll,
        portion=portion,
        keep_once=keep_once,
        keep_refused=keep_refused,
        transport=transport,
    )
