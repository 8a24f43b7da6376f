"""The commands ``export`` and ``import``, which write all data to a file and store it again."""

from __future__ import annotations

import contextlib
import os
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import BinaryIO, Final

import trio

from ojs_cluster import __version__
from ojs_cluster.core.errors import BackendUnavailable, OJSError
from ojs_cluster.core.timestamps import format_ms
from ojs_cluster.redis.errors import AuthenticationFailed, NoSuchDatabase, RedisReplyError
from ojs_cluster.server.commands.progress import Progress
from ojs_cluster.server.config.load import EXIT_CONFIG, Settings
from ojs_cluster.server.supervision.child_process import leaf_exceptions
from ojs_cluster.store.context import Store
from ojs_cluster.store.features.tenants.weights import mirror_weights
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.open import open_store
from ojs_cluster.store.operators.archive import import_archive, import_workflows
from ojs_cluster.store.operators.archive.archive import VERSION, parse
from ojs_cluster.store.operators.archive.archive_results import restore_results
from ojs_cluster.store.operators.archive.dashboard_lines import restore_mark
from ojs_cluster.store.operators.archive.export_archive import ClusterChanged, export
from ojs_cluster.store.operators.archive.line_values import (
    ArchiveFooter,
    ArchiveHeader,
    ArchiveLine,
    CronLine,
    InvalidLine,
    JobLine,
    MarkLine,
    PoolLine,
    QueueLine,
    RemovedLine,
    ResultsLine,
    SchemaLine,
    TenantLine,
    WorkflowLine,
)
from ojs_cluster.store.operators.archive.schema_lines import restore_schema
from ojs_cluster.store.operators.archive.settings_lines import restore_pool, restore_tenant
from ojs_cluster.store.operators.migrations.layout import UnusableBackend
from ojs_cluster.store.operators.operations.overview import overview
from ojs_cluster.store.operators.operations.rights import MissingRights

MAX_LINE_BYTES = 64 * 1024 * 1024
_KINDS: Final = {
    "crons": "cron jobs",
    "results": "parts of results",
}
"""The kinds of lines whose name in the archive is not the one for people."""
_SINGULAR: Final = {"parts of results": "part of results", "saved searches": "saved search"}
_WINDOW_LINES, _WINDOW_BYTES = 256, 8 * 1024 * 1024
"""Size of a window: the lines that are read together and then stored concurrently. A window ends
after the line with which it reaches one of these sizes."""

_JOB_LINE = b'{"job":'
"""Beginning of a line of an archive that has a job."""
_Line = ArchiveLine | RemovedLine | InvalidLine
"""What a line of the file has been parsed to."""


class NotAnArchive(Exception):
    """The file is not an archive that this program can read; nothing was stored."""


_EXPECTED_ERRORS = (
    UnusableBackend,
    BackendUnavailable,
    RedisReplyError,
    AuthenticationFailed,
    NoSuchDatabase,
    MissingRights,
    ClusterChanged,
    NotAnArchive,
    OSError,
)
"""Errors that are reported in one line, without a traceback."""


@dataclass(slots=True)
class ImportCounts:
    """The outcome of an import.

    Attributes:
        created: number of objects that were created, by their kind, such as ``jobs``.
        existing: number of objects that existed before, by their kind.
        ignored: number of lines of kinds that this version no longer has, by their kind.
        refused: number of lines that could not be used.
        complete: whether the last line of the archive was read.
    """

    created: Counter[str] = field(default_factory=Counter)
    existing: Counter[str] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    complete: bool = False

    @property
    def total(self) -> int:
        """Number of lines of objects so far, those that could not be used included."""
        stored = self.created.total() + self.existing.total()
        return stored + self.ignored.total() + self.refused

    def text(self) -> str:
        """Return one line with the number of created, existing and ignored objects."""
        kinds = sorted(self.created.keys() | self.existing.keys())
        counts = [
            f"{_counted(self.created[kind], kind)} created, {self.existing[kind]} existed already"
            for kind in kinds
        ]
        counts += [f"{_counted(self.ignored[kind], kind)} ignored" for kind in self.ignored]
        return "; ".join(counts or ["the archive is empty"])


def _counted(number: int, kind: str) -> str:
    return f"{number} {_SINGULAR.get(kind, kind.removesuffix('s')) if number == 1 else kind}"


