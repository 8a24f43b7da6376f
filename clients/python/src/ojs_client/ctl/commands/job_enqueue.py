"""``ojsctl job enqueue``."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Final, TextIO

import click

from ojs_client.ctl.api import V1
from ojs_client.ctl.command import Leaf
from ojs_client.ctl.errors import Exit, Failed, failure
from ojs_client.ctl.progress import Bar
from ojs_client.ctl.queues import complete_queues
from ojs_client.ctl.session import Session
from ojs_client.ctl.text import counted
from ojs_client.ctl.times import DURATION
from ojs_client.ctl.values import json_or_text, pairs, parsed
from ojs_client.errors import ApiError, ConnectionFailed
from ojs_client.options import iso_duration, milliseconds

_BATCH: Final = 100  # jobs
_BATCH_BYTES: Final = 256 * 1024


@click.command(
    cls=Leaf,
    examples="""
    job enqueue email.send '{"to": "ada@example.com"}' --queue mail
    job enqueue report.build 42 --delay 1h --priority 10 --tag nightly
    job enqueue --file jobs.jsonl
    """,
)
@click.argument("job_type", metavar="TYPE", required=False)
@click.argument("args", nargs=-1, metavar="[ARG]...")
@click.option(
    "--queue", metavar="QUEUE", help="Its queue (default).", shell_complete=complete_queues
)
@click.option("--priority", type=int, help="Higher runs earlier.")
@click.option("--delay", type=DURATION, help="Run it after this time.")
@click.option("--run-timeout", type=DURATION, help="How long an attempt may take.")
@click.option("--attempts", type=click.IntRange(1), help="Number of attempts.")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="May be repeated.")
@click.option("--meta", multiple=True, metavar="NAME=VALUE", help="May be repeated.")
@click.option(
    "--id", "job_id", metavar="UUID", help="The id; a second enqueue with it creates no job."
)
@click.option(
    "--file",
    type=click.File("r", encoding="utf-8"),
    metavar="FILE",
    help="Enqueue the jobs of a file of JSON lines; - is stdin.",
)
@click.pass_obj
def enqueue(session: Session, /, job_type: str | None, file: TextIO | None, **given: Any) -> None:
    """Enqueue a job, or the jobs of a file.

    An ARG is JSON; other text is a string. A line of a file is a job as the API takes it:
    {"type": "email.send", "args": [...], "options": {"queue": "mail"}}.
    """
    if (job_type is None) == (file is None):
        raise click.UsageError("Give a TYPE, or --file.")
    if file is not None:
        _enqueue_file(session, file)
        return
    reply = session.api.post(f"{V1}/jobs", _body(str(job_type), **given))
    created = reply["job"]
    verb = "already exists" if reply.get("deduplicated") else f"is {created['state']}"
    sentence = f"job {created['id']} {verb} in queue {created['queue']}"
    session.output.changed(created, sentence, name=created["id"])


def _body(
    job_type: str,
    *,
    args: tuple[str, ...],
    queue: str | None,
    priority: int | None,
    delay: float | None,
    run_timeout: float | None,
    attempts: int | None,
    tags: tuple[str, ...],
    meta: tuple[str, ...],
    job_id: str | None,
) -> dict[str, Any]:
    options: dict[str, Any] = {
        "queue": queue,
        "priority": priority,
        "scheduled_at": None if delay is None else f"+{iso_duration(timedelta(seconds=delay))}",
        "timeout_ms": None if run_timeout is None else milliseconds(run_timeout),
        "retry": None if attempts is None else {"max_attempts": attempts},
        "tags": list(tags) or None,
    }
    options = {name: value for name, value in options.items() if value is not None}
    body: dict[str, Any] = {"type": job_type, "args": [json_or_text(text) for text in args]}
    body |= {"options": options} if options else {}
    body |= {"meta": pairs(meta, "--meta")} if meta else {}
    return body | ({"id": job_id} if job_id else {})


def _enqueue_file(session: Session, file: TextIO) -> None:
    """Enqueue the lines of a file in batches, each of which is atomic."""
    count = 0
    jobs: list[Any] = []
    with Bar("enqueue") as bar:
        for last_line, batch in _batches(file):
            try:
                reply = session.api.post(f"{V1}/jobs/batch", {"jobs": batch})
            except (ApiError, ConnectionFailed) as error:
                if not count:
                    raise
                reason = failure(error, session.connection.url).message
                raise Failed(
                    f"{count} jobs are enqueued. The lines {last_line - len(batch) + 1} to "
                    f"{last_line} are not certain to be: {reason}",
                    Exit.PARTLY,
                ) from error
            count += len(batch)
            jobs += reply["jobs"]
            bar.advance(len(batch))
    if session.output.format in ("name", "jsonl", "json"):
        session.output.rows(jobs, (), name="id")
    else:
        session.output.changed({}, f"{counted(count, 'jobs')} enqueued", name="")


def _batches(file: TextIO) -> Iterator[tuple[int, list[Any]]]:
    """Yield the number of the last line of each batch, and its jobs."""
    batch: list[Any] = []
    size = number = 0
    for number, line in enumerate(file, 1):
        if not line.strip():
            raise Failed(f"line {number} is empty", Exit.USAGE)
        try:
            job = parsed(line)
        except (ValueError, RecursionError):
            raise Failed(f"line {number} is no JSON", Exit.USAGE) from None
        if batch and (len(batch) == _BATCH or size + len(line) > _BATCH_BYTES):
            yield number - 1, batch
            batch, size = [], 0
        batch.append(job)
        size += len(line)
    if batch:
        yield number, batch
