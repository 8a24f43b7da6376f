"""From a raw path to a route.

The path is split at "/" first and percent-decoded segment by segment afterwards, so a name with an
encoded slash stays one segment. (Frameworks decode first; then ``%2F`` in a name routes wrongly.)
Only parameters are decoded. A fixed segment matches in its plain spelling alone: a proxy that
refuses ``/ojs/v1/admin/`` compares bytes, and must not be passed by ``/ojs/v1/%61dmin/``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from urllib.parse import unquote

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.core.errors import InvalidRequest, MethodNotAllowed, NotFound
from ojs_cluster.http.messages import Request, Response

# (app, request, *path parameters) -> Response. The arity differs from route to route, which the
# type system cannot say; a test compares each template with its handler's signature.
Handler = Callable[..., Awaitable[Response]]

_SHOWN_PATH = 200  # characters of an unknown path that are repeated in the error


class Reach(Enum):
    """What a route reaches, which decides how queue patterns of an API key are enforced."""

    CLUSTER = "cluster"
    """More than single queues: a key that is restricted to some queues is refused."""
    NOTHING = "nothing"
    """No queue and no job: every key may use it."""
    QUEUE = "queue"
    """The queue that the path names."""
    JOB = "job"
    """The job that the path names."""
    CRON = "cron"
    """The cron job that the path names."""
    WORKFLOW = "workflow"
    """The workflow that the path names, with all its jobs."""
    HANDLER = "handler"
    """What its body or its query names: the handler looks at ``Request.queues``."""


@dataclass(frozen=True, slots=True)
class Route:
    """One row of the route table.

    ``template`` marks parameters with braces: ``/ojs/v1/jobs/{id}``. ``scope`` is what a key must
    have, and ``reach`` what keys that are restricted to some queues may do. ``action`` is the name
    of a change by an administrator, as the audit shows it. ``open`` routes need no key.
    ``batch`` routes may have the larger body. ``waits`` routes are cancelled when their client
    leaves, as GET routes are. ``metrics`` routes are open when the settings say so. ``test_hook``
    routes exist only under test hooks. ``fast`` routes are those that workers and producers live
    on: the fast lane serves them.
    """

    method: str
    template: str
    handler: Handler
    scope: Scope | None = None
    reach: Reach = Reach.CLUSTER
    open: bool = False
    batch: bool = False
    waits: bool = False
    metrics: bool = False
    test_hook: bool = False
    fast: bool = False
    action: str = ""


@dataclass(slots=True)
class _Node:
    fixed: dict[str, _Node] = field(default_factory=dict)
    parameter: _Node | None = None
    routes: dict[str, Route] = field(default_factory=dict)


class Router:
    """Immutable once built. A fixed segment wins over a parameter, without backtracking."""

    def __init__(self, routes: Iterable[Route], *, test_hooks: bool = False) -> None:
        self._root = _Node()
        for route in routes:
            if test_hooks or not route.test_hook:
                self._add(route)

    def _add(self, route: Route) -> None:
        node = self._node(route.template)
        if route.method in node.routes:
            raise ValueError(f"two routes for {route.method} {route.template}")
        node.routes[route.method] = route
        if "OPTIONS" not in node.routes:
            options = partial(_options, node)
            node.routes["OPTIONS"] = Route("OPTIONS", route.template, options, reach=Reach.NOTHING)
        if route.open:
            node.routes["OPTIONS"] = replace(node.routes["OPTIONS"], open=True)

    def _node(self, template: str) -> _Node:
        node = self._root
        for segment in template.split("/")[1:]:
            if segment.startswith("{"):
                if node.parameter is None:
                    node.parameter = _Node()
                node = node.parameter
            else:
                node = node.fixed.setdefault(segment, _Node())
        return node

    def match(self, method: str, path: str) -> tuple[Route, tuple[str, ...]]:
        """The route for ``method`` on the raw ``path``, and its decoded parameters.

        HEAD is served by a path's GET route; OPTIONS is answered for every path that exists.

        Raises NotFound, MethodNotAllowed (``details.allowed`` lists the methods), or
        InvalidRequest when a segment does not decode to UTF-8.
        """
        node, params = self._find(path)
        route = node.routes.get(method)
        if route is None and method == "HEAD":
            route = node.routes.get("GET")
        if route is None:
            raise MethodNotAllowed(
                f"{method[:32]} is not allowed here", method=method[:32], allowed=_allowed(node)
            )
        return route, params

    def _find(self, path: str) -> tuple[_Node, tuple[str, ...]]:
        node: _Node | None = self._root
        params: list[str] = []
        first, *segments = path.split("/")
        if first:
            raise NotFound("endpoint", path[:_SHOWN_PATH])
        for raw in segments:
            assert node is not None  # noqa: S101 - for the type checker; the loop ends at None
            child = node.fixed.get(raw)
            if child is None:
                segment = _decode(raw) if "%" in raw else raw
                child = node.parameter
                # A fixed segment in disguise is no parameter either: ``bulk`` beside ``{id}``.
                if child is None or not segment or segment in node.fixed:
                    raise NotFound("endpoint", path[:_SHOWN_PATH])
                params.append(segment)
            node = child
        if node is None or not node.routes:
            raise NotFound("endpoint", path[:_SHOWN_PATH])
        return node, tuple(params)


def _decode(segment: str) -> str:
    try:
        return unquote(segment, errors="strict")
    except UnicodeDecodeError:
        raise InvalidRequest("the path is not valid UTF-8 after percent-decoding") from None


async def _options(node: _Node, _app: object, _request: Request, *_params: str) -> Response:
    return Response(204, b"", (("Allow", ", ".join(_allowed(node))),))


def _allowed(node: _Node) -> list[str]:
    methods = set(node.routes)
    if "GET" in methods:
        methods.add("HEAD")
    return sorted(methods)
