"""The ``ojs-cluster`` command. Options override environment variables."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from click.exceptions import NoArgsIsHelpError

from ojs_cluster import __version__
from ojs_cluster.core.access.scopes import PRESETS
from ojs_cluster.server.config.load import EXIT_CONFIG, ConfigError, load, report
from ojs_cluster.server.embedded.binaries import CHOICES

EXIT_PIPE = 128 + 13
"""The exit code that shells report for a process that SIGPIPE has ended."""
_NAME = "ojs-cluster"
_PATH = click.Path(path_type=Path)

_Run = Callable[[Mapping[str, str]], int]
"""What a parsed command line does with the environment variables; returns the exit code."""
_Command = TypeVar("_Command", bound=Callable[..., Any])


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Returns:
        0 for success, 1 for a failure, 2 for a wrong command line or configuration, and 141 if the
        reader of the output has closed the pipe.
    """
    try:
        # The command runs after click has returned, because click ends a program whose output
        # pipe is closed with exit code 1, and prints "Aborted!" at Ctrl-C.
        parsed = _cli.main(
            None if argv is None else list(argv), prog_name=_NAME, standalone_mode=False
        )
        code: int = parsed if isinstance(parsed, int) else parsed(os.environ)
        sys.stdout.flush()
    except click.UsageError as error:
        _show_usage_error(error)
        return error.exit_code
    except BrokenPipeError:
        # The reader has closed the pipe, as `| head` does. Python flushes stdout again when it
        # ends; that must not print an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE
    except ConfigError as error:
        for problem in error.problems:
            print(f"{_NAME}: {problem}", file=sys.stderr)
        print(f"{_NAME}: `{_NAME} config` lists every variable", file=sys.stderr)
        return EXIT_CONFIG
    return code


def _show_usage_error(error: click.UsageError) -> None:
    """Print what is wrong with the command line, in one line; without a command, the help."""
    if isinstance(error, NoArgsIsHelpError):
        error.show()
        return
    path = error.ctx.command_path if error.ctx else _NAME
    print(f"{path}: error: {error.format_message()}", file=sys.stderr)
    print(f"{path}: `{path} --help` shows the options", file=sys.stderr)


class _Documented(click.Command):
    """A command whose help ends with the lines of its epilog as they are: its examples."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the epilog without wrapping its lines."""
        formatter.write_paragraph()
        formatter.write(f"{self.epilog}\n")


class _Group(_Documented, click.Group):
    """A command with subcommands of the same form."""

    command_class = _Documented
    group_class = type


def _examples(*lines: str) -> str:
    return "\n".join(["Examples:", *(f"  {line}" for line in lines)])


@click.group(
    cls=_Group,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_examples(
        "ojs-cluster dev",
        "ojs-cluster config",
        "REDIS_URL=redis://redis.example:6379 ojs-cluster serve",
        'eval "$(_OJS_CLUSTER_COMPLETE=bash_source ojs-cluster)"    # or zsh_source',
        "_OJS_CLUSTER_COMPLETE=fish_source ojs-cluster | source",
    ),
)
@click.version_option(__version__, message=f"{_NAME} %(version)s")
def _cli() -> None:
    """An OpenJobSpec job server over Redis or Valkey Cluster.

    Everything is configured by environment variables: see `ojs-cluster config`. The last two
    examples complete commands and options in your shell.
    """


def _listen_options(command: _Command) -> _Command:
    """Add the options that replace ``OJS_HOST``, ``OJS_PORT`` and ``OJS_WORKERS``."""
    for option in (
        click.option("--workers", metavar="N", help="Number of API processes (OJS_WORKERS)."),
        click.option("--port", metavar="PORT", help="Port to listen on (OJS_PORT)."),
        click.option("--host", metavar="HOST", help="Address to listen on (OJS_HOST)."),
    ):
        command = option(command)
    return command


def _with_options(environ: Mapping[str, str], **options: str | None) -> dict[str, str]:
    """Return the environment variables; an option of the command replaces its variable."""
    given = {f"OJS_{name.upper()}": value for name, value in options.items() if value is not None}
    return {**environ, **given}


def _masters(_context: click.Context, _param: click.Parameter, text: str) -> int:
    """Parse the number of masters: 3 to 16, because fewer masters cannot elect a new master."""
    if not text.isdecimal() or not 3 <= int(text) <= 16:
        raise click.BadParameter("a whole number from 3 to 16")
    return int(text)


