"""``ojs-outbox``: run a relay, create its tables, and care for refused jobs."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ojs_client._version import __version__
from ojs_client.options import seconds
from ojs_client.outbox.schema import SCHEMA

if TYPE_CHECKING:
    from ojs_client.outbox.rows import FailedJob, OutboxRows, Status

T = TypeVar("T")

_EXAMPLES: Final = 20
"""Number of jobs that ``status`` names without ``--all``."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code.

    Args:
        arguments: the arguments of the command line; None for those of the process.
    """
    parser = argparse.ArgumentParser(
        prog="ojs-outbox", description="Send the jobs of an outbox table to an OJS server."
    )
    parser.add_argument("--version", action="version", version=f"ojs-outbox {__version__}")
    commands = add_commands(parser)
    text = "print the SQL that creates the tables"
    commands.add_parser("schema", help=text, description=text)
    for name, command in commands.choices.items():
        if name != "schema":
            default = os.environ.get("DATABASE_URL")
            command.add_argument("--database", default=default, help="the database (DATABASE_URL)")
    given = parser.parse_args(arguments)
    if given.command == "schema":
        print(SCHEMA, end="")
        return 0
    if not given.database:
        parser.error("--database or DATABASE_URL names the database")
    return run(given.database, given)


def add_commands(parser: argparse.ArgumentParser) -> argparse._SubParsersAction[Any]:
    """Add the commands that need a database; return where they are."""
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    relay = _command(commands, "relay", "send jobs until SIGTERM")
    relay.add_argument("--url", help="the server (OJS_URL); OJS_API_KEY names the API key")
    relay.add_argument("--poll", default="0.25s", help="pause at an empty table (0.25s)")
    relay.add_argument("--portion", type=int, default=500, help="jobs of a request (500)")
    relay.add_argument("--keep-once", default="720h", help="how long `once` is kept (720h)")
    relay.add_argument(
        "--keep-refused", default="2160h", help="how long refused jobs are kept (2160h)"
    )
    relay.add_argument("--log-format", choices=("text", "json"), default="text")

    status = _command(commands, "status", "count waiting and refused jobs, and show errors")
    status.add_argument("--json", action="store_true", help="print JSON")
    status.add_argument("--all", action="store_true", help=f"show more than {_EXAMPLES} errors")

    for name, text in (("retry", "send refused jobs again"), ("remove", "delete refused jobs")):
        change = _command(commands, name, text)
        change.add_argument("ids", nargs="*", metavar="ID", help="the jobs")
        change.add_argument("--all", action="store_true", help="all refused jobs")
    return commands


def run(database: str, given: argparse.Namespace, api_key: str | None = None) -> int:
    """Run a command of ``add_commands``, and return its exit code.

    Args:
        database: the address of the database.
        given: the arguments.
        api_key: the API key of a relay; None for ``OJS_API_KEY``.
    """
    try:
        import psycopg  # a producer does not need it
    except ModuleNotFoundError as error:
        if error.name != "psycopg":
            raise
        return _fail("it needs the package 'psycopg': pip install 'ojs-client[outbox]'")
    try:
        if given.command == "relay":
            return _relay(database, given, api_key)
        return {"status": _status, "retry": _change, "remove": _change}[given.command](
            database, given
        )
    except psycopg.errors.UndefinedTable:
        return _fail("the tables do not exist: ojs-outbox schema | psql $DATABASE_URL")
    except (psycopg.Error, ValueError) as error:
        return _fail(str(error).strip())


def _command(
    commands: argparse._SubParsersAction[Any], name: str, text: str
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    return command


def _relay(database: str, given: argparse.Namespace, api_key: str | None) -> int:
    import anyio

    from ojs_client.background import running
    from ojs_client.outbox import relay
    from ojs_client.worker.stop_signals import watch
    from ojs_client.worker_command.logs import configure

    configure("INFO", given.log_format, "outbox")
    send = partial(
        relay,
        database,
        url=given.url,
        api_key=api_key,
        poll=seconds(given.poll),
        portion=given.portion,
        keep_once=seconds(given.keep_once),
        keep_refused=seconds(given.keep_refused),
    )

    async def until_stopped() -> None:
        with anyio.CancelScope() as scope:
            async with running(partial(watch, lambda _: scope.cancel())):
                await send()

    anyio.run(until_stopped)
    return 0


def _status(database: str, given: argparse.Namespace) -> int:
    limit = None if given.all else _EXAMPLES
    status = _with_rows(database, lambda rows: rows.status(limit))
    print(json.dumps(asdict(status), default=str) if given.json else "\n".join(_lines(status)))
    return 0


def _lines(status: Status) -> list[str]:
    age = "" if status.oldest_s is None else f", the oldest for {status.oldest_s:.1f} s"
    lines = [f"{status.waiting} waiting{age}", f"{status.refused} refused"]
    return lines + [_line(job) for job in status.examples]


def _line(job: FailedJob) -> str:
    state = "waits" if job.refused_at is None else "is refused"
    return f"  {job.job_id}  {job.queue}  {state} after {job.attempts} attempts: {job.error}"


def _change(database: str, given: argparse.Namespace) -> int:
    if bool(given.ids) == given.all:
        return _fail("name jobs, or give --all")
    retry = given.command == "retry"
    count = _with_rows(database, lambda rows: (rows.retry if retry else rows.remove)(given.ids))
    print(f"{count} {'wait again' if retry else 'removed'}")
    return 0 if count else 1


def _with_rows(database: str, function: Callable[[OutboxRows], T]) -> T:
    from ojs_client.outbox.rows import OutboxRows

    rows = OutboxRows(database)
    try:
        return function(rows)
    finally:
        rows.close()


def _fail(message: str) -> int:
    print(f"ojs-outbox: {message}", file=sys.stderr)
    return 1
