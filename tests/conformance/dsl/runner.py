"""Run one case against a server over HTTP, under trio.

The first failed step ends the case, because later steps build on it. Steps that name each other in
``parallel_with`` are sent at the same time.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx
import trio

from tests.conformance.dsl import jsonpath, matchers
from tests.conformance.dsl.case import Case, Checks, Step
from tests.conformance.dsl.templates import Scope, UnresolvedTemplate, render, render_text

MEDIA_TYPE: Final = "application/openjobspec+json"


class CaseFailed(AssertionError):
    """Steps of a case failed; the message has each of them with its response.

    ``after_delay`` tells whether the case had waited before, so that the result may depend on how
    busy the machine was. ``late_s`` is the longest time in seconds that a step took beside its
    delay.
    """

    def __init__(self, message: str, *, after_delay: bool, late_s: float) -> None:
        super().__init__(message)
        self.after_delay = after_delay
        self.late_s = late_s


@dataclass(frozen=True, slots=True)
class Answer:
    """A response. ``document`` is ``MISSING`` when the body is not one JSON value."""

    status: int
    headers: httpx.Headers
    content: bytes
    document: Any


async def run_case(case: Case, client: httpx.AsyncClient) -> None:
    """Run every step of ``case``; ``client`` has the base URL of the server.

    Raises:
        CaseFailed: a step failed.
    """
    scope = Scope()
    waited = False
    late_s = 0.0

    async def run_step(step: Step, failures: list[str]) -> None:
        nonlocal late_s
        began = trio.current_time()
        await _run_step(step, client, scope, failures)
        took_s = trio.current_time() - began - step.delay_ms / 1000
        late_s = max(late_s, took_s / step.repeat)

    for group in _groups(case.steps):
        failures: list[str] = []
        waited = waited or any(step.delay_ms for step in group)
        async with trio.open_nursery() as nursery:
            for step in group:
                nursery.start_soon(run_step, step, failures)
        if failures:
            raise CaseFailed("\n".join(failures), after_delay=waited, late_s=late_s)


def _groups(steps: Sequence[Step]) -> list[list[Step]]:
    """Group consecutive steps that are linked by ``parallel_with``, in either direction."""
    groups: list[list[Step]] = []
    for step in steps:
        linked = groups and any(
            other.parallel_with == step.id or step.parallel_with == other.id for other in groups[-1]
        )
        if linked:
            groups[-1].append(step)
        else:
            groups.append([step])
    return groups


async def _run_step(
    step: Step, client: httpx.AsyncClient, scope: Scope, failures: list[str]
) -> None:
    await trio.sleep(step.delay_ms / 1000)
    if step.action == "WAIT":
        return
    answer: Answer | None = None
    try:
        if step.action == "ASSERT":
            problems = _across_steps(step.checks, scope)
        else:
            for _ in range(step.repeat):
                answer = await _send(step, client, scope)
                problems = _problems(step, answer, scope) or _capture(step, answer, scope)
                if problems:
                    break
    except (UnresolvedTemplate, jsonpath.PathError) as error:
        problems = [str(error)]
    if problems:
        failures.append(_report(step, answer, problems))


async def _send(step: Step, client: httpx.AsyncClient, scope: Scope) -> Answer:
    headers = dict(step.headers)
    content: bytes | None = None
    if step.content is not None:
        text = step.content if step.raw else json.dumps(render(step.content, scope))
        content = text.encode()
        if not any(name.lower() == "content-type" for name in headers):
            headers["Content-Type"] = MEDIA_TYPE
    response = await client.request(
        step.action, render_text(step.path, scope), headers=headers, content=content
    )
    return Answer(
        response.status_code, response.headers, response.content, _parse(response.content)
    )


def _parse(content: bytes) -> Any:
    try:
        return json.loads(content, object_pairs_hook=_unique_keys, parse_constant=_refuse)
    except ValueError:
        return jsonpath.MISSING


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse JSON objects with repeated keys, because parsers disagree about which one counts."""
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("doubled key")
    return document


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _problems(step: Step, answer: Answer, scope: Scope) -> list[str]:
    checks = step.checks
    problems = [
        f"status: {wrong}"
        for matcher in checks.status
        if (wrong := matchers.explain(matcher, answer.status))
    ]
    if "json" in answer.headers.get("content-type", "") and not isinstance(answer.document, dict):
        problems.append("the body is not one JSON object with unique keys")
    for name, matcher in checks.headers:
        value = answer.headers.get(name, jsonpath.MISSING)
        if wrong := matchers.explain(render(matcher, scope), value):
            problems.append(f"header {name}: {wrong}")
    if checks.bodies:
        tried = [_body(body, step, answer, scope) for body in checks.bodies]
        if all(tried):
            problems += [problem for found in tried for problem in found]
    return problems


