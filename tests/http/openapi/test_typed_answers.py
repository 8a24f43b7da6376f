"""What a handler sends has a type of the shapes, so mypy finds a member that is not as described.

The routes that workers and producers use most join bytes, so they do not call ``json_response``.
The comparison of all answers with the document (``answers.py``) covers those.
"""

from __future__ import annotations

import ast
import importlib
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import FunctionType, MappingProxyType, ModuleType
from typing import Any, Final, NamedTuple

import pytest

from ojs_cluster.core import queue_defaults
from ojs_cluster.core.jobs.states import State
from ojs_cluster.http import handlers
from ojs_cluster.http.routes.all_routes import ROUTES
from ojs_cluster.http.shapes.queues import ShownDefaults, StateCounts

_UNTYPED: Final = MappingProxyType(
    {
        "admin.test_hooks.reset": "the document has no routes of tests",
    }
)
"""Functions that may send a value without a type, with the reasons."""


class _Call(NamedTuple):
    """A call of ``json_response``, and the module and the function that have it."""

    module: Any
    function: ast.FunctionDef | ast.AsyncFunctionDef
    value: ast.expr

    @property
    def name(self) -> str:
        path = self.module.__name__.removeprefix(f"{handlers.__name__}.")
        return f"{path}.{self.function.name}"


def _calls_in(module: Any, tree: ast.Module) -> Iterator[_Call]:
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("json_response"):
                    yield _Call(module, function, node.args[1])


@cache
def _calls() -> list[_Call]:
    folder = Path(handlers.__path__[0])
    found: list[_Call] = []
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        module = importlib.import_module(".".join((handlers.__name__, *parts)))
        found += _calls_in(module, ast.parse(path.read_text()))
    return found


def _shape(call: _Call) -> Any:
    """Return the type of the value that a call sends; None if it is no type of the shapes."""
    types = {_type(call, value) for value in _sources(call)}
    (found,) = types if len(types) == 1 else (None,)
    return found if typing.is_typeddict(found) and ".shapes." in found.__module__ else None


def _sources(call: _Call) -> list[ast.expr]:
    """Return what the value of a call is bound to: an annotation, or else an expression."""
    if not isinstance(call.value, ast.Name):
        return [call.value]
    found: list[ast.expr] = []
    for node in ast.walk(call.function):
        match node:
            case ast.AnnAssign(ast.Name(name), annotation) if name == call.value.id:
                return [annotation]
            case ast.Assign(targets, value) if call.value.id in map(ast.unparse, targets):
                found.append(value)
    return found


def _type(call: _Call, source: ast.expr) -> Any:
    """Return the type of an expression: of a call that of the function, of a name itself."""
    match source:
        case ast.Await(value):
            return _type(call, value)
        case ast.Call(function):
            found = eval(ast.unparse(function), vars(call.module))  # noqa: S307
            if not isinstance(found, FunctionType):
                return found
            return typing.get_type_hints(found)["return"]
        case ast.Name() | ast.Attribute():
            return eval(ast.unparse(source), vars(call.module))  # noqa: S307
    return None


def _typed() -> list[_Call]:
    return [call for call in _calls() if call.name not in _UNTYPED]


def test_each_exception_is_a_call() -> None:
    assert _UNTYPED.keys() <= {call.name for call in _calls()}


@pytest.mark.parametrize("call", _typed(), ids=lambda call: f"{call.name}:{call.value.lineno}")
def test_a_value_has_a_type_of_the_shapes(call: _Call) -> None:
    assert _shape(call) is not None, f"{call.name} sends {ast.unparse(call.value)} without a type"


def test_a_handler_sends_what_its_route_describes() -> None:
    described: dict[Any, set[Any]] = {}
    for route in ROUTES:
        for answer in route.answers.values():
            described.setdefault(route.handler, set()).update(getattr(answer, "shapes", (answer,)))
    sent = [(getattr(call.module, call.function.name), call) for call in _typed()]
    wrong = [
        f"{call.name}:{call.value.lineno}"
        for handler, call in sent
        if handler in described and _shape(call) not in described[handler]
    ]
    assert wrong == []
    assert sum(handler in described for handler, _ in sent) > 50


_HEAD: Final = """
from typing import Any
from ojs_cluster.http.replies import json_response
from ojs_cluster.http.shapes.common import Deleted
def typed(job_id: str) -> Deleted: return Deleted(deleted=True, job_id=job_id)
async def waits() -> Deleted: return typed("")
def untyped() -> dict[str, Any]: return {}
"""


@pytest.mark.parametrize(
    ("body", "is_typed"),
    [
        ("json_response(200, Deleted(deleted=True, job_id=''))", True),
        ("json_response(200, typed(''))", True),
        ("json_response(200, await waits())", True),
        ("value: Deleted = {'deleted': True, 'job_id': ''}; json_response(200, value)", True),
        ("value = typed(''); json_response(200, value)", True),
        ("json_response(200, {'deleted': True})", False),
        ("json_response(200, {**typed(''), 'more': 1})", False),
        ("json_response(200, dict(typed('')))", False),
        ("json_response(200, untyped())", False),
        ("value = {'deleted': True}; json_response(200, value)", False),
        ("value: dict[str, Any] = {}; json_response(200, value)", False),
        ("value = typed(''); value = untyped(); json_response(200, value)", False),
    ],
)
def test_a_value_without_a_type_is_found(body: str, is_typed: bool) -> None:
    text = f"{_HEAD}\nasync def handler() -> None: {body}\n"
    module = ModuleType("handlers")
    exec(compile(text, "handlers", "exec"), vars(module))  # noqa: S102
    (call,) = _calls_in(module, ast.parse(text))
    assert (_shape(call) is not None) == is_typed


def test_values_that_are_cast_have_the_members_of_their_types() -> None:
    assert list(StateCounts.__annotations__) == [state.value for state in State]
    assert list(ShownDefaults.__annotations__) == list(queue_defaults.MEMBERS)
    assert queue_defaults.QueueDefaults.__struct_fields__ == queue_defaults.MEMBERS
