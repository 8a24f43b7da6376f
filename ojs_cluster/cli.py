"""The ``ojs-cluster`` command. Options override environment variables."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ojs_cluster import __version__
from ojs_cluster.core.access.scopes import PRESETS
from ojs_cluster.server.config.load import EXIT_CONFIG, ConfigError, load, report
from ojs_cluster.server.embedded.binaries import CHOICES

EXIT_PIPE = 128 + 13
"""The exit code that shells report for a process that SIGPIPE has ended."""
_OPTIONS = {"host": "OJS_HOST", "port": "OJS_PORT", "workers": "OJS_WORKERS"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Returns:
        0 for success, 1 for a failure, 2 for a wrong configuration, and 141 if the reader of the
        output has closed the pipe.
    """
    args = _parser().parse_args(argv)
    environ = _environment(os.environ, args)
    try:
        code: int = args.run(args, environ)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has closed the pipe, as `| head` does. Python flushes stdout again when it
        # ends; that must not print an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE
    except ConfigError as error:
        for problem in error.problems:
            print(f"ojs-cluster: {problem}", file=sys.stderr)
        print("ojs-cluster: `ojs-cluster config` lists every variable", file=sys.stderr)
        return EXIT_CONFIG
    return code


def _environment(environ: Mapping[str, str], args: argparse.Namespace) -> dict[str, str]:
    """Return the environment variables; an option of the command replaces its variable."""
    merged = dict(environ)
    for option, variable in _OPTIONS.items():
        value = getattr(args, option, None)
        if value is not None:
            merged[variable] = value
    return merged


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ojs-cluster",
        description="An OpenJobSpec job server over Redis or Valkey Cluster.",
        epilog="Everything is configured by environment variables: see `ojs-cluster config`.",
    )
    parser.add_argument("--version", action="version", version=f"ojs-cluster {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    dev = commands.add_parser(
        "dev", help="run everything on this machine, including an embedded cluster"
    )
    _add_listen_options(dev)
    dev.add_argument(
        "--server",
        default="auto",
        metavar="|".join((*CHOICES, "PATH")),
        help="the embedded server's program (default: auto); not used when REDIS_URL is set",
    )
    dev.add_argument(
        "--data",
        type=Path,
        default=Path(".ojs-data"),
        metavar="DIR",
        help="folder that keeps the jobs (default: ./.ojs-data)",
    )
    dev.add_argument(
        "--masters",
        type=_masters,
        default=3,
        help="number of masters of the embedded cluster (default: 3)",
    )
    dev.set_defaults(run=_dev)

    serve = commands.add_parser("serve", help="run API processes")
    _add_listen_options(serve)
    serve.set_defaults(run=_serve)

    scheduler = commands.add_parser(
        "scheduler", help="run a scheduler; several schedulers elect a leader for each shard"
    )
    scheduler.set_defaults(run=_scheduler)

    export = commands.add_parser(
        "export",
        help="write all stored data to a file, as JSON lines",
        description="Writes jobs in every state, queues, cron jobs and workflows, as JSON lines.",
    )
    export.add_argument(
        "--output", type=Path, metavar="FILE", help="a file (default: standard output)"
    )
    export.set_defaults(run=_export)

    import_ = commands.add_parser(
        "import",
        help="store the data of an export",
        description="Stores the data of an export. Existing data is not changed, so you can run "
        "the command again.",
    )
    import_.add_argument(
        "file", type=Path, nargs="?", metavar="FILE", help="a file (default: standard input)"
    )
    import_.set_defaults(run=_import)

    _add_key_command(commands)

    config = commands.add_parser("config", help="list the variables and check their values")
    config.set_defaults(run=_config)
    return parser


def _add_listen_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", help="address to listen on (OJS_HOST)")
    parser.add_argument("--port", help="port to listen on (OJS_PORT)")
    parser.add_argument("--workers", metavar="N", help="number of API processes (OJS_WORKERS)")


def _add_key_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    key = commands.add_parser("key", help="make API keys for the file of OJS_API_KEYS_FILE")
    actions = key.add_subparsers(required=True, metavar="ACTION")
    new = actions.add_parser(
        "new",
        help="print a new API key and its entry for the file",
        description="Prints a new API key and its entry for the file. The entry contains only the "
        "SHA-256 hash of the API key.",
    )
    new.add_argument("--name", required=True, help="the name of the API key in logs and errors")
    new.add_argument(
        "--preset", required=True, choices=list(PRESETS), help="the scopes of the API key"
    )
    new.add_argument(
        "--queue",
        action="append",
        default=[],
        metavar="PATTERN",
        help="a queue that the API key may access; * matches any text; may be repeated (default: "
        "every queue)",
    )
    new.add_argument(
        "--expires-at",
        default="",
        metavar="TIME",
        help="when the API key expires, such as 2027-01-31T00:00:00Z (default: never)",
    )
    new.set_defaults(run=_key_new)


def _masters(text: str) -> int:
    """Parse the number of masters: 3 to 16, because fewer masters cannot elect a new master."""
    if not text.isdecimal() or not 3 <= int(text) <= 16:
        raise argparse.ArgumentTypeError("a whole number from 3 to 16")
    return int(text)


# Each command imports only the modules that it needs. So a supervisor does not load the store.


def _serve(_args: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from ojs_cluster.server.commands.serve import run_serve

    return run_serve(load(environ), environ)


def _scheduler(_args: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from ojs_cluster.server.processes.scheduler_process import run_scheduler_command

    return run_scheduler_command(load(environ))


def _dev(args: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from ojs_cluster.server.commands.dev import DevOptions, run_dev

    return run_dev(DevOptions(server=args.server, data=args.data, masters=args.masters), environ)


def _export(args: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from ojs_cluster.server.commands.archive import run_export

    return run_export(load(environ), args.output)


def _import(args: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from ojs_cluster.server.commands.archive import run_import

    return run_import(load(environ), args.file)


def _key_new(args: argparse.Namespace, _environ: Mapping[str, str]) -> int:
    from ojs_cluster.server.commands.key import NewKey, run_key_new

    return run_key_new(NewKey(args.name, args.preset, tuple(args.queue), args.expires_at))


def _config(_args: argparse.Namespace, environ: Mapping[str, str]) -> int:
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
