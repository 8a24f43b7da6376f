"""Validate the args of jobs that are enqueued (spec: ojs-schema-registry 7).

A validation that is clearly cheap runs here, in some microseconds typically. All others run in a
child process that can be killed (``validation_process``, docs/adr/058). Between the jobs of a batch
other tasks run.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from ojs_cluster.core.errors import ArgsRefused, OJSError, ValidationBusy
from ojs_cluster.core.jobs.envelope import NewJob, parse_job
from ojs_cluster.core.payload_limits import STORED_LIMITS
from ojs_cluster.core.raw_json import object_members, string
from ojs_cluster.core.schemas.compiled import Problem
from ojs_cluster.core.workflow_request import NewWorkflow
from ojs_cluster.redis.driven_coroutines import ensure_task
from ojs_cluster.store.ground.off_loop import off_loop
from ojs_cluster.store.ground.process_state.schema_table import StoredSchema, TypeSchemas, log

if TYPE_CHECKING:
    from ojs_cluster.store.context import Store

MAX_WARNINGS: Final = 100
"""Maximum number of warnings of one response."""
MAX_EXPLAINED: Final = 10
"""Maximum number of jobs of one request of which the problems are named."""
MAX_UNFINISHED: Final = 2
"""Maximum number of validations of one request that the child process does not finish. After these,
it validates no further job of the request."""
_PAUSE_S: Final = 0.01
"""Time in seconds after which validations let other tasks run."""


class Effort:
    """What the validations of one request have taken.

    Attributes:
        explained: number of jobs whose problems are named.
        unfinished: number of validations that the child process has not finished in time.
    """

    def __init__(self) -> None:
        """Begin with the first job of a request."""
        self._resumed = time.monotonic()
        self.explained = 0
        self.unfinished = 0

    async def give_turn(self) -> None:
        """Let other tasks run when this one has used the event loop for ``_PAUSE_S``."""
        if time.monotonic() - self._resumed > _PAUSE_S:
            await ensure_task()
            await trio.lowlevel.checkpoint()
            self._resumed = time.monotonic()


async def check_args(store: Store, job: NewJob, effort: Effort | None = None) -> list[str]:
    """Validate the args of a job.

    Args:
        store: the store.
        job: the job.
        effort: what earlier jobs of the request have taken; None for a single job.

    Returns:
        The warnings of the job, and if the mode of the type is ``warn`` why its args do not match.

    Raises:
        ArgsRefused: the args do not match, and the mode of the type is ``strict``.
        ValidationBusy: the args cannot be validated now, and the mode of the type is ``strict``.
    """
    return [*job.warnings, *await check_members(store, job.type, job.body, effort)]


async def check_members(
    store: Store, job_type: str, body: bytes, effort: Effort | None = None
) -> list[str]:
    """Validate the args of a job, as ``check_args`` does; return why they do not match.

    Args:
        store: the store.
        job_type: the type of the job.
        body: the members of the job, ``args`` among them, as ``NewJob.body``.
        effort: what earlier jobs of the request have taken; None for a single job.

    Raises:
        ArgsRefused, ValidationBusy: as ``check_args``.
    """
    schemas = store.schemas.validated.get(job_type)
    if schemas is None:
        return []
    # The args are among the members. They are split again here, so that other jobs pay nothing.
    attributes = object_members(b"{%b}" % body) or {}
    schema = schemas.choose(_text(attributes.get("version")), _text(attributes.get("schema")))
    if schema is None:
        return []
    is_strict = (schemas.policy.mode or store.settings.schema_mode) == "strict"
    try:
        problems = await _problems(store, schema, bytes(attributes["args"]), effort or Effort())
    except ValidationBusy as error:
        if is_strict:
            raise
        problems = [Problem("/args", error.message)]
    if not problems:
        return []
    if is_strict:
        raise _refusal(schema, problems)
    _log(schemas, schema, problems)
    return [f"Schema validation warning: {each.text()}" for each in problems]


async def _problems(
    store: Store, schema: StoredSchema, args: bytes, effort: Effort
) -> list[Problem]:
    """Return why args do not match; an empty list if they match.

    Raises:
        ValidationBusy: the args cannot be validated now.
    """
    table = store.schemas
    explain = effort.explained < MAX_EXPLAINED
    problems: list[Problem] | None = None  # None: they may take too long in this process
    if table.validates_here and schema.digest not in table.suspects:
        table.suspects.begin(schema.digest)
        try:
            if not schema.is_compiled:
                # Always in a thread: patterns make the time independent of the size.
                await off_loop(schema.compile, len(schema.document), large=0)
            problems = schema.check_here(args, explain=explain)
        finally:
            table.suspects.end(schema.digest)
    if problems is None:
        if effort.unfinished >= MAX_UNFINISHED:
            raise ValidationBusy(
                "other args of the request took too long to be validated: send these again"
            )
        effort.unfinished += 1
        outcome = await table.process.check(schema.document, args, explain=explain)
        if outcome.in_time:
            effort.unfinished -= 1
        problems = outcome.problems
    effort.explained += bool(problems)
    return problems


async def check_each(
    store: Store,
    jobs: Sequence[NewJob | OJSError],
    *,
    name: str = "jobs",
    numbers: Sequence[int] | None = None,
) -> tuple[list[NewJob | OJSError], list[str]]:
    """Validate the args of several jobs.

    Args:
        store: the store.
        jobs: the jobs, or the errors of invalid ones.
        name: the member of the request that holds the jobs.
        numbers: the number of each job in the request, or in the plan of a workflow; None if these
            are all of its jobs.

    Returns:
        The jobs, with an error in place of each job that is refused or cannot be validated now, and
        the first ``MAX_WARNINGS`` warnings.
    """
    checked, warnings = list(jobs), list[str]()
    validated = store.schemas.validated
    effort = Effort()
    numbers = range(len(jobs)) if numbers is None else numbers
    for index, (number, job) in enumerate(zip(numbers, jobs, strict=True)):
        if isinstance(job, OJSError) or not (job.warnings or job.type in validated):
            continue
        await effort.give_turn()
        try:
            found = await check_args(store, job, effort)
        except (ArgsRefused, ValidationBusy) as error:
            error.message = f"{name}[{number}]: {error.message}"
            error.args = (error.message,)
            error.details.update(index=number, field=f"{name}[{number}].args")
            checked[index] = error
        else:
            warnings += (f"{name}[{number}]: {each}" for each in found)
    return checked, warnings[:MAX_WARNINGS]


async def check_workflow(store: Store, new: NewWorkflow) -> list[str]:
    """Validate the args of all jobs of a workflow, callbacks included; return the warnings.

    The args are those of the request. The schemas may change before a later step is enqueued. The
    step is then enqueued all the same, because the workflow could not end otherwise.

    Raises:
        ArgsRefused: the args of a job are refused.
        ValidationBusy: none are refused, but those of a job cannot be validated now.
    """
    validated = store.schemas.validated
    jobs: list[NewJob] = []
    numbers: list[int] = []
    effort = Effort()
    for node, definition in zip(new.plan.jobs, new.definitions, strict=True):
        if node.type in validated or node.job in new.warned:
            await effort.give_turn()
            parse = partial(parse_job, definition, limits=STORED_LIMITS)
            jobs.append(await off_loop(parse, len(definition)))
            numbers.append(node.job)
    return await check_all(store, jobs, name="steps", numbers=numbers)


async def check_all(
    store: Store,
    jobs: Sequence[NewJob],
    *,
    name: str = "jobs",
    numbers: Sequence[int] | None = None,
) -> list[str]:
    """Validate the args of jobs that are enqueued together; return the warnings.

    Raises:
        ArgsRefused: the args of a job are refused. The error is that of the first such job.
        ValidationBusy: none are refused, but those of a job cannot be validated now.
    """
    checked, warnings = await check_each(store, jobs, name=name, numbers=numbers)
    errors = [each for each in checked if isinstance(each, OJSError)]
    if errors:
        raise min(errors, key=lambda each: isinstance(each, ValidationBusy))
    return warnings


def _text(raw: bytes | None) -> str | None:
    """Return the text of a string or of a number; None if the job has none."""
    if raw is None or bytes(raw) == b"null":
        return None
    text = string(raw)
    return bytes(raw).decode(errors="replace") if text is None else text


def _refusal(schema: StoredSchema, problems: Sequence[Problem]) -> ArgsRefused:
    return ArgsRefused(
        f"Job arguments do not match schema for {schema.name}: {problems[0].text()}",
        field="args",
        pointer=problems[0].pointer,
        validation_errors=[each.text() for each in problems],
        errors=[{"pointer": each.pointer, "message": each.message} for each in problems],
        schema=schema.record.uri,
    )


def _log(schemas: TypeSchemas, schema: StoredSchema, problems: Sequence[Problem]) -> None:
    """Log where args do not match, without their values, which may be confidential."""
    if schemas.may_log():
        log.warning(
            "a job does not match the schema %s at %s; it is accepted, because the mode is warn",
            schema.name,
            problems[0].pointer,
        )