def _pairs(
    _context: click.Context, _param: click.Parameter, texts: tuple[str, ...]
) -> dict[str, str]:
    """Parse pairs of names."""
    pairs = {}
    for text in texts:
        old, equals, new = text.partition("=")
        if not (old and equals and new):
            raise click.BadParameter("OLD=NEW, for example Mailer=mailer.send")
        pairs[old] = new
    return pairs


# Each command imports only the modules that it needs. So a supervisor does not load the store.


@_cli.command(
    "dev",
    short_help="Run everything on this machine, including an embedded cluster.",
    epilog=_examples(
        "ojs-cluster dev",
        "ojs-cluster dev --demo",
        "ojs-cluster dev --port 9000 --data ~/jobs --masters 5",
        "REDIS_URL=redis://localhost:6379 ojs-cluster dev",
    ),
)
@_listen_options
@click.option(
    "--server",
    default="auto",
    metavar="|".join((*CHOICES, "PATH")),
    help="The embedded server's program (default: auto); not used when REDIS_URL is set.",
)
@click.option(
    "--data",
    type=_PATH,
    metavar="DIR",
    help="Folder that keeps the jobs (default: ./.ojs-data; ./.ojs-demo with --demo).",
)
@click.option(
    "--masters",
    default="3",
    callback=_masters,
    metavar="N",
    help="Number of masters of the embedded cluster (default: 3).",
)
@click.option(
    "--demo", is_flag=True, help="Fill the embedded cluster with a living example of a small shop."
)
def _dev(*, server: str, data: Path | None, masters: int, demo: bool, **listen: str | None) -> _Run:
    """Run everything on this machine, including an embedded cluster.

    Starts a Redis or Valkey Cluster, API processes and a scheduler; Ctrl-C stops them. If REDIS_URL
    is set, the command uses that server or cluster instead.
    """

    def run(environ: Mapping[str, str]) -> int:
        from ojs_cluster.server.commands.dev import DevOptions, run_dev

        folder = data or Path(".ojs-demo" if demo else ".ojs-data")
        options = DevOptions(server=server, data=folder, masters=masters, demo=demo)
        return run_dev(options, _with_options(environ, **listen))

    return run


@_cli.command(
    "serve",
    short_help="Run API processes.",
    epilog=_examples(
        "REDIS_URL=redis://redis.example:6379 OJS_API_KEY=... ojs-cluster serve",
        "ojs-cluster serve --host 0.0.0.0 --port 8080 --workers 4",
    ),
)
@_listen_options
def _serve(**listen: str | None) -> _Run:
    """Run API processes until SIGTERM, which drains them."""

    def run(environ: Mapping[str, str]) -> int:
        from ojs_cluster.server.commands.serve import run_serve

        merged = _with_options(environ, **listen)
        return run_serve(load(merged), merged)

    return run


@_cli.command(
    "scheduler",
    short_help="Run a scheduler.",
    epilog=_examples("REDIS_URL=redis://redis.example:6379 ojs-cluster scheduler"),
)
def _scheduler() -> _Run:
    """Run a scheduler. Several schedulers elect a leader for each shard."""

    def run(environ: Mapping[str, str]) -> int:
        from ojs_cluster.server.processes.scheduler_process import run_scheduler_command

        return run_scheduler_command(load(environ))

    return run


@_cli.command(
    "export",
    short_help="Write all stored data to a file, as JSON lines.",
    epilog=_examples(
        "ojs-cluster export --output backup.jsonl", "ojs-cluster export | gzip > backup.jsonl.gz"
    ),
)
@click.option("--output", type=_PATH, metavar="FILE", help="A file (default: standard output).")
def _export(*, output: Path | None) -> _Run:
    """Write jobs in every state, queues, cron jobs and workflows, as JSON lines."""

    def run(environ: Mapping[str, str]) -> int:
        from ojs_cluster.server.commands.archive import run_export

        return run_export(load(environ), output)

    return run


