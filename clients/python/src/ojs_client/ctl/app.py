"""The command line: ``ojsctl NOUN VERB``."""

from __future__ import annotations

from typing import Any

import click

from ojs_client._version import __version__
from ojs_client.ctl.command import Examples, connection_options, json_option
from ojs_client.ctl.commands.archive import export, import_
from ojs_client.ctl.commands.audit import audit
from ojs_client.ctl.commands.bulk import bulk
from ojs_client.ctl.commands.completion import completion
from ojs_client.ctl.commands.cron import cron
from ojs_client.ctl.commands.dead import dead
from ojs_client.ctl.commands.doctor import doctor
from ojs_client.ctl.commands.error import error
from ojs_client.ctl.commands.events import events
from ojs_client.ctl.commands.job import job
from ojs_client.ctl.commands.limit import limit
from ojs_client.ctl.commands.mark import mark
from ojs_client.ctl.commands.pool import pool
from ojs_client.ctl.commands.problem import problem
from ojs_client.ctl.commands.profiles import profile
from ojs_client.ctl.commands.queue import queue
from ojs_client.ctl.commands.schema import schema
from ojs_client.ctl.commands.stats import stats
from ojs_client.ctl.commands.tenant import tenant
from ojs_client.ctl.commands.top import top
from ojs_client.ctl.commands.webhook import webhook
from ojs_client.ctl.commands.worker import worker
from ojs_client.ctl.commands.workflow import workflow
from ojs_client.ctl.session import Session
from ojs_client.ctl.words import Nouns


@click.group(
    cls=Nouns,
    params=[*connection_options(), json_option("as_json")],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 refused, 5 unreachable, 6 partly.",
    examples="""
    job enqueue email.send '{"to": "ada@example.com"}'
    job ls --query 'state:discarded since:1h'
    queue ls -o json
    doctor
    """,
)
@click.version_option(__version__, prog_name="ojsctl")
@click.pass_context
def cli(ctx: click.Context, /, **given: Any) -> None:
    """Inspect and operate an OpenJobSpec server.

    The server is --url, OJS_URL with OJS_API_KEY, or a profile. Data goes to stdout, and progress
    to stderr on a terminal.
    """
    session = Session()
    for name, value in given.items():
        if value is not None:
            setattr(session, name, value)
    ctx.obj = session


@cli.command(cls=Examples, hidden=True, examples="version")
def version() -> None:
    """Print the version, as --version."""
    click.echo(f"ojsctl, version {__version__}")


for _command in (
    *(job, queue, dead, error, worker, cron, workflow, limit, pool, tenant, bulk, schema),
    *(events, audit, webhook, mark, problem, top, stats, doctor),
    *(profile, completion, export, import_),
):
    cli.add_command(_command)
