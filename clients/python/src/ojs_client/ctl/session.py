"""Shared by all commands: the options of the connection, the output, examples in the help."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any, Final, TypeAlias, TypeVar

import click

from ojs_client.ctl import profile
from ojs_client.ctl.api import Api
from ojs_client.ctl.errors import Exit, Failed, failure
from ojs_client.ctl.output import FORMATS, Format, Output, Row
from ojs_client.ctl.times import DURATION, MOMENT, Period
from ojs_client.errors import ConnectionFailed, OJSError

_TIMEOUT_S: Final = 30.0
_CLEAR: Final = "\x1b[H\x1b[2J"
F = TypeVar("F", bound=Callable[..., Any])
Completion: TypeAlias = Callable[[click.Context, click.Parameter, str], list[str]]
"""Completes an argument on the command line."""


@dataclass
class Session:
    """The connection and the output of one command.

    Args:
        output: prints what the command found.
        url: the address that the command line names; None without one.
        profile_name: the profile that it names; None without one.
        timeout_s: how long a request may take, in seconds.
        as_json: whether ``--json`` stands before the noun.
        period: what ``--since`` and ``--until`` of the command say.
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
        """The server of the command."""
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
            if self.period.admits(row) and all(_has(row, *each) for each in wanted.items())
        )
        return islice(found, limit)

    def close(self) -> None:
        """Close the connections."""
        if "api" in self.__dict__:
            self.api.close()


def _has(row: Row, name: str, wanted: str) -> bool:
    value = row.get(name)
    return wanted in value if isinstance(value, list) else wanted == value


