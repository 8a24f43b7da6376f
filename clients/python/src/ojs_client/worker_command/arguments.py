"""The command line of ``ojs-worker``."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from ojs_client._version import __version__
from ojs_client.options import milliseconds
from ojs_client.worker.memory import resident_bytes

_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)([KMG]?)(?:i?B)?", re.IGNORECASE)
_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says.

    Attributes:
        target: the application, as ``module:name``.
        processes: number of processes.
        worker: arguments of ``Worker`` that replace those of the application.
        backend: the library of the event loop.
        max_jobs: number of jobs after which a process is replaced; None for no limit.
        max_memory: resident memory in bytes after which it is replaced; None for no limit.
        reload: whether changed source files restart the processes.
        health: host and port of the health endpoint; None for none.
        log_format: the format of log lines.
        log_level: the minimum level of log lines.
    """

    target: str
    processes: int
    worker: dict[str, Any]
    backend: Literal["asyncio", "trio"]
    max_jobs: int | None
    max_memory: int | None
    reload: bool
    health: tuple[str, int] | None
    log_format: Literal["text", "json"]
    log_level: str


def size(text: str) -> int:
    """Return a size such as ``500M`` in bytes; units are powers of 1024.

    Raises:
        ValueError: the text is no size.
    """
    if (found := _SIZE.fullmatch(text)) is None:
        raise ValueError(f"'{text}' is no size such as 500M or 2G")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def parse(arguments: Sequence[str] | None) -> Options:
    """Return the options; with a mistake, print it and exit with code 2.

    Args:
        arguments: the arguments; None for those of the process.
    """
    parser = argparse.ArgumentParser(
        prog="ojs-worker",
        description="Run the workers of an application in several processes.",
        epilog="OJS_URL and OJS_API_KEY name the server and the API key.",
    )
    parser.add_argument(
        "target",
        type=_target,
        metavar="MODULE:NAME",
        help="an App, a Worker or a function that returns one",
    )
    add_options(parser)
    version = f"ojs-worker {__version__}"
    parser.add_argument("--version", action="version", version=version)
    given = parser.parse_args(arguments)
    return options_of(given.target, given)


def options_of(target: str, given: argparse.Namespace, **worker: Any) -> Options:
    """Return the options of a parser with ``add_options``.

    Args:
        target: the application, as ``module:name``.
        given: what the parser has returned.
        **worker: further arguments of the target.
    """
    names = ("queues", "pool", "concurrency", "prefetch", "grace")
    return Options(
        target=target,
        processes=given.processes,
        worker={
            **{n: value for n in names if (value := getattr(given, n)) is not None},
            **worker,
        },
        backend=given.backend,
        max_jobs=given.max_jobs,
        max_memory=given.max_memory,
        reload=given.reload,
        health=None if given.health_port is None else (given.health_host, given.health_port),
        log_format=given.log_format,
        log_level=given.log_level,
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every command for workers has."""
    add = parser.add_argument
    add("--processes", type=_number, default=1, metavar="N", help="number of processes (1)")
    add("--queues", type=_names, metavar="A,B", help="queues in place of those of the application")
    add("--pool", help="worker pool in place of that of the application")
    add("--concurrency", type=_number, metavar="N", help="jobs at the same time, in each process")
    add("--prefetch", type=int, metavar="N", help="jobs that each process fetches ahead")
    add("--grace", type=_duration, metavar="TIME", help="how long jobs may go on after SIGTERM")
    add("--max-jobs", type=_number, metavar="N", help="replace a process after this many jobs")
    add("--max-memory", type=_size, metavar="SIZE", help="replace a process above this memory")
    add("--reload", action="store_true", help="restart when source files change; for development")
    add("--health-port", type=_port, metavar="PORT", help="serve /health and /metrics on this port")
    add("--health-host", default="", metavar="HOST", help="address of that port (all addresses)")
    add("--backend", choices=("asyncio", "trio"), default="asyncio", help="event loop (asyncio)")
    add("--log-format", choices=("text", "json"), default="text", help="format of log lines (text)")
    levels = ("DEBUG", "INFO", "WARNING", "ERROR")
    add("--log-level", choices=levels, default="INFO", type=str.upper, help="minimum level (INFO)")


def _target(text: str) -> str:
    module, colon, name = text.partition(":")
    if not (module and colon and name):
        raise argparse.ArgumentTypeError(f"'{text}' is not module:name, such as shop.tasks:app")
    return text


def _number(text: str) -> int:
    if not text.isdecimal() or (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no number above 0")
    return value


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"'{text}' is no port")
    return int(text)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError(f"'{text}' has an empty name")
    return names


def _size(text: str) -> int:
    if resident_bytes() is None:
        raise argparse.ArgumentTypeError("it needs Linux, which tells how much memory is used")
    try:
        return size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _duration(text: str) -> float:
    try:
        return milliseconds(float(text) if text.isdecimal() else text) / 1000
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
