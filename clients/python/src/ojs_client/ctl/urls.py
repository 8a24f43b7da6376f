"""Names in the paths of requests."""

from __future__ import annotations

from urllib.parse import quote

import click


def url_path(name: str) -> str:
    """Return a name that is one part of a path.

    Raises:
        UsageError: the name is empty or a relative path, which would name another resource.
    """
    if name in ("", ".", ".."):
        raise click.UsageError(f"{name!r} is no name.")
    return quote(name, safe="")
