"""``manage.py ojs_worker``: run the tasks of the project in several processes."""

import argparse
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.tasks import DEFAULT_TASK_BACKEND_ALIAS

from ojs_client.django.backend import backend_of
from ojs_client.worker_command.arguments import add_options, options_of
from ojs_client.worker_command.logs import configure
from ojs_client.worker_command.supervisor import Supervisor


class Command(BaseCommand):
    """The command."""

    help = "Run the tasks of the project in several processes, as ojs-worker does."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options of ``ojs-worker``, and ``--alias``."""
        default = DEFAULT_TASK_BACKEND_ALIAS
        parser.add_argument("--alias", default=default, help=f"alias in TASKS ({default})")
        add_options(parser)

    def handle(self, *args: Any, alias: str, **given: Any) -> None:
        """Run until a stop signal, and exit."""
        backend_of(alias)
        options = options_of(
            "ojs_client.django.worker:project_worker", argparse.Namespace(**given), alias=alias
        )
        configure(options.log_level, options.log_format, "supervisor")
        sys.exit(Supervisor(options).run())
