"""``ojsctl profile``: servers and their keys."""

from __future__ import annotations

import sys
from typing import Any

import click

from ojs_client.ctl import profile as store
from ojs_client.ctl.command import Examples, Leaf
from ojs_client.ctl.complete import complete_profiles
from ojs_client.ctl.confirm import confirm, yes_option
from ojs_client.ctl.output import Column, member
from ojs_client.ctl.session import Session
from ojs_client.ctl.words import Verbs
from ojs_client.http.addresses import shown_address

_MAX_KEY = 4096  # characters


@click.group(cls=Verbs)
def profile() -> None:
    """Keep servers and their keys in your own file."""


def _load() -> store.Profiles:
    try:
        return store.Profiles.load()
    except store.ProfileError as error:
        raise click.UsageError(str(error)) from None


def _save(profiles: store.Profiles) -> None:
    try:
        profiles.save()
    except store.ProfileError as error:
        raise click.ClickException(str(error)) from None


COLUMNS = (
    Column("IN-USE", lambda row: "*" if row["in_use"] else ""),
    Column("NAME", member("name"), shrink=12),
    Column("URL", member("url"), shrink=20),
    Column("KEY", lambda row: "yes" if row["has_key"] else "no"),
)


@profile.command(cls=Leaf, connects=False, examples="profile ls")
@click.pass_obj
def ls(session: Session) -> None:
    """List the profiles. Keys are never printed."""
    profiles = _load()
    rows = [
        {
            "name": name,
            "url": shown_address(each.url),
            "has_key": bool(each.api_key),
            "in_use": name == profiles.current,
        }
        for name, each in sorted(profiles.profiles.items())
    ]
    session.output.rows(rows, COLUMNS, name="name", empty="there are no profiles")


@profile.command(
    cls=Examples,
    examples="""
    profile add local http://localhost:8080
    profile add prod https://jobs.example.com --key-file key.txt --use
    """,
)
@click.argument("name")
@click.argument("url")
@click.option(
    "--key-file",
    type=click.File("r", encoding="utf-8"),
    metavar="FILE",
    help="Read the API key from this file; - is stdin.",
)
@click.option("--use", is_flag=True, help="Use the profile from now on.")
def add(name: str, url: str, key_file: Any, use: bool) -> None:
    """Add a profile, or replace the one of this name.

    On a terminal the API key is asked for. It is no argument, because other users of the machine
    can read those.
    """
    if not name.strip() or len(name) > 100:
        raise click.UsageError("A name has 1 to 100 characters.")
    try:
        url = store.check_url(url)
    except store.ProfileError as error:
        raise click.UsageError(str(error)) from None
    key = ""
    if key_file is not None:
        key = key_file.read(_MAX_KEY).strip()
    elif sys.stdin.isatty():
        key = click.prompt("API key (empty for none)", default="", hide_input=True, err=True)
    if not key.isascii() or not key.isprintable():
        raise click.UsageError("The API key has characters that no header may have.")
    profiles = _load()
    profiles.profiles[name] = store.Profile(url, key)
    if use or not profiles.current:
        profiles.current = name
    _save(profiles)
    click.echo(f"profile {name} added{', in use' if profiles.current == name else ''}")


@profile.command(cls=Examples, examples="profile use prod")
@click.argument("name", shell_complete=complete_profiles)
def use(name: str) -> None:
    """Use a profile from now on."""
    profiles = _load()
    try:
        profiles.get(name)
    except store.ProfileError as error:
        raise click.UsageError(str(error)) from None
    profiles.current = name
    _save(profiles)
    click.echo(f"profile {name} in use")


@profile.command(cls=Examples, examples="profile rm old --yes")
@click.argument("name", shell_complete=complete_profiles)
@yes_option
def rm(name: str, yes: bool) -> None:
    """Delete a profile with its key."""
    profiles = _load()
    try:
        profiles.get(name)
    except store.ProfileError as error:
        raise click.UsageError(str(error)) from None
    confirm(f"Delete profile {name}?", yes=yes)
    del profiles.profiles[name]
    if profiles.current == name:
        profiles.current = ""
    _save(profiles)
    click.echo(f"profile {name} deleted")
