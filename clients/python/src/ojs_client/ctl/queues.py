"""Names of queues on the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable

import click

from ojs_client.ctl.api import ADMIN, V1
from ojs_client.ctl.command import F
from ojs_client.ctl.complete import Completion, completion_of
from ojs_client.ctl.confirm import confirm
from ojs_client.ctl.errors import Exit, Failed
from ojs_client.ctl.session import Session
from ojs_client.ctl.urls import url_path
from ojs_client.errors import ApiError, NotFound

complete_queues: Completion = completion_of(
    lambda api: (each["name"] for each in api.pages(f"{V1}/queues", "queues", 1000))
)
"""Complete the name of a queue."""
queue_names: Callable[[F], F] = click.argument(
    "names", nargs=-1, required=True, metavar="NAME...", shell_complete=complete_queues
)


def ask_if_new(session: Session, name: str, yes: bool) -> None:
    """Ask before a change creates a queue: people may have mistyped the name.

    Raises:
        Failed: there is no such queue, no terminal, and no ``--yes``.
        Abort: the user refuses.
    """
    if yes:
        return
    try:
        session.api.get(f"{ADMIN}/queues/{url_path(name)}")
    except NotFound:
        if not sys.stdin.isatty():
            message = f"there is no queue {name!r}; --yes changes it anyway"
            raise Failed(message, Exit.NOT_FOUND) from None
        confirm(f"There is no queue {name!r}. Change it anyway?", yes=False)
    except ApiError:  # the API key allows the change only, or the name is no queue's
        return
