"""Choose jobs on the command line, and change all of them.

Options such as ``--queue`` and ``--query`` become the filter of a bulk operation, which the server
runs. Jobs that are named by their ids are changed one after the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import click

from ojs_client.ctl.api import ADMIN, V1, Api
from ojs_client.ctl.command import F
from ojs_client.ctl.complete import completion_of
from ojs_client.ctl.confirm import check_terminal, confirm
from ojs_client.ctl.errors import Exit, Failed
from ojs_client.ctl.output import Row, note
from ojs_client.ctl.progress import Bar
from ojs_client.ctl.queues import complete_queues
from ojs_client.ctl.session import Session
from ojs_client.ctl.text import counted
from ojs_client.ctl.times import MOMENT
from ojs_client.errors import ApiError

STATES: Final = (
    *("pending", "scheduled", "available", "active"),
    *("retryable", "completed", "cancelled", "discarded"),
)
_DONE: Final = {"cancel": "cancelled", "retry": "retried", "delete": "deleted", "purge": "purged"}
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 2.0
_MAX_SHOWN_FAILURES: Final = 20


@dataclass(frozen=True, slots=True)
class Selection:
    """The jobs that a command line chooses.

    Args:
        ids: ids of jobs.
        filter: the filter of a bulk operation.
        all: whether the user has chosen all jobs (``--all``).
    """

    ids: tuple[str, ...]
    filter: dict[str, Any]
    all: bool

    def check(self) -> None:
        """Check that the jobs are chosen in one way.

        Raises:
            UsageError: they are not.
        """
        ways = (bool(self.ids), bool(self.filter), self.all)
        if sum(ways) != 1:
            raise click.UsageError(
                "Choose the jobs in one way: by ids, by filters such as --query and --queue, or "
                "by --all."
            )


_complete_field = completion_of(
    lambda api: api.get("/ojs/manifest").get("search_fields", ())  # none before 0.2
)


def complete_query(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the searches that begin like ``incomplete`` and go on with a field."""
    before, blank, term = incomplete.rpartition(" ")
    return [f"{before}{blank}{name}" for name in _complete_field(ctx, param, term)]


