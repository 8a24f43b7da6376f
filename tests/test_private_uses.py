"""One file per library uses what it does not document, so an upgrade has one file to check.

trio changes its private modules in any release. Of hypercorn only the configuration, the types and
``serve`` are documented. h2 and quart are held to their public names in the same way.
"""

from __future__ import annotations

import ast
import itertools
import re
from pathlib import Path

import pytest
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext

import ojs_cluster.server.http.http_server  # noqa: F401 - imports all subclasses
from tests.test_layers import imports_of, modules, name_of

LIBRARIES = {"trio", "hypercorn", "h2", "quart", "quart_trio"}
DOCUMENTED_OF_HYPERCORN = ("hypercorn.config", "hypercorn.typing", "hypercorn.trio.serve")
USERS = {
    "trio": "ojs_cluster.redis.trio_internals",
    "hypercorn": "ojs_cluster.server.http.hypercorn_internals",
    "h2": "ojs_cluster.server.http.body_lengths",
}
"""The module that may use what the library does not document."""
OF_PYTHON = {"_exit", "_replace"}
"""``os._exit`` and the method of named tuples are documented."""


def is_private(name: str) -> bool:
    """Return whether an imported name belongs to a library that does not document it."""
    library = name.split(".")[0]
    if library == "hypercorn" and not name.startswith(DOCUMENTED_OF_HYPERCORN):
        return True
    return library in LIBRARIES and "._" in name


def foreign_private_names(tree: ast.AST) -> list[str]:
    """Return the private attributes that a module uses, and neither it nor its own bases define."""
    own, used = set[str](), set[str]()
    inherits = inherits_from_libraries(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            own.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own.add(node.id)
        elif isinstance(node, ast.Attribute):
            on_self = isinstance(node.value, ast.Name) and node.value.id == "self"
            if on_self and isinstance(node.ctx, ast.Store):
                own.add(node.attr)
            elif on_self and not inherits:
                continue
            elif node.attr.startswith("_") and not node.attr.endswith("__"):
                used.add(node.attr)
    return sorted(used - own - OF_PYTHON)


def inherits_from_libraries(tree: ast.AST) -> bool:
    """Return whether a class of a module has a base that one of the libraries defines."""
    nodes = list(ast.walk(tree))
    bases = {
        name.id
        for node in nodes
        if isinstance(node, ast.ClassDef)
        for base in node.bases
        for name in ast.walk(base)
        if isinstance(name, ast.Name)
    }
    return any(
        (alias.asname or alias.name).split(".")[0] in bases
        for node in nodes
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
        if (getattr(node, "module", None) or alias.name).split(".")[0] in LIBRARIES
    )


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_only_one_module_per_library_uses_what_is_not_documented(path: Path) -> None:
    name, imports = name_of(path), imports_of(path)
    allowed = {library for library, user in USERS.items() if user == name}
    private = {each for each in imports if is_private(each)}
    assert {each for each in private if each.split(".")[0] not in allowed} == set()
    if not allowed and any(each.split(".")[0] in LIBRARIES for each in imports):
        assert foreign_private_names(ast.parse(path.read_text())) == []


@pytest.mark.parametrize("base", [H2Protocol, TCPServer, WorkerContext])
def test_only_that_module_overrides_private_methods_of_hypercorn(base: type) -> None:
    private = {name for name in dir(base) if re.match("_[a-z]", name)}
    overriding = [
        each
        for each in subclasses(base)
        if private & vars(each).keys() and each.__module__.startswith("ojs_cluster.")
    ]
    assert {each.__module__ for each in overriding} <= {USERS["hypercorn"]}


def subclasses(base: type) -> list[type]:
    direct: list[type] = base.__subclasses__()
    return [*direct, *itertools.chain.from_iterable(map(subclasses, direct))]
