"""``ojs-outbox``: run a relay, create its tables, and care for refused jobs."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from ojs_client._version import __version__
from ojs_client.options import seconds
from ojs_client.outbox.schema import FORMS, schema_as

if TYPE_CHECKING:
    from ojs_client.outbox.rows import OutboxRows, Status

T = TypeVar("T")

_EXAMPLES: Final = 20
"""Number of refused jobs that ``status`` names without ``--all``."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code.

    Args:
        arguments: the arguments of the command line; None for those of the process.
    """
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.command == "schema":
        print(schema_as(given.form), end="")
        return 0
    if not given.database:
        parser.error("--database or DATABASE_URL names the database")
    try:
        import psycopg  # a producer does not need it
    except ModuleNotFoundError as error:
        if error.name != "psycopg":
            raise
        return _fail("it needs the package 'psycopg': pip install 'ojs-client[outbox]'")
    try:
        return _COMMANDS[given.command](given)
    except psycopg.errors.UndefinedTable:
        return _fail("the tables do not exist: ojs-outbox schema | psql $DATABASE_URL")
    except (psycopg.Error, ValueError) as error:
        return _fail(str(error).strip())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ojs-outbox", description="Send the jobs of an outbox table to an OJS server."
    )
    parser.add_argument("--version", action="version", version=f"ojs-outbox {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    schema = commands.add_parser("schema", help="print what creates the tables")
    schema.add_argument("--as", dest="form", choices=FORMS, default="sql", help="the form (sql)")

    relay = _command(commands, "relay", "send jobs until SIGTERM")
    relay.add_argument("--url", help="the server (OJS_URL); OJS_API_KEY names the API key")
    relay.add_argument("--poll", default="0.25s", help="pause at an empty table (0.25s)")
    relay.add_argument("--portion", type=int, default=500, help="jobs of a request (500)")
    relay.add_argument("--keep-once", default="720h", help="how long `once` is kept (720h)")
    relay.add_argument("--log-format", choices=("text", "json"), default="text")

    status = _command(commands, "status", "count waiting jobs, and name the refused ones")
    status.add_argument("--json", action="store_true", help="print JSON")
    status.add_argument("--all", action="store_true", help=f"name more than {_EXAMPLES} jobs")

    for name, text in (("retry", "send refused jobs again"), ("remove", "delete refused jobs")):
        change = _command(commands, name, text)
        change.add_argument("ids", nargs="*", metavar="ID", help="the jobs")
        change.add_argument("--all", action="store_true", help="all refused jobs")
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text)
    default = os.environ.get("DATABASE_URL")
    command.add_argument("--database", default=default, help="the database (DATABASE_URL)")
    return command


def _relay(given: argparse.Namespace) -> int:
    import anyio

    from ojs_client.background import running
    from ojs_client.outbox import relay
    from ojs_client.worker.stop_signals import watch
    from ojs_client.worker_command.logs import configure

    configure("INFO", given.log_format, "outbox")
    send = partial(
        relay,
        given.database,
        url=given.url,
        poll=seconds(given.poll),
        portion=given.portion,
        keep_once=seconds(given.keep_once),
    )

    async def until_stopped() -> None:
        with anyio.CancelScope() as scope:
            async with running(partial(watch, lambda _: scope.cancel())):
                await send()

    anyio.run(until_stopped)
    return 0


def _status(given: argparse.Namespace) -> int:
    limit = None if given.all else _EXAMPLES
    status = _with_rows(given.database, lambda rows: rows.status(limit))
    print(json.dumps(asdict(status), default=str) if given.json else "\n".join(_lines(status)))
    return 0


def _lines(status: Status) -> list[str]:
    age = "" if status.oldest_s is None else f", the oldest for {status.oldest_s:.1f} s"
    lines = [f"{status.waiting} waiting{age}", f"{status.refused} refused"]
    lines += [f"  {job.job_id}  {job.queue}  {job.error}" for job in status.examples]
    if hidden := status.refused - len(status.examples):
        lines.append(f"  and {hidden} more: --all")
    return lines


def _change(given: argparse.Namespace) -> int:
    if bool(given.ids) == given.all:
        return _fail("name jobs, or give --all")
    retry = given.command == "retry"
    count = _with_rows(
        given.database, lambda rows: (rows.retry if retry else rows.remove)(given.ids)
    )
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


_COMMANDS: Final[dict[str, Callable[[argparse.Namespace], int]]] = {
    "relay": _relay,
    "status": _status,
    "retry": _change,
    "remove": _change,
}