def complete_jobs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the ids of the newest jobs that begin like ``incomplete``."""
    query = f"id:{incomplete}*" if incomplete else None

    def read(api: Api) -> Iterator[str]:
        return (each["id"] for each in api.pages(f"{V1}/jobs", "jobs", 50, query=query))

    return completion_of(read)(ctx, param, incomplete)


job_id: Callable[[F], F] = click.argument("job_id", metavar="ID", shell_complete=complete_jobs)
"""The job of a command."""
query_option: Callable[[F], F] = click.option(
    "--query",
    default="",
    metavar="SEARCH",
    help="Search, such as 'type:email.* error:timeout since:2h'.",
    shell_complete=complete_query,
)


def selection_options(function: F, happened: str = "Created") -> F:
    """Add the options that choose jobs.

    Args:
        function: the function of the command.
        happened: what happened to a job at the times of ``--since`` and ``--until``.
    """
    for option in (
        click.option("--all", "everything", is_flag=True, help="Choose all jobs."),
        click.option("--older-than", metavar="AGE", help="Ended (or created) before, as 7d."),
        click.option("--until", type=MOMENT, help=f"{happened} before a time, or an age as 1h."),
        click.option("--since", type=MOMENT, help=f"{happened} since a time, or an age as 1h."),
        click.option("--type", "job_type", metavar="TYPE", help="Type; 'email.*' is a prefix."),
        click.option(
            "--queue", metavar="QUEUE", help="Jobs of this queue.", shell_complete=complete_queues
        ),
        query_option,
        click.argument("ids", nargs=-1, metavar="[ID]...", shell_complete=complete_jobs),
    ):
        function = option(function)
    return function


def selection_of(given: dict[str, Any], **members: Any) -> Selection:
    """Remove the values of ``selection_options`` from ``given``, and return their selection.

    Args:
        given: the arguments of the command.
        **members: more members of the filter, such as ``states``; None is left out.
    """
    chosen = {
        "queue": given.pop("queue"),
        "type": given.pop("job_type"),
        "since": given.pop("since"),
        "until": given.pop("until"),
        "older_than": given.pop("older_than"),
        "query": given.pop("query"),
        **members,
    }
    filtered = {name: value for name, value in chosen.items() if value}
    return Selection(given.pop("ids"), filtered, given.pop("everything"))


def count_ids(session: Session, action: str, ids: Sequence[str]) -> None:
    """Print how many jobs a command would change that names them by their ids.

    Args:
        session: the session.
        action: ``cancel``, ``retry`` or ``delete``.
        ids: the ids.
    """
    counts = {"action": action, "dry_run": True, "matched": len(ids), "job_ids": list(ids)}
    session.output.changed(
        counts, f"{counted(len(ids), 'jobs')} would be {_DONE[action]}", name=str(len(ids))
    )


def change_each(session: Session, ids: Iterable[str], change: Callable[[str], Any]) -> None:
    """Change objects one after the other.

    If there is only one object, its error is raised. Otherwise the errors are written to stderr.

    Args:
        session: the session.
        ids: the names of the objects.
        change: changes one and prints it.

    Raises:
        ApiError: the only one failed.
    """
    names = list(dict.fromkeys(ids))
    if len(names) == 1:
        change(names[0])
        return
    failures: list[tuple[str, str]] = []
    for name in names:
        try:
            change(name)
        except ApiError as error:
            failures.append((name, error.message))
    report_failures(session, failures, len(names) - len(failures), len(failures))


def remove_each(
    session: Session,
    noun: str,
    paths: Mapping[str, str],
    *,
    yes: bool,
    shown: Callable[[Row], Any] = lambda reply: reply,
) -> None:
    """Ask the user, then remove objects one after the other.

    Args:
        session: the session.
        noun: what the objects are, such as ``tenant``.
        paths: the paths of the objects by name.
        yes: whether the command line has ``--yes``.
        shown: returns what the output shows of a reply.

    Raises:
        ApiError: the only one was not removed.
        UsageError: there is no terminal, and no ``--yes``.
        Abort: the user refuses.
    """
    confirm(f"Remove {', '.join(paths)}?", yes=yes)

    def remove(name: str) -> None:
        reply = session.api.request("DELETE", paths[name])
        session.output.changed(shown(reply), f"{noun} {name} removed", name=name)

    change_each(session, paths, remove)


def report_failures(
    session: Session, failures: Sequence[tuple[str, str]], succeeded: int, failed: int
) -> None:
    """Name the objects that were not changed, and set the exit code.

    Args:
        session: the session.
        failures: names and reasons; the list may be incomplete.
        succeeded: number of objects that were changed.
        failed: number of objects that were not changed.
    """
    if not failed:
        return
    code = Exit.PARTLY if succeeded else Exit.FAILED
    for name, reason in failures[:_MAX_SHOWN_FAILURES]:
        Failed(f"{name}: {reason}").show()
    if failed > len(failures[:_MAX_SHOWN_FAILURES]):
        Failed(f"{failed} failed in all").show()
    session.exit_code = code


def run_operation(
    session: Session,
    action: str,
    chosen: dict[str, Any],
    *,
    yes: bool,
    dry_run: bool,
    wait: bool = True,
    what: str = "jobs",
    which: str = "",
) -> None:
    """Change all jobs that a filter matches by a bulk operation of the server, and follow it.

    Args:
        session: the session.
        action: ``cancel``, ``retry``, ``delete`` or ``purge``.
        chosen: the filter.
        yes: whether the user has confirmed.
        dry_run: whether to count only.
        wait: whether to follow the operation to its end.
        what: what the objects are called in messages, such as ``jobs``.
        which: follows the number of objects in the question.
    """
    body = {"action": action, "filter": chosen}
    done = _DONE[action]
    if not (dry_run or yes):
        check_terminal(f"Without a terminal, confirm '{action}' by --yes.")
    total = None
    if dry_run or not yes:
        found = follow_operation(session, _created(session, {**body, "dry_run": True}))
        if dry_run:
            sentence = f"{counted(found['matched'], what)} would be {done}"
            session.output.changed(found, sentence, name=str(found["matched"]))
            return
        confirm(f"{action.capitalize()} {counted(found['matched'], what)}{which}?", yes=yes)
        total = found["matched"]
        if found["state"] == "completed":
            body = {"action": action, "follows": found["id"]}
    operation = _created(session, {**body, "confirm": True})
    if not wait:
        sentence = f"operation {operation['id']} runs; follow it: ojsctl bulk get {operation['id']}"
        session.output.changed(operation, sentence, name=operation["id"])
        return
    ended = follow_operation(session, operation, total)
    session.output.changed(ended, f"{counted(ended['succeeded'], what)} {done}", name=ended["id"])
    failures = [(each["job_id"], each["error"]) for each in ended["failures"]]
    report_failures(session, failures, ended["succeeded"], ended["failed"])
    if ended["state"] != "completed":
        reason = ended.get("reason") or f"the operation is {ended['state']}"
        raise Failed(reason, Exit.PARTLY if ended["succeeded"] else Exit.FAILED)


def _created(session: Session, body: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = session.api.post(f"{ADMIN}/bulk", body)
    return operation


def follow_operation(
    session: Session, operation: dict[str, Any], total: int | None = None
) -> dict[str, Any]:
    """Follow a bulk operation to its end, with its counts on a terminal.

    Ctrl-C ends the command. The operation goes on.

    Args:
        session: the session.
        operation: the operation, as the server returned it.
        total: the number of jobs that were counted before; None if they were not.
    """
    pause_s = _FIRST_PAUSE_S
    try:
        with Bar("count" if operation["dry_run"] else operation["action"], total) as bar:
            while operation["state"] in ("running", "stopping"):
                time.sleep(pause_s)
                pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
                operation = session.api.get(f"{ADMIN}/bulk/{operation['id']}")
                bar.set(operation["succeeded"] or operation["matched"])
    except KeyboardInterrupt:
        note(f"The operation goes on. Stop it: ojsctl bulk stop {operation['id']}")
        raise
    return operation
