"""``manage.py ojs_outbox``: send the jobs of the outbox, and care for refused ones."""

import argparse
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connections
from django.tasks import DEFAULT_TASK_BACKEND_ALIAS

from ojs_client.django.backend import backend_of
from ojs_client.outbox_command import add_commands, run


class Command(BaseCommand):
    """The command."""

    help = "Send the jobs of the outbox of the project, as ojs-outbox does."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the commands of ``ojs-outbox``, and ``--alias``."""
        default = DEFAULT_TASK_BACKEND_ALIAS
        parser.add_argument("--alias", default=default, help=f"alias in TASKS ({default})")
        add_commands(parser)

    def handle(self, *args: Any, alias: str, **given: Any) -> None:
        """Run one command, and exit.

        Raises:
            CommandError: the backend of the alias has no outbox.
        """
        backend = backend_of(alias)
        if backend.outbox is None:
            raise CommandError(f"TASKS['{alias}'] has no outbox")
        given["url"] = given.get("url") or backend.server.get("url")
        address = _address(backend.outbox)
        sys.exit(run(address, argparse.Namespace(**given), backend.server.get("api_key")))


def _address(database: str) -> str:
    """Return a database of the project as an address for psycopg."""
    from psycopg.conninfo import make_conninfo
    from psycopg.pq import Conninfo

    names = {option.keyword.decode() for option in Conninfo.get_defaults()}
    given = connections[database].get_connection_params()
    return make_conninfo(**{name: given[name] for name in names & given.keys()})