def _body(
    body: tuple[tuple[str, Any], ...] | None, step: Step, answer: Answer, scope: Scope
) -> list[str]:
    if body is None:
        return [] if answer.content == b"" else ["the body is not empty"]
    if not isinstance(answer.document, dict):
        return ["the body is not one JSON object with unique keys"]
    problems = []
    subject = _subject(step, answer)
    for template, matcher in body:
        path = render_text(template, scope)
        try:
            value = jsonpath.resolve(path, subject)
            wrong = matchers.explain(render(matcher, scope), value, subset=step.checks.subset)
        except jsonpath.PathError as error:
            wrong = str(error)
        if wrong:
            problems.append(f"{path}: {wrong}")
    return problems


def _subject(step: Step, answer: Answer) -> Any:
    """Return the start of paths: for a step with an operation it is the job itself."""
    if step.operation in ("push", "get", "ack"):
        return answer.document.get("job", answer.document)
    return answer.document


def _capture(step: Step, answer: Answer, scope: Scope) -> list[str]:
    if isinstance(answer.document, jsonpath.Missing):
        return [f"cannot capture {name!r}: no JSON answer" for name in step.captures]
    scope.bodies[step.id] = answer.document
    problems = []
    for name, path in step.captures.items():
        value = jsonpath.resolve(path, _subject(step, answer))
        if isinstance(value, jsonpath.Missing):
            problems.append(f"cannot capture {name!r}: {path} is missing")
        scope.captures[name] = value
    return problems


def _across_steps(checks: Checks, scope: Scope) -> list[str]:
    problems = []
    for path, matcher in checks.equality:
        left = jsonpath.resolve(path, scope.document())
        right = render(matcher, scope)
        if wrong := matchers.explain({"$eq": right}, left):
            problems.append(f"{path}: {wrong}")
    if checks.exclusive_claim is not None:
        problems += _exclusive_claim(render(dict(checks.exclusive_claim), scope))
    return problems


def _exclusive_claim(claim: dict[str, Any]) -> list[str]:
    """Check that one of the concurrent fetches got the job and all others got nothing."""
    fetched = [[job["id"] for job in jobs] for jobs in claim["fetches"]]
    holders = [ids for ids in fetched if claim["job_id"] in ids]
    empty = [ids for ids in fetched if not ids]
    problems = []
    if claim["exactly_one_has_job"] and len(holders) != 1:
        problems.append(f"{len(holders)} fetches received {claim['job_id']}: {fetched}")
    if claim["exactly_one_empty"] and len(empty) != 1:
        problems.append(f"{len(empty)} fetches received nothing: {fetched}")
    return problems


def _report(step: Step, answer: Answer | None, problems: list[str]) -> str:
    lines = [f"step {step.id}: {step.action} {step.path}", *(f"  {line}" for line in problems)]
    if answer is not None:
        lines.append(f"  answer {answer.status}: {answer.content[:2000].decode(errors='replace')}")
    return "\n".join(lines)
