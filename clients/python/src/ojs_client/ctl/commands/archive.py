"""``ojsctl export`` and ``import``: those of ``ojs-cluster``, which read and write Redis itself."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import click

from ojs_client.ctl.command import Examples
from ojs_client.ctl.errors import Failed

_PROGRAM = "ojs-cluster"
_PASSED = {"ignore_unknown_options": True}


def _run(ctx: click.Context, verb: str, words: tuple[str, ...]) -> None:
    beside = Path(sys.executable).with_name(_PROGRAM)
    found = str(beside) if beside.exists() else shutil.which(_PROGRAM)
    if found is None:
        raise Failed(
            f"{_PROGRAM} is not installed here. It needs Redis, not the API, so run it beside the "
            f"server: kubectl exec deployment/NAME -- {_PROGRAM} {verb}"
        )
    ctx.exit(subprocess.run([found, verb, *words], check=False).returncode)  # noqa: S603


@click.command(
    cls=Examples,
    context_settings=_PASSED,
    examples="export --output backup.jsonl",
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[OPTION]...")
@click.pass_context
def export(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Write all stored data to a file: ojs-cluster export, which needs REDIS_URL.

    The options are those of ojs-cluster export --help.
    """
    _run(ctx, "export", words)


@click.command(
    "import",
    cls=Examples,
    context_settings=_PASSED,
    examples="import backup.jsonl",
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[OPTION]... [FILE]")
@click.pass_context
def import_(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Store the data of an export: ojs-cluster import, which needs REDIS_URL.

    The options are those of ojs-cluster import --help.
    """
    _run(ctx, "import", words)
