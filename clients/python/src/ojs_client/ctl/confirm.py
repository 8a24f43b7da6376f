"""Ask the user before a command changes anything."""

from __future__ import annotations

import sys

import click

from ojs_client.ctl.command import F


def yes_option(function: F) -> F:
    """Add ``--yes`` to a command that asks before it acts."""
    text = "Do not ask; needed without a terminal."
    return click.option("-y", "--yes", is_flag=True, help=text)(function)


def dry_run_option(function: F) -> F:
    """Add ``--dry-run`` to a command that changes many objects."""
    return click.option("--dry-run", is_flag=True, help="Print what would be changed.")(function)


def confirm(question: str, *, yes: bool) -> None:
    """Ask the user; without a terminal the command line must have ``--yes``.

    Args:
        question: the question.
        yes: whether the command line has ``--yes``.

    Raises:
        UsageError: there is no terminal, and no ``--yes``.
        Abort: the user refuses.
    """
    if not yes:
        check_terminal(f"{question} Without a terminal, confirm it by --yes.")
        click.confirm(question, abort=True, err=True)


def check_terminal(message: str) -> None:
    """Check that there is a user who can confirm.

    Raises:
        UsageError: stdin is no terminal.
    """
    if not sys.stdin.isatty():
        raise click.UsageError(message)
