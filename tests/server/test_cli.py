"""The command line of `ojs-cluster`: help, errors, completion."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from itertools import dropwhile

import click
import pytest

from ojs_cluster import __version__, cli
from tests.server.programs import clean_environment


def commands(
    command: click.Command = cli._cli, name: str = "ojs-cluster"
) -> Iterator[tuple[str, click.Command]]:
    """Give every command with its name, groups included."""
    yield name, command
    for inner, subcommand in getattr(command, "commands", {}).items():
        yield from commands(subcommand, f"{name} {inner}")


ALL = dict(commands())


def help_of(name: str, capsys: pytest.CaptureFixture[str], option: str = "--help") -> str:
    assert cli.main([*name.split()[1:], option]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def test_no_command_is_missing() -> None:
    names = {name.removeprefix("ojs-cluster").strip() for name in ALL}
    expected = {"", "dev", "serve", "scheduler", "export", "import", "key", "key new", "config"}
    assert names == expected


@pytest.mark.parametrize("name", ALL)
def test_help_ends_with_examples_that_the_command_understands(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = help_of(name, capsys)
    assert shown == help_of(name, capsys, "-h")
    examples = shown.partition("\nExamples:\n")[2].splitlines()
    assert examples
    for example in examples:
        assert example.startswith("  ")
        for part in example.split("|"):
            # Variables come before the command.
            words = list(dropwhile(lambda word: "=" in word, shlex.split(part, comments=True)))
            if words[0] != "ojs-cluster":
                continue
            parsed = cli._cli.main(
                words[1:] or ["--help"], prog_name=words[0], standalone_mode=False
            )
            assert callable(parsed) or parsed == 0


@pytest.mark.parametrize(
    ("command_line", "problem"),
    [
        ("bogus", "ojs-cluster: error: No such command 'bogus'."),
        ("serve --bogus", "ojs-cluster serve: error: No such option"),
        ("serve more", "ojs-cluster serve: error: Got unexpected extra argument (more)"),
        ("import a b", "ojs-cluster import: error: Got unexpected extra argument (b)"),
        ("export --output", "error: Option '--output' requires an argument."),
        ("key new --preset admin", "ojs-cluster key new: error: Missing option '--name'."),
        ("key new --name a --preset x", "error: Invalid value for '--preset': 'x' is not one of"),
        *(
            (f"dev --masters {value}", "Invalid value for '--masters': a whole number from 3 to 16")
            for value in ("2", "17", "three", "-4", "''")
        ),
    ],
)
def test_a_wrong_command_line_gives_one_line_and_exit_code_2(
    command_line: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(shlex.split(command_line)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    told, where = captured.err.splitlines()
    assert problem in told
    assert re.fullmatch(r"ojs-cluster.*: `ojs-cluster.* --help` shows the options", where)


@pytest.mark.parametrize("name", ["ojs-cluster", "ojs-cluster key"])
def test_without_a_command_the_commands_are_listed(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(name.split()[1:]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == help_of(name, capsys)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"ojs-cluster {__version__}\n"


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("ojs-cluster sc", {"scheduler"}),
        ("ojs-cluster key new --preset o", {"operator"}),
        ("ojs-cluster serve --", {"--host", "--port", "--workers", "--help"}),
    ],
)
def test_a_shell_completes_commands_options_and_values(words: str, completed: set[str]) -> None:
    asked = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    done = subprocess.run(
        [sys.executable, "-m", "ojs_cluster.cli"],
        env=clean_environment({"_OJS_CLUSTER_COMPLETE": "bash_complete", **asked}),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert {line.partition(",")[2] for line in done.stdout.splitlines()} == completed
