"""A suite file as data: every key of every step is understood or refused.

The files use two dialects. Most steps have an HTTP method and a path, and their checks under
``assertions``. Others have their checks under ``expect``, and some of those have an operation
(``push``, ``get``, ``fetch``, ``ack``) and a ``request`` instead of a method, a path and a body.
Both become the same ``Step``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.conformance.dsl import jsonpath, matchers
from tests.conformance.dsl.matchers import SuiteError

METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})
OPERATIONS: Final[Mapping[str, tuple[str, str]]] = {
    "push": ("POST", "/ojs/v1/jobs"),
    "get": ("GET", "/ojs/v1/jobs/$id"),
    "fetch": ("POST", "/ojs/v1/workers/fetch"),
    "ack": ("POST", "/ojs/v1/workers/ack"),
}

_CASE_KEYS = {"test_id", "level", "category", "name", "description", "spec_ref", "tags", "steps"}
# Text for people: in each of these files the first step creates what it describes.
_CASE_KEYS |= {"preconditions"}
_STEP_KEYS = {"id", "action", "intent", "path", "headers", "body", "description", "assertions"}
_STEP_KEYS |= {"expect", "request", "raw_body", "repeat", "delay_ms", "duration_ms"}
_STEP_KEYS |= {"parallel_with", "capture", "captures", "store"}
_CHECK_KEYS = {"status", "status_in", "status_one_of", "body", "headers"}
_CHECK_KEYS |= {"exclusive_claim", "equality", "body_comment", "headers_comment"}


@dataclass(frozen=True, slots=True)
class Checks:
    """The checks after a step. Status, headers and body values are matchers.

    ``bodies`` are alternatives (a plain body is the only one): all entries of one of them must
    match. None among them means "no body at all". ``subset`` marks the dialect whose literal
    objects list only some keys.
    """

    status: tuple[Any, ...] = ()
    headers: tuple[tuple[str, Any], ...] = ()
    bodies: tuple[tuple[tuple[str, Any], ...] | None, ...] = ()
    equality: tuple[tuple[str, Any], ...] = ()
    exclusive_claim: Mapping[str, Any] | None = None
    subset: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """One request (or a pause, or a check of earlier steps) and its checks.

    ``action`` is an HTTP method, "WAIT" or "ASSERT". ``content`` is None without a body; a str is
    sent as it is, anything else as JSON. ``operation`` is the abstract operation of the step, if it
    has one.
    """

    id: str
    action: str
    path: str
    headers: Mapping[str, str]
    content: Any
    checks: Checks
    delay_ms: int
    repeat: int
    parallel_with: str | None
    captures: Mapping[str, str]
    operation: str | None
    raw: bool = False


@dataclass(frozen=True, slots=True)
class Case:
    """One suite file; ``file`` is its path relative to the root of the suites."""

    file: str
    test_id: str
    description: str
    steps: tuple[Step, ...]

    @property
    def is_timed(self) -> bool:
        """Return whether steps depend on time: some wait, or a limit counts them by the second."""
        return any(
            step.delay_ms or "max_per_second" in json.dumps(step.content) for step in self.steps
        )


def load(root: Path, file: Path) -> Case:
    """Read one suite file.

    Raises:
        SuiteError: the file has something that is not understood.
    """
    name = file.relative_to(root).as_posix()
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        return parse(name, raw)
    except (SuiteError, jsonpath.PathError, ValueError) as error:
        raise SuiteError(f"{name}: {error}") from error


def parse(file: str, raw: Mapping[str, Any]) -> Case:
    """Return the ``Case`` of a suite file's JSON.

    Raises:
        SuiteError: the file has something that is not understood.
    """
    _known(raw, _CASE_KEYS, "test")
    steps = tuple(_step(position, step) for position, step in enumerate(raw["steps"], start=1))
    return Case(file, raw["test_id"], raw["description"], steps)


def _step(position: int, raw: Mapping[str, Any]) -> Step:
    step_id = raw.get("id", f"#{position}")
    _known(raw, _STEP_KEYS, f"step {step_id}")
    action, operation, path, content = _target(raw)
    captures: dict[str, str] = {}
    for key in ("capture", "captures", "store"):
        captures |= raw.get(key, {})
    if "assertions" in raw and "expect" in raw:
        raise SuiteError(f"step {step_id} has both assertions and expect")
    checks = _expect(raw["expect"]) if "expect" in raw else _assertions(raw.get("assertions", {}))
    return Step(
        id=step_id,
        action=action,
        path=path,
        headers=raw.get("headers", {}),
        content=content,
        checks=checks,
        delay_ms=raw.get("delay_ms", 0) + raw.get("duration_ms", 0),
        repeat=raw.get("repeat", 1),
        parallel_with=raw.get("parallel_with"),
        captures=captures,
        operation=operation,
        raw="raw_body" in raw,
    )


def _target(raw: Mapping[str, Any]) -> tuple[str, str | None, str, Any]:
    action = raw["action"]
    if action in ("WAIT", "ASSERT"):
        return action, None, "", None
    if action in METHODS:
        content = raw["raw_body"] if "raw_body" in raw else raw.get("body")
        return action, None, raw["path"], content
    if action not in OPERATIONS:
        raise SuiteError(f"unknown action {action!r}")
    method, path = OPERATIONS[action]
    request = dict(raw["request"])
    if action == "get":
        return method, action, path.replace("$id", f"{{{{{_reference(request['id'])}}}}}"), None
    if action == "ack":
        request["job_id"] = request.pop("id")
    return method, action, path, request


def _reference(text: str) -> str:
    if not text.startswith("$ref."):
        raise SuiteError(f"expected a $ref., got {text!r}")
    return text.removeprefix("$ref.")


def _assertions(raw: Mapping[str, Any]) -> Checks:
    _known(raw, _CHECK_KEYS, "assertions")
    checks = Checks(
        status=_statuses(raw),
        headers=tuple(raw.get("headers", {}).items()),
        bodies=_bodies(raw.get("body")),
        equality=tuple(raw.get("equality", {}).items()),
        exclusive_claim=raw.get("exclusive_claim"),
    )
    _validate(checks)
    return checks


def _expect(raw: Mapping[str, Any]) -> Checks:
    """Parse ``expect``, which has one body check as ``body.a.b: x`` or all as ``body: {a: x}``."""
    body: dict[str, Any] = {}
    for key, value in raw.items():
        if key == "body":
            body |= value
        elif key.startswith("body."):
            body[key.removeprefix("body.")] = value
        elif key not in ("status", "status_in"):
            raise SuiteError(f"unknown expectation {key!r}")
    bodies = (tuple(body.items()),) if body else ()
    checks = Checks(status=_statuses(raw), bodies=bodies, subset=True)
    _validate(checks)
    return checks


def _statuses(raw: Mapping[str, Any]) -> tuple[Any, ...]:
    found: list[Any] = []
    if (status := raw.get("status")) is not None:
        found.append({"$in": status} if isinstance(status, list) else status)
    found += [{"$in": raw[key]} for key in ("status_in", "status_one_of") if key in raw]
    return tuple(found)


def _bodies(raw: Mapping[str, Any] | None) -> tuple[tuple[tuple[str, Any], ...] | None, ...]:
    if raw is None:
        return ()
    if "$or" not in raw:
        return (tuple(raw.items()),)
    if len(raw) > 1:
        raise SuiteError("a body check with $or and other entries")
    return tuple(
        None if alternative == {"$empty": True} else tuple(alternative.items())
        for alternative in raw["$or"]
    )


def _validate(checks: Checks) -> None:
    for matcher in checks.status:
        matchers.validate(matcher)
    for _, matcher in checks.headers:
        matchers.validate(matcher)
    for body in checks.bodies:
        for path, matcher in body or ():
            jsonpath.parse(path)
            matchers.validate(matcher)


def _known(raw: Mapping[str, Any], keys: set[str], where: str) -> None:
    if unknown := raw.keys() - keys:
        raise SuiteError(f"{where} has unknown keys {sorted(unknown)}")