class Examples(click.Command):
    """A command whose help ends with examples.

    Args:
        examples: command lines, one per line, without ``ojsctl``.
    """

    def __init__(self, *args: Any, examples: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples."""
        super().format_epilog(ctx, formatter)
        formatter.write_paragraph()
        formatter.write("Examples:\n")
        for line in self._examples.strip().splitlines():
            formatter.write(f"  ojsctl {line.strip()}\n")


class Leaf(Examples):
    """A command that asks a server.

    It has the options of the connection and of the output. Its function gets a ``Session`` by
    ``click.pass_obj``.

    Args:
        formats: the formats of its output; none if it prints in one form only.
        watch: whether it has ``--watch``.
        period: the member of the entries of its list by which ``--since`` and ``--until`` choose
            them, and what happened then; None for a command without these options.
        connects: whether it asks a server.
    """

    def __init__(
        self,
        *args: Any,
        formats: Sequence[Format] = FORMATS,
        watch: bool = False,
        period: tuple[str, str] | None = None,
        connects: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._formats = formats
        self._member, happened = period or ("", "")
        self.params: list[click.Parameter] = [
            *self.params,
            *(_period_options(happened) if period else ()),
            *_options(formats, watch),
            *(connection_options("_") if connects else ()),
        ]

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, once or until it is interrupted."""
        for option in self.params:
            value = ctx.params.get(option.name or "")
            if option.name not in _MAY_BE_EMPTY and (value == "" or value == ("",)):
                # An unset variable of a shell must not choose more jobs than were meant.
                raise click.UsageError(f"{option.opts[-1]} is empty", ctx)
        given = {name: ctx.params.pop(f"_{name}", None) for name in (*_OWN, *_ROOT)}
        session = root_session(ctx)
        as_json = given["json"] or session.as_json
        machine: Format = "jsonl" if self._formats and "json" not in self._formats else "json"
        session.output = Output(given["output"] or (machine if as_json else "table"))
        session.period = Period(self._member, given["since"], given["until"])
        for name in _ROOT:
            if given[name] is not None:
                setattr(session, name, given[name])
        ctx.obj = session
        ctx.call_on_close(session.close)
        if given["watch"] is None:
            self._once(ctx, session)
        else:
            self._watch(ctx, session, given["watch"])
        if session.exit_code:
            ctx.exit(session.exit_code)

    def _once(self, ctx: click.Context, session: Session) -> None:
        try:
            super().invoke(ctx)
        except OJSError as error:
            raise failure(error, session.connection.url) from error
        except UnicodeError:
            raise click.UsageError("An argument or a file is not valid UTF-8.") from None

    def _watch(self, ctx: click.Context, session: Session, interval_s: float) -> None:
        """Repeat the command. A server that restarts does not end it."""
        try:
            first = True
            while True:
                if not first:
                    time.sleep(interval_s)
                if sys.stdout.isatty() and session.output.is_table:
                    click.echo(_CLEAR, nl=False)
                elif not first and session.output.is_table:
                    click.echo()
                try:
                    self._once(ctx, session)
                except Failed as error:
                    if first or not isinstance(error.__cause__, ConnectionFailed):
                        raise
                    error.show()
                sys.stdout.flush()
                first = False
        except KeyboardInterrupt:
            session.exit_code = Exit.OK


_OWN: Final = ("output", "json", "watch", "since", "until")
_MAY_BE_EMPTY: Final = ("query",)
_ROOT: Final = ("url", "profile_name", "timeout_s")


def root_session(ctx: click.Context) -> Session:
    """Return the session with the options that stand before the noun."""
    found = ctx.find_root().obj
    return found if isinstance(found, Session) else Session()


def connection_options(prefix: str = "") -> list[click.Option]:
    """Return the options that choose the server.

    Args:
        prefix: begins the names of the values, so that they are not arguments of a command.
    """
    return [
        click.Option(
            ["--url", f"{prefix}url"],
            metavar="URL",
            help="Address of the server; default OJS_URL, then the profile in use.",
        ),
        click.Option(
            ["--profile", f"{prefix}profile_name"],
            metavar="NAME",
            help="Use the server and the key of this profile.",
            shell_complete=_complete_profiles,
        ),
        click.Option(
            ["--timeout", f"{prefix}timeout_s"],
            type=DURATION,
            help="How long a request may take (30s).",
        ),
    ]


def _options(formats: Sequence[Format], watch: bool) -> list[click.Option]:
    options = [json_option("_json")]
    if formats:
        output = click.Option(
            ["-o", "--output", "_output"],
            type=click.Choice(formats),
            help="Form of the output (table).",
        )
        options.insert(0, output)
    if watch:
        repeat = click.Option(
            ["--watch", "_watch"],
            type=DURATION,
            help="Repeat the command after this time, until Ctrl-C.",
        )
        options.insert(0, repeat)
    return options


def json_option(name: str) -> click.Option:
    """Return ``--json``, which is ``-o json``."""
    return click.Option(["--json", name], is_flag=True, hidden=True)


def _period_options(happened: str) -> list[click.Option]:
    return [
        click.Option(
            ["--since", "_since"],
            type=MOMENT,
            help=f"Only those that {happened} since a time, or an age such as 1h.",
        ),
        click.Option(
            ["--until", "_until"],
            type=MOMENT,
            help=f"Only those that {happened} before a time, or an age such as 1h.",
        ),
    ]


def _complete_profiles(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    try:
        names = profile.Profiles.load().profiles
    except profile.ProfileError:
        return []
    return sorted(name for name in names if name.startswith(incomplete))


def completion_of(
    read: Callable[[Api], Iterable[str]],
) -> Completion:
    """Return a function that completes names which the server knows; none without a server.

    Args:
        read: returns the names.
    """

    def complete(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
        session = Session(
            url=ctx.params.get("_url"), profile_name=ctx.params.get("_profile_name"), timeout_s=2.0
        )
        try:
            return [name for name in read(session.api) if name.startswith(incomplete)]
        except (OJSError, click.ClickException):
            return []
        finally:
            session.close()

    return complete


def yes_option(function: F) -> F:
    """Add ``--yes`` to a command that asks before it acts."""
    return click.option("-y", "--yes", is_flag=True, help="Do not ask; needed without a terminal.")(
        function
    )


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
