"""Complete names on the command line for a shell."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

import click

from ojs_client.ctl import profile
from ojs_client.ctl.api import Api
from ojs_client.ctl.session import Session
from ojs_client.errors import OJSError

Completion: TypeAlias = Callable[[click.Context, click.Parameter, str], list[str]]
"""Returns the names that begin like the last argument."""
_TIMEOUT_S: Final = 2.0


def completion_of(read: Callable[[Api], Iterable[str]]) -> Completion:
    """Return a function that completes names which the server knows; none without a server.

    Args:
        read: returns the names.
    """

    def complete(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
        before_noun = ctx.find_root().params
        session = Session(
            url=ctx.params.get("_url") or before_noun.get("url"),
            profile_name=ctx.params.get("_profile_name") or before_noun.get("profile_name"),
            timeout_s=_TIMEOUT_S,
        )
        try:
            return [name for name in read(session.api) if name.startswith(incomplete)]
        except (OJSError, click.ClickException):
            return []
        finally:
            session.close()

    return complete


def complete_profiles(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Complete the name of a profile."""
    try:
        names = profile.Profiles.load().profiles
    except profile.ProfileError:
        return []
    return sorted(name for name in names if name.startswith(incomplete))