def run_export(settings: Settings, output: Path | None) -> int:
    """Write all data to a file, or to standard output; return the exit code."""
    return run_with_store(settings, lambda store: _export(store, output))


def run_import(settings: Settings, source: Path | None) -> int:
    """Store the data of a file, or of standard input; return the exit code."""
    return run_with_store(settings, lambda store: _import(store, source))


def run_with_store(settings: Settings, command: Callable[[Store], Awaitable[int]]) -> int:
    """Run a command that needs the store; return its exit code.

    Errors that an operator can mend are reported in one line.
    """

    async def run() -> int:
        redis = settings.redis.client()
        async with open_store(redis, settings.store, shards=settings.shards) as store:
            return await command(store)

    try:
        return trio.run(run)
    except (Exception, BaseExceptionGroup) as error:
        causes = list(leaf_exceptions(error))
        if isinstance(causes[0], BrokenPipeError):
            raise causes[0] from None
        if not all(isinstance(cause, _EXPECTED_ERRORS) for cause in causes):
            raise
        _print_status(str(causes[0]))
        return EXIT_CONFIG if isinstance(causes[0], UnusableBackend | NoSuchDatabase) else 1


async def _export(store: Store, output: Path | None) -> int:
    with _opened(output) as file, Progress("exporting", "jobs", sys.stderr) as progress:
        # Lines of the archive on the same terminal would mix with the progress.
        progress.shown = progress.shown and not file.isatty()
        exported = await export(
            store,
            await _write_with_progress(store, file, progress),
            exported_at=format_ms(store.clock.now_ms()).decode(),
            server=f"ojs-cluster {__version__}",
            shards=len(store.keys),
        )
        file.flush()
    _print_status(
        "exported "
        + ", ".join(
            _counted(number, _KINDS.get(kind, kind)) for kind, number in sorted(exported.items())
        )
    )
    return 0


async def _write_with_progress(
    store: Store, file: BinaryIO, progress: Progress
) -> Callable[[bytes], object]:
    """Return a function that writes a line and shows how many jobs were written.

    The number of all jobs is that of the statistics before the export. It costs a read of each
    queue, so it is read only for a terminal.
    """
    if not progress.shown:
        return file.write
    jobs = 0
    stats = (await overview(store)).stats
    expected = sum(stats.counts.values())

    def write(line: bytes) -> None:
        nonlocal jobs
        file.write(line)
        jobs += line.startswith(_JOB_LINE)
        progress.update(jobs, jobs / expected if expected else None)

    return write


