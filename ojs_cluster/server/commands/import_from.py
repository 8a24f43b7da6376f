"""The command ``import --from``, which brings the jobs of another job system."""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field

import redis
import trio

from ojs_cluster.core.errors import BackendUnavailable, OJSError
from ojs_cluster.core.jobs.options import is_queue
from ojs_cluster.core.payload_limits import PayloadLimits
from ojs_cluster.server.commands.archive import run_with_store
from ojs_cluster.server.commands.progress import Progress
from ojs_cluster.server.config.load import Settings
from ojs_cluster.server.import_from.convert import ConvertedJob, convert, line_of
from ojs_cluster.server.import_from.foreign_job import (
    ForeignItem,
    ForeignJob,
    ForeignQueue,
    NotCarried,
)
from ojs_cluster.server.import_from.import_report import ImportReport
from ojs_cluster.server.import_from.names import Names
from ojs_cluster.server.import_from.source import InvalidUrl, Source
from ojs_cluster.server.import_from.systems import READERS
from ojs_cluster.store.context import Store
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.operators.archive.import_archive import restore_job, restore_queue
from ojs_cluster.store.operators.archive.line_values import InvalidLine, QueueLine

_WINDOW_ITEMS = 256
"""Number of jobs that are read together and then stored concurrently."""


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """The command line of an import.

    Args:
        system: name of the other system, a key of ``READERS``.
        url: URL of its Redis.
        prefix: prefix of its keys, '' for the usual one.
        dry_run: whether to read and check everything, but store nothing.
        types: job type in the other system to type here.
        queues: queue in the other system to queue here.
    """

    system: str
    url: str
    prefix: str = ""
    dry_run: bool = False
    types: Mapping[str, str] = field(default_factory=dict)
    queues: Mapping[str, str] = field(default_factory=dict)


def run_import_from(settings: Settings, options: ImportOptions) -> int:
    """Import the jobs of another system and print a report; return the exit code."""
    if options.dry_run:
        return trio.run(_reported, options, settings.limits, None)
    return run_with_store(settings, lambda store: _reported(options, settings.limits, store))


async def _reported(options: ImportOptions, limits: PayloadLimits, store: Store | None) -> int:
    report = ImportReport()
    try:
        await import_from(options, limits, store, report)
    except (redis.RedisError, InvalidUrl) as error:
        _print_status(f"the Redis of {options.system}: {error}")
        return 1
    except BackendUnavailable:
        _print_status("interrupted: run the import again, it skips jobs that it has imported")
        raise
    finally:
        for line in report.lines():
            print(line)
        sys.stdout.flush()
    return 1 if report.refused else 0


async def import_from(
    options: ImportOptions,
    limits: PayloadLimits,
    store: Store | None,
    report: ImportReport | None = None,
) -> ImportReport:
    """Read everything from the other system and store it.

    Args:
        options: the command line.
        limits: size limits of jobs.
        store: where to store the jobs; None to store nothing.
        report: the report to fill, by default a new one. It is valid after an error too.

    Returns:
        The report.

    Raises:
        redis.RedisError: the Redis of the other system failed.
        InvalidUrl: the URL of that Redis is not valid.
        BackendUnavailable: our own Redis did not answer in time.
    """
    report = ImportReport() if report is None else report
    names = Names(options.types, options.queues)
    positions = Counter[str]()
    source = await trio.to_thread.run_sync(Source, options.url, options.prefix)
    with closing(source), Progress("importing", "jobs", sys.stderr) as progress:
        items = READERS[options.system](source)

        def next_window() -> list[ForeignQueue | ConvertedJob]:
            return _checked(list(itertools.islice(items, _WINDOW_ITEMS)))

        def _checked(window: list[ForeignItem]) -> list[ForeignQueue | ConvertedJob]:
            report.read += len(window)
            return list(_converted(window, options.system, names, limits, report))

        while True:
            before = report.read
            window = await trio.to_thread.run_sync(next_window)
            if report.read == before:
                return report
            await _store_window(window, options, names, store, report, positions)
            progress.update(report.read, None)


def _converted(
    window: list[ForeignItem],
    system: str,
    names: Names,
    limits: PayloadLimits,
    report: ImportReport,
) -> Iterator[ForeignQueue | ConvertedJob]:
    """Yield the queues and valid jobs of a window, and note what is left out."""
    for item in window:
        match item:
            case ForeignQueue():
                if is_queue(names.queue(item.name)):
                    yield item
                else:
                    report.leave_out(item.name, "has a name that needs --rename-queue", "")
            case NotCarried(queue, reason, example, count):
                report.leave_out(queue, reason, example, count)
            case ForeignJob():
                try:
                    converted = convert(system, item, names, limits)
                except OJSError as error:
                    report.refused += 1
                    report.leave_out(item.queue, f"is not valid: {error.message}", item.source_id)
                    continue
                report.add_name("type", item.type, converted.job.type)
                report.add_name("queue", item.queue, converted.job.queue)
                yield converted


async def _store_window(
    window: list[ForeignQueue | ConvertedJob],
    options: ImportOptions,
    names: Names,
    store: Store | None,
    report: ImportReport,
    positions: Counter[str],
) -> None:
    """Store queues and jobs. The positions keep the order of jobs that are stored concurrently."""
    now_ms = 0 if store is None else store.clock.now_ms()

    async def store_one(numbered: tuple[ConvertedJob, int]) -> None:
        item, position = numbered
        queue, state = item.job.queue, item.source.state
        if store is None:
            report.add_job(queue, state, "found")
            return
        try:
            line = line_of(store, options.system, item, position, now_ms)
            report.add_job(queue, state, await restore_job(store, line))
        except BackendUnavailable:
            raise
        except (InvalidLine, OJSError) as error:
            report.refused += 1
            report.leave_out(queue, f"cannot be stored: {error}", item.source.source_id)

    numbered = list[tuple[ConvertedJob, int]]()
    for item in window:
        if isinstance(item, ConvertedJob):
            positions[item.job.queue] += 1
            numbered.append((item, positions[item.job.queue]))
        elif store is not None:
            # Before its jobs, so that no worker starts one of them.
            await restore_queue(store, QueueLine(names.queue(item.name), {b"paused": b"1"}))
    await run_concurrently(numbered, store_one)


def _print_status(text: str) -> None:
    print(f"ojs-cluster: {text}", file=sys.stderr, flush=True)
