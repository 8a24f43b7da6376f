"""References to earlier answers: `{{steps.ID.response.body.PATH}}` and captures.

A capture is read as `{{name}}`, `${name}` or, where it is the whole string,
`$ref.name`; the suites use all three. A string that is one reference becomes
the value itself, whatever its type; inside a longer string the value is
written as text. A reference of these forms that cannot be resolved is an
`UnresolvedTemplate`: sending it on as literal text, as the published runner
does, turns the rest of the test into noise.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.conformance.dsl import jsonpath

_REFERENCE = re.compile(r"\{\{([^{}]+)\}\}|\$\{([^{}]+)\}|^\$ref\.(\w+)$")
_STEP = re.compile(r"steps\.(?P<step>[^.]+)\.response\.body\.?(?P<path>.*)")


class UnresolvedTemplate(Exception):
    """A reference to a step, a place in its answer or a capture that is not there."""


@dataclass(slots=True)
class Scope:
    """What the steps run so far have produced."""

    bodies: dict[str, Any] = field(default_factory=dict)
    """The answers by the ids of their steps; without a step whose answer is no JSON."""
    captures: dict[str, Any] = field(default_factory=dict)
    """The captured values by their names."""

    def document(self) -> Mapping[str, Any]:
        """The document that `$.steps.ID.response.body...` paths address."""
        return {"steps": {step: {"response": {"body": body}} for step, body in self.bodies.items()}}


def render(value: Any, scope: Scope) -> Any:
    """A copy of a JSON value with every reference in its strings replaced.

    Keys stay as they are. Raises `UnresolvedTemplate`.
    """
    if isinstance(value, str):
        return _string(value, scope)
    if isinstance(value, list):
        return [render(item, scope) for item in value]
    if isinstance(value, dict):
        return {key: render(item, scope) for key, item in value.items()}
    return value


def render_text(text: str, scope: Scope) -> str:
    """Like `render` for a place that can only hold text: a URL path, a JSON path."""
    value = render(text, scope)
    return value if isinstance(value, str) else json.dumps(value)


def _string(text: str, scope: Scope) -> Any:
    whole = _REFERENCE.fullmatch(text)
    if whole is not None:
        return _lookup(_name(whole), scope)

    def replace(found: re.Match[str]) -> str:
        value = _lookup(_name(found), scope)
        return value if isinstance(value, str) else json.dumps(value)

    return _REFERENCE.sub(replace, text)


def _name(found: re.Match[str]) -> str:
    return next(group for group in found.groups() if group is not None).strip()


def _lookup(name: str, scope: Scope) -> Any:
    step = _STEP.fullmatch(name)
    if step is None:
        if name not in scope.captures:
            raise UnresolvedTemplate(f"nothing was captured as {name!r}")
        return scope.captures[name]
    if step["step"] not in scope.bodies:
        raise UnresolvedTemplate(f"{name!r}: step {step['step']!r} has no JSON answer")
    try:
        value = jsonpath.resolve(step["path"], scope.bodies[step["step"]])
    except jsonpath.PathError as error:
        raise UnresolvedTemplate(f"{name!r}: {error}") from error
    if isinstance(value, jsonpath.Missing):
        raise UnresolvedTemplate(f"{name!r} is missing from the answer")
    return value