@contextlib.contextmanager
def _opened(output: Path | None) -> Iterator[BinaryIO]:
    """Yield the file to write to. Only its owner may read the file.

    The file has the name ``output`` only after it is complete; before, its name ends with
    ``.part``.
    """
    if output is None:
        yield sys.stdout.buffer
        return
    unfinished = output.with_name(f"{output.name}.part")
    unfinished.unlink(missing_ok=True)
    fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(fd, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(output)


async def _import(store: Store, source: Path | None) -> int:
    counts = ImportCounts()
    with contextlib.ExitStack() as stack:
        file = sys.stdin.buffer if source is None else stack.enter_context(source.open("rb"))
        progress = stack.enter_context(Progress("importing", "lines", sys.stderr))
        # A pipe has no size and no position.
        size = os.fstat(file.fileno()).st_size if progress.shown and file.seekable() else 0

        def report(text: str) -> None:
            progress.clear()
            _print_status(text)

        def show() -> None:
            progress.update(counts.total, file.tell() / size if size else None)

        try:
            await import_lines(store, file, counts, report, show if progress.shown else None)
        except BackendUnavailable:
            report(f"interrupted: {counts.text()}; run the import again, it skips existing data")
            raise
    _print_status(counts.text())
    if counts.refused:
        _print_status(f"{counts.refused} lines could not be used")
    if not counts.complete:
        _print_status("the file ends early: it was cut off, or its export failed")
    return 0 if counts.complete and not counts.refused else 1


async def import_lines(
    store: Store,
    file: BinaryIO,
    counts: ImportCounts,
    report: Callable[[str], None],
    show_progress: Callable[[], None] | None = None,
) -> None:
    """Store every line of ``file``; report each line that cannot be used.

    Args:
        store: the store.
        file: the archive.
        counts: the outcome so far, which this function updates.
        report: called with a text for each line that cannot be used.
        show_progress: called after each group of lines, while nothing reads from ``file``.

    Raises:
        NotAnArchive: the first line is not the header of an archive that this program can read.
        BackendUnavailable: Redis did not answer in time; ``counts`` has the counts so far.
    """
    lines = _numbered(file)
    await _check_header(lines)
    refused_queues: set[str] = set()

    def refuse(number: int, error: Exception) -> None:
        counts.refused += 1
        report(f"line {number}: {error}")

    async def store_line(numbered: tuple[int, _Line]) -> None:
        number, line = numbered
        if isinstance(line, InvalidLine):
            refuse(number, line)
            return
        if isinstance(line, RemovedLine):
            counts.ignored[line.kind] += 1
            return
        if isinstance(line, JobLine) and line.queue in refused_queues:
            # It could run although its queue was paused, or without the limits of the queue.
            refuse(number, InvalidLine(f"the settings of queue '{line.queue}' were not restored"))
            return
        try:
            kind, outcome = await _store(store, line)
        except BackendUnavailable:
            raise
        except (InvalidLine, OJSError) as error:
            refuse(number, error)
            if isinstance(line, QueueLine):
                refused_queues.add(line.name)
            return
        (counts.created if outcome == "created" else counts.existing)[kind] += 1

    while window := await trio.to_thread.run_sync(_read_window, lines):
        # Lines of one kind are stored concurrently, but kinds one after the other: workflows and
        # cron jobs need jobs that earlier lines contain.
        for kind, group in groupby(window, key=lambda item: type(item[1])):
            if kind is ArchiveFooter:
                counts.complete = True
            else:
                await run_concurrently(group, store_line)
            if kind is TenantLine:
                # Also after an import that died between the two, and left settings without copies.
                await mirror_weights(store)
        if show_progress is not None:
            show_progress()


async def _check_header(lines: Iterator[tuple[int, bytes]]) -> None:
    _, raw = await trio.to_thread.run_sync(lambda: next(lines, (0, b"")))
    try:
        header = parse(raw)
    except InvalidLine as error:
        raise NotAnArchive(f"this is not the file of an export: line 1: {error}") from None
    if not isinstance(header, ArchiveHeader):
        raise NotAnArchive("this is not the file of an export: its first line is not a header")
    if header.version != VERSION:
        raise NotAnArchive(f"the file has version {header.version}, this program reads {VERSION}")


def _numbered(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield the lines with their numbers, from 1.

    Of a line with more than ``MAX_LINE_BYTES``, only the beginning is yielded. It cannot be parsed,
    so the import refuses the line.
    """
    number = 0
    while raw := file.readline(MAX_LINE_BYTES):
        number += 1
        yield number, raw
        while len(raw) == MAX_LINE_BYTES and not raw.endswith(b"\n"):
            raw = file.readline(MAX_LINE_BYTES)


def _read_window(
    lines: Iterator[tuple[int, bytes]],
) -> list[tuple[int, _Line]]:
    window: list[tuple[int, _Line]] = []
    size = 0
    for number, raw in lines:
        if raw.strip():
            window.append((number, _parsed(raw)))
            size += len(raw)
        if len(window) >= _WINDOW_LINES or size >= _WINDOW_BYTES:
            break
    return window


def _parsed(raw: bytes) -> _Line:
    try:
        return parse(raw)
    except InvalidLine as error:
        return error


async def _store(store: Store, line: ArchiveLine) -> tuple[str, import_archive.RestoreOutcome]:
    match line:
        case QueueLine():
            return "queues", await import_archive.restore_queue(store, line)
        case JobLine():
            return "jobs", await import_archive.restore_job(store, line)
        case ResultsLine():
            return "parts of results", await restore_results(store, line)
        case WorkflowLine():
            return "workflows", await import_workflows.restore_workflow(store, line)
        case CronLine():
            return "cron jobs", await import_archive.restore_cron(store, line)
        case SchemaLine():
            return "schemas", "created" if await restore_schema(store, line) else "exists"
        case TenantLine(settings):
            return "tenants", "created" if await restore_tenant(store, settings) else "exists"
        case PoolLine(pool):
            return "pools", "created" if await restore_pool(store, pool) else "exists"
        case MarkLine(mark):
            return "marks", "created" if await restore_mark(store, mark) else "exists"
        case _:
            raise InvalidLine("a header in the middle of the file")


def _print_status(text: str) -> None:
    print(f"ojs-cluster: {text}", file=sys.stderr, flush=True)
