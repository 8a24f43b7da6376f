"""``ojsctl schema``: the schemas of job args, and how each type is validated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TextIO

import click

from ojs_client.ctl.api import V1
from ojs_client.ctl.command import Leaf
from ojs_client.ctl.confirm import yes_option
from ojs_client.ctl.output import Column, Row, member, pretty
from ojs_client.ctl.selection import remove_each
from ojs_client.ctl.session import Session
from ojs_client.ctl.text import ago, clock
from ojs_client.ctl.urls import url_path
from ojs_client.ctl.values import parsed
from ojs_client.ctl.words import Verbs

_PATH = f"{V1}/admin/schemas"
_MODES = ("strict", "warn", "off", "default")
"""How types are validated. The API spells ``default``, the mode of the server, ``""``."""
_COMPATIBILITIES = ("backward", "forward", "full", "none")


@click.group(cls=Verbs)
def schema() -> None:
    """Register schemas of job args, and choose how strict they are."""


COLUMNS = (
    Column("TYPE", member("type"), shrink=16),
    Column("LATEST", member("version"), right=True),
    Column("VERSIONS", member("version_count"), right=True),
    Column("MODE", member("mode")),
    Column("COMPATIBILITY", member("compatibility"), rank=1),
    Column("CREATED", lambda row: ago(row["created_at"]), right=True, rank=2),
    Column("URI", member("uri"), wide=True),
)


@schema.command(
    cls=Leaf, watch=True, period=("created_at", "were registered"), examples="schema ls"
)
@click.pass_obj
def ls(session: Session) -> None:
    """List the job types that have a schema."""
    found = session.pages(_PATH, "schemas", None)
    session.output.rows(found, COLUMNS, name="type", empty="no job type has a schema")


@schema.command(
    cls=Leaf,
    examples="""
    schema get email.send
    schema get email.send 1.2 -o json
    """,
)
@click.argument("job_type", metavar="TYPE")
@click.argument("version", required=False)
@click.pass_obj
def get(session: Session, job_type: str, version: str | None) -> None:
    """Show the latest schema of a type, or one version."""
    path = f"{_PATH}/{url_path(job_type)}"
    found = session.api.get(f"{path}/{url_path(version)}" if version else path)
    session.output.record(found, _fields(found), name="type")


def _fields(found: Row) -> Iterator[tuple[str, Any]]:
    yield "Type", found["type"]
    yield "Version", found["version"]
    yield "Uri", found["uri"]
    yield "Mode", found.get("mode")
    yield "Compatibility", found.get("compatibility")
    yield "Created", clock(found["created_at"])
    yield "Schema", pretty(found["schema"])


@schema.command(
    cls=Leaf,
    examples="""
    schema put email.send 2.0.0 email.json
    schema put email.send 2.1.0 - < email.json
    """,
)
@click.argument("job_type", metavar="TYPE")
@click.argument("version")
@click.argument("file", type=click.File("r", encoding="utf-8"))
@click.option("--uri", help="The URI of the schema.")
@click.pass_obj
def put(session: Session, job_type: str, version: str, file: TextIO, uri: str | None) -> None:
    """Register a version. FILE holds the schema; - is stdin."""
    try:
        document = parsed(file.read())
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"{file.name} is not JSON: {error}") from None
    body = {"schema": document} | ({"uri": uri} if uri else {})
    path = f"{_PATH}/{url_path(job_type)}/{url_path(version)}"
    made = session.api.request("PUT", path, body)
    name = f"{job_type}@{version}"
    session.output.changed(made, f"schema {name} registered", name=name)


@schema.command(
    "set",
    cls=Leaf,
    examples="""
    schema set email.send --mode strict
    schema set email.send --compatibility full
    """,
)
@click.argument("job_type", metavar="TYPE")
@click.option("--mode", type=click.Choice(_MODES), help="default: OJS_SCHEMA_MODE of the server.")
@click.option("--compatibility", type=click.Choice(_COMPATIBILITIES))
@click.pass_obj
def set_(session: Session, /, job_type: str, mode: str | None, compatibility: str | None) -> None:
    """Choose how a type is validated, and what further versions may change."""
    chosen = {"mode": "" if mode == "default" else mode, "compatibility": compatibility}
    body = {name: value for name, value in chosen.items() if value is not None}
    if not body:
        raise click.UsageError("Give --mode or --compatibility.")
    reply = session.api.request("PUT", f"{_PATH}/{url_path(job_type)}", body)
    sentence = f"schema {job_type}: mode {reply['mode']}, compatibility {reply['compatibility']}"
    session.output.changed(reply, sentence, name=job_type)


@schema.command(cls=Leaf, examples="schema rm email.send@1.0.0 --yes")
@click.argument("names", nargs=-1, required=True, metavar="TYPE@VERSION...")
@yes_option
@click.pass_obj
def rm(session: Session, names: tuple[str, ...], yes: bool) -> None:
    """Remove versions. Jobs of these versions are no longer validated."""
    paths = {}
    for name in names:
        job_type, _, version = name.partition("@")
        if not (job_type and version):
            raise click.UsageError("Name a version, such as email.send@1.0.0.")
        paths[name] = f"{_PATH}/{url_path(job_type)}/{url_path(version)}"
    remove_each(session, "schema", paths, yes=yes)
