"""Commands: the options that all of them have, ``--watch``, and help that ends with examples."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import click
from click.core import ParameterSource

from ojs_client.ctl.complete import complete_profiles
from ojs_client.ctl.errors import Exit, Failed, failure, pause_after
from ojs_client.ctl.output import FORMATS, Format, Output
from ojs_client.ctl.session import Session
from ojs_client.ctl.times import DURATION, MOMENT, Period
from ojs_client.errors import OJSError

F = TypeVar("F", bound=Callable[..., Any])
"""The function of a command, to which a decorator adds options."""
LEAST_INTERVAL_S: Final = 0.2
"""Least time in seconds between two runs of a command that is repeated."""
_CLEAR_SCREEN: Final = "\x1b[H\x1b[2J"
_CONNECTION: Final = ("url", "profile_name", "timeout_s")
_ADDED: Final = ("output", "json", "watch", "since", "until", *_CONNECTION)
"""The options that ``Leaf`` adds to a command. It takes their values out of ``ctx.params`` before
the command's function gets the others. There their names begin with ``_``, so that an argument of
the function may have the same name."""


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
    """A command with the options of the output and of the connection.

    Its function gets a ``Session`` by ``click.pass_obj``.

    Args:
        formats: the formats of its output; none if it prints in one form only.
        watch: whether it has ``--watch``.
        period: the member of the entries of its list by which ``--since`` and ``--until`` choose
            them, and what happened then; None for a command without these options.
        connects: whether it has the options of the connection.
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
        self._period_member, happened = period or ("", "")
        self.params: list[click.Parameter] = [
            *self.params,
            *(_period_options(happened) if period else ()),
            *_output_options(formats, watch),
            *(connection_options("_") if connects else ()),
        ]

    def invoke(self, ctx: click.Context) -> None:
        """Run the command, once or with ``--watch`` until Ctrl-C."""
        self._check_no_value_is_empty(ctx)
        added = {name: ctx.params.pop(f"_{name}", None) for name in _ADDED}
        session = ctx.obj = root_session(ctx)
        self._apply_options(session, added)
        ctx.call_on_close(session.close)
        if added["watch"] is None:
            self._run(ctx, session)
        else:
            self._repeat(ctx, session, max(added["watch"], LEAST_INTERVAL_S))
        if session.exit_code:
            ctx.exit(session.exit_code)

    def _check_no_value_is_empty(self, ctx: click.Context) -> None:
        """Refuse an empty value: an unset variable of a shell must not choose more jobs."""
        for option in self.params:
            name = option.name or ""
            is_given = ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
            if is_given and ctx.params.get(name) in ("", ("",)):
                raise click.UsageError(f"{option.opts[-1]} is empty", ctx)

    def _apply_options(self, session: Session, added: Mapping[str, Any]) -> None:
        """Set the output, the period and the connection that the options of the command name.

        An option that was not given leaves what stands before the noun, such as ``ojsctl --url``.
        """
        as_json = added["json"] or session.as_json
        json_format: Format = "jsonl" if self._formats and "json" not in self._formats else "json"
        session.output = Output(added["output"] or (json_format if as_json else "table"))
        session.period = Period(self._period_member, added["since"], added["until"])
        for name in _CONNECTION:
            if added[name] is not None:
                setattr(session, name, added[name])

    def _run(self, ctx: click.Context, session: Session) -> None:
        """Run the command's function; raise what ``ojsctl`` prints for an error of the client."""
        session.exit_code = Exit.OK
        try:
            super().invoke(ctx)
        except OJSError as error:
            raise failure(error, session.connection.url) from error
        except UnicodeError:
            raise click.UsageError("An argument or a file is not valid UTF-8.") from None

    def _repeat(self, ctx: click.Context, session: Session, interval_s: float) -> None:
        """Run the command until Ctrl-C, also while the server restarts or is busy.

        The exit code is that of the last run that has ended. If the first run fails, the command
        ends: the address is probably wrong. Ctrl-C during the first run is as without ``--watch``.
        """
        last_code: Exit | None = None
        try:
            while True:
                is_first = last_code is None
                _separate_runs(session.output, is_first=is_first)
                least_pause_s = self._run_or_show(ctx, session, is_first=is_first)
                last_code = session.exit_code
                sys.stdout.flush()
                time.sleep(max(interval_s, least_pause_s))
        except KeyboardInterrupt:
            if last_code is None:
                raise
            session.exit_code = last_code

    def _run_or_show(self, ctx: click.Context, session: Session, *, is_first: bool) -> float:
        """Run the command, and show a failure after which a later run may succeed.

        Returns:
            The least time in seconds until the next run.
        """
        try:
            self._run(ctx, session)
        except Failed as failed:
            least_pause_s = pause_after(failed.__cause__)
            if is_first or least_pause_s is None:
                raise
            failed.show()
            session.exit_code = failed.code
            return least_pause_s
        return 0.0


def root_session(ctx: click.Context) -> Session:
    """Return the session with the options that stand before the noun."""
    found = ctx.find_root().obj
    return found if isinstance(found, Session) else Session()


def connection_options(prefix: str = "") -> list[click.Parameter]:
    """Return the options that choose the server.

    Args:
        prefix: begins the names of the values.
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
            shell_complete=complete_profiles,
        ),
        click.Option(
            ["--timeout", f"{prefix}timeout_s"],
            type=DURATION,
            help="How long a request may take (30s).",
        ),
    ]


def json_option(name: str) -> click.Option:
    """Return ``--json``, which is ``-o json``."""
    return click.Option(["--json", name], is_flag=True, hidden=True)


def _output_options(formats: Sequence[Format], watch: bool) -> list[click.Parameter]:
    options: list[click.Parameter] = []
    if watch:
        options.append(
            click.Option(
                ["--watch", "_watch"],
                type=DURATION,
                help="Repeat the command after this time, until Ctrl-C.",
            )
        )
    if formats:
        options.append(
            click.Option(
                ["-o", "--output", "_output"],
                type=click.Choice(formats),
                help="Form of the output (table).",
            )
        )
    return [*options, json_option("_json")]


def _period_options(happened: str) -> list[click.Parameter]:
    return [
        click.Option(
            ["--since", "_since"],
            type=MOMENT,
            help=f"Only those that {happened} since a time, or an age such as 1h.",
        ),
        click.Option(
            ["--until", "--older-than", "_until"],
            type=MOMENT,
            help=f"Only those that {happened} before a time, or an age such as 1h.",
        ),
    ]


def _separate_runs(output: Output, *, is_first: bool) -> None:
    """Clear the terminal before a table; elsewhere write an empty line between two tables."""
    if not output.is_table:
        return
    if sys.stdout.isatty():
        click.echo(_CLEAR_SCREEN, nl=False)
    elif not is_first:
        click.echo()