@_cli.command(
    "import",
    short_help="Store the data of an export, or the jobs of another job system.",
    epilog=_examples(
        "ojs-cluster import backup.jsonl",
        "gunzip < backup.jsonl.gz | ojs-cluster import",
        "ojs-cluster import --from celery --dry-run redis://old.example:6379/0",
        "ojs-cluster import --from sidekiq --rename-type HardJob=hard.work redis://old.example:6379",
    ),
)
@click.argument("source", metavar="[FILE|REDIS_URL]", required=False)
@click.option(
    "--from",
    "system",
    type=click.Choice(["bullmq", "celery", "ojs-redis", "sidekiq"]),
    help="Import waiting, delayed and failed jobs of this system from REDIS_URL.",
)
@click.option("--dry-run", is_flag=True, help="With --from: report what would be imported.")
@click.option(
    "--prefix",
    default="",
    metavar="TEXT",
    help="With --from: prefix of the other system's keys (default: its usual one).",
)
@click.option(
    "--rename-type",
    multiple=True,
    metavar="OLD=NEW",
    callback=_pairs,
    help="With --from: the job type here of a type there; may be repeated.",
)
@click.option(
    "--rename-queue",
    multiple=True,
    metavar="OLD=NEW",
    callback=_pairs,
    help="With --from: the queue here of a queue there; may be repeated.",
)
def _import(
    *,
    source: str | None,
    system: str | None,
    dry_run: bool,
    prefix: str,
    rename_type: dict[str, str],
    rename_queue: dict[str, str],
) -> _Run:
    """Store the data of an export, from FILE or from standard input.

    With --from, import the jobs of another job system from its Redis, which is only read. Existing
    data is not changed, so you can run the command again.
    """
    if system is None and (dry_run or prefix or rename_type or rename_queue):
        raise click.UsageError("--dry-run, --prefix and --rename-* need --from")
    if prefix and system not in ("bullmq", "celery"):
        raise click.UsageError("--prefix needs --from bullmq or --from celery")
    if system is not None and source is None:
        raise click.UsageError("--from needs the URL of the Redis of the other system")

    def run(environ: Mapping[str, str]) -> int:
        if system is None or source is None:
            from ojs_cluster.server.commands.archive import run_import

            return run_import(load(environ), None if source is None else Path(source))
        from ojs_cluster.server.commands.import_from import ImportOptions, run_import_from

        options = ImportOptions(system, source, prefix, dry_run, rename_type, rename_queue)
        return run_import_from(load(environ), options)

    return run


@_cli.group(
    "key",
    no_args_is_help=True,
    short_help="Make API keys for the file of OJS_API_KEYS_FILE.",
    epilog=_examples("ojs-cluster key new --help"),
)
def _key() -> None:
    """Make API keys for the file of OJS_API_KEYS_FILE."""


@_key.command(
    "new",
    short_help="Print a new API key and its entry for the file.",
    epilog=_examples(
        "ojs-cluster key new --name mailer --preset producer --queue 'mail-*'",
        "ojs-cluster key new --name ci --preset admin --expires-at 2027-01-31T00:00:00Z",
    ),
)
@click.option(
    "--name", required=True, metavar="NAME", help="The name of the API key in logs and errors."
)
@click.option(
    "--preset", required=True, type=click.Choice(list(PRESETS)), help="The scopes of the API key."
)
@click.option(
    "--queue",
    multiple=True,
    metavar="PATTERN",
    help="A queue that the API key may access; * matches any text; may be repeated (default: "
    "every queue).",
)
@click.option(
    "--tenant",
    default="",
    metavar="TENANT",
    help="The tenant that the API key is bound to (default: no tenant, for all jobs).",
)
@click.option(
    "--expires-at",
    default="",
    metavar="TIME",
    help="When the API key expires, such as 2027-01-31T00:00:00Z (default: never).",
)
def _key_new(
    *, name: str, preset: str, queue: tuple[str, ...], tenant: str, expires_at: str
) -> _Run:
    """Print a new API key and its entry for the file.

    The entry contains only the SHA-256 hash of the API key.
    """

    def run(_environ: Mapping[str, str]) -> int:
        from ojs_cluster.server.commands.key import NewKey, run_key_new

        return run_key_new(NewKey(name, preset, queue, expires_at, tenant))

    return run


@_cli.command(
    "config",
    short_help="List the variables and check their values.",
    epilog=_examples("ojs-cluster config", "ojs-cluster config | grep RETENTION"),
)
def _config() -> _Run:
    """List the variables and check their values."""
    return _run_config


def _run_config(environ: Mapping[str, str]) -> int:
    from ojs_cluster.server.read_api_keys import key_file_problems

    print(report(environ))
    settings = load(environ)
    for warning in settings.warnings:
        print(f"warning: {warning}")
    if settings.access.problem is not None:
        print(f"note: `serve` will refuse to start: {settings.access.problem}")
    for problem in key_file_problems(settings.access, environ):
        print(f"note: `serve` will refuse to start: {problem}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
