"""Other words for the commands, which people know from other tools.

The help shows each command once. Any other word below finds it too: ``jobs list``, ``get job ID``,
``dlq show ID``, ``queue delete NAME``, ``help job``. A noun in the plural alone lists: ``jobs``. No
command needs to know its other names.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import click

from ojs_client.ctl.command import Examples

_READ: Final = ("get", "ls")
_VERBS: Final = {
    **dict.fromkeys(("list",), ("ls",)),
    **dict.fromkeys(("get", "show", "describe", "inspect", "info", "status", "stats"), _READ),
    **dict.fromkeys(("delete", "remove", "purge", "drop"), ("rm",)),
    # To clear a queue does not delete it.
    **dict.fromkeys(("clear", "empty"), ("purge", "rm")),
    **dict.fromkeys(("create", "add", "new"), ("create", "add", "put", "set", "enqueue")),
    **dict.fromkeys(("update", "patch"), ("edit", "set", "config")),
    **dict.fromkeys(("push", "submit"), ("enqueue",)),
    **dict.fromkeys(("rerun", "requeue", "replay"), ("retry",)),
    **dict.fromkeys(("unpause", "enable", "start"), ("resume",)),
    **dict.fromkeys(("disable",), ("pause",)),
    **dict.fromkeys(("stop", "kill", "abort"), ("terminate", "cancel", "pause")),
    **dict.fromkeys(("stop-run", "kill-run", "abort-run"), ("cancel-run",)),
    **dict.fromkeys(("logs", "events", "follow"), ("watch",)),
    **dict.fromkeys(("run", "fire"), ("trigger",)),
    **dict.fromkeys(("acknowledge",), ("ack",)),
    **dict.fromkeys(("silence",), ("mute",)),
}
"""Verbs, and what they stand for: the first one that the noun has."""
_NOUNS: Final = {
    **dict.fromkeys(("dlq", "dead-letter", "deadletter", "dl"), "dead"),
    **dict.fromkeys(("operation", "bulk-operation"), "bulk"),
    **dict.fromkeys(("rate-limit", "ratelimit"), "limit"),
    **dict.fromkeys(("cronjob", "schedule"), "cron"),
    **dict.fromkeys(("failure",), "error"),
    **dict.fromkeys(("deployment", "deploy"), "mark"),
    **dict.fromkeys(("context",), "profile"),
    **dict.fromkeys(("check", "health", "status"), "doctor"),
    **dict.fromkeys(("alert",), "problem"),
    **dict.fromkeys(("log",), "events"),
}
"""Nouns in the singular, and the names of their commands."""


class Verbs(click.Group):
    """What can be done with a noun. Without a name, ``get`` lists."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of a word."""
        names = (cmd_name, *_VERBS.get(cmd_name, ()))
        return next((self.commands[name] for name in names if name in self.commands), None)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command of a command line."""
        if args[0] == "help":
            args = _help_of(self, ctx, args[1:])
        command = self.get_command(ctx, args[0])
        if command is not None and command.name == "get" and _names_nothing(command, ctx, args[1:]):
            command = self.commands.get("ls", command)
        if command is not None:
            return command.name, command, args[1:]
        return super().resolve_command(ctx, args)


class Nouns(Examples, click.Group):
    """The group of all commands, whose help ends with the exit codes and with examples."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of a noun."""
        for name in (cmd_name, cmd_name.removesuffix("s"), f"{cmd_name}s"):
            found = self.commands.get(_NOUNS.get(name, name))
            if found is not None:
                return found
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command of a command line. The verb may stand before its noun."""
        if args[0] == "help":
            args = _help_of(self, ctx, args[1:])
        if self.get_command(ctx, args[0]) is None:
            noun = self.get_command(ctx, args[1]) if len(args) > 1 else None
            if isinstance(noun, Verbs) and noun.get_command(ctx, args[0]) is not None:
                args = [args[1], args[0], *args[2:]]
            elif noun is not None and _VERBS.get(args[0], (args[0],))[-1] in _READ:
                args = args[1:]
            elif known := ", ".join(self._with_verb(ctx, args[0])):
                ctx.fail(f"No such command {args[0]!r}. Did you mean one of: {known}?")
        command = self.get_command(ctx, args[0])
        if command is not None:
            return command.name, command, _listing(command, ctx, args)
        return super().resolve_command(ctx, args)

    def _with_verb(self, ctx: click.Context, word: str) -> Iterator[str]:
        """Yield the commands that a verb without a noun may mean."""
        for name, noun in self.commands.items():
            verb = noun.get_command(ctx, word) if isinstance(noun, Verbs) else None
            if verb is not None and not verb.hidden:
                yield f"{name} {verb.name}"


def _help_of(group: click.Group, ctx: click.Context, words: list[str]) -> list[str]:
    """Return the command line that asks for the help of a command; print that of the group."""
    if not words and not ctx.resilient_parsing:
        click.echo(group.get_help(ctx))
        ctx.exit()
    return [*words, "--help"]


def _listing(command: click.Command, ctx: click.Context, args: list[str]) -> list[str]:
    """Return what follows a noun. A noun in the plural without a verb lists."""
    rest = args[1:]
    lists = isinstance(command, Verbs) and "ls" in command.commands
    if not lists or args[0] != f"{args[0].removesuffix('s')}s" or command.name == args[0]:
        return rest
    if ctx.resilient_parsing or (rest and not rest[0].startswith("-")):
        return rest
    return rest if set(rest) & {*ctx.help_option_names} else ["ls", *rest]


def _names_nothing(command: click.Command, ctx: click.Context, args: list[str]) -> bool:
    """Return whether the arguments of ``get`` have options only, as those of a list."""
    if ctx.resilient_parsing or (args and not args[0].startswith("-")):  # completes a name
        return False
    if set(args) & {*ctx.help_option_names}:
        return False
    try:
        inner = click.Context(command, parent=ctx, resilient_parsing=True)
        values, rest, _order = command.make_parser(inner).parse_args(list(args))
    except click.UsageError:
        return True
    arguments = [each.name for each in command.params if isinstance(each, click.Argument)]
    return not rest and not any(_is_given(values.get(str(name))) for name in arguments)


def _is_given(value: Any) -> bool:
    return isinstance(value, str | tuple | list) and bool(value)
