"""What a command works with: the server, the output and the exit code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any, Final

import click

from ojs_client.ctl import profile
from ojs_client.ctl.api import Api
from ojs_client.ctl.errors import Exit
from ojs_client.ctl.output import Output, Row
from ojs_client.ctl.times import Period

_TIMEOUT_S: Final = 30.0


@dataclass
class Session:
    """The server, the output and the exit code of one command.

    Args:
        output: prints what the command found.
        url: the address that the command line names; None without one.
        profile_name: the profile that it names; None without one.
        timeout_s: how long a request may take, in seconds.
        as_json: whether ``--json`` stands before the noun.
        period: what ``--since`` and ``--until`` of the command say.
        exit_code: the exit code of a command that raises no error.
    """

    output: Output = field(default_factory=Output)
    url: str | None = None
    profile_name: str | None = None
    timeout_s: float = _TIMEOUT_S
    as_json: bool = False
    period: Period = field(default_factory=Period)
    exit_code: Exit = Exit.OK

    @cached_property
    def connection(self) -> profile.Connection:
        """The address and the key of the server."""
        try:
            return profile.connection(self.url, self.profile_name)
        except profile.ProfileError as error:
            raise click.UsageError(str(error)) from None

    @cached_property
    def api(self) -> Api:
        """The client of the server."""
        return Api(self.connection, self.timeout_s)

    def pages(
        self,
        path: str,
        key: str,
        limit: int | None,
        where: Mapping[str, str | None] | None = None,
        **params: str | int | None,
    ) -> Iterator[Any]:
        """Yield the entries of a list in the period of the command, page by page.

        Args:
            path: the path of the list.
            key: the member of a page that has its entries.
            limit: the maximum number of entries; None for all.
            where: members that an entry must have, or contain, if the server cannot choose by
                them; those that are None admit all.
            **params: the query, without the members that are None or empty.
        """
        wanted = {name: value for name, value in (where or {}).items() if value is not None}
        if not (self.period or wanted):
            return self.api.pages(path, key, limit, **params)
        found = (
            row
            for row in self.api.pages(path, key, None, **params)
            if self.period.admits(row)
            and all(_has(row, name, value) for name, value in wanted.items())
        )
        return islice(found, limit)

    def close(self) -> None:
        """Close the connections."""
        if "api" in self.__dict__:  # the command has used the client
            self.api.close()


def _has(row: Row, name: str, wanted: str) -> bool:
    value = row.get(name)
    return wanted in value if isinstance(value, list) else wanted == value
