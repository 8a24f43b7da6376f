"""Find the route of a raw path.

The path is split at "/" first, and each segment is percent-decoded afterwards. So a name with an
encoded slash remains one segment. (Frameworks decode first, and misroute a name with ``%2F``.)

Only parameters are decoded. A fixed segment matches its plain spelling only: a proxy that blocks
``/ojs/v1/admin/`` compares bytes, and ``/ojs/v1/%61dmin/`` must not bypass it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from typing import Any, Final
from urllib.parse import unquote

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.core.errors import InvalidRequest, MethodNotAllowed, NotFound
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.routing.described import Parameter

# A handler is called with the app, the request and the path parameters. A type cannot express that
# the number of path parameters differs. So a test compares each template with its handler's
# signature.
Handler = Callable[..., Awaitable[Response]]

V1: Final = "/ojs/v1"
"""The prefix of the paths of the API."""
_SHOWN_PATH = 200  # characters of an unknown path that the error repeats


class QueueAccess(Enum):
    """What a route accesses, which decides how the queue patterns of an API key are enforced."""

    CLUSTER = "cluster"
    """All queues: a request whose API key is restricted to some queues gets 403."""
    NONE = "none"
    """No queue and no job: the queue patterns of an API key do not matter."""
    QUEUE = "queue"
    """The queue in the path."""
    JOB = "job"
    """The job in the path."""
    CRON = "cron"
    """The cron job in the path."""
    WORKFLOW = "workflow"
    """The workflow in the path, with all its jobs."""
    HANDLER = "handler"
    """The queues or jobs that the handler finds: it must check ``Request.queues`` itself."""


class TenantAccess(Enum):
    """How a route treats a request for one tenant."""

    REFUSED = "refused"
    """The route is about all tenants: the request gets 403."""
    NONE = "none"
    """No data of tenants: the tenant of a request does not matter."""
    PATH = "path"
    """The job, cron job or workflow in the path: that of another tenant gets 404."""
    HANDLER = "handler"
    """The handler checks ``Request.tenant``."""


_TENANT_ACCESS: Final = {
    QueueAccess.CLUSTER: TenantAccess.REFUSED,
    QueueAccess.JOB: TenantAccess.PATH,
    QueueAccess.CRON: TenantAccess.PATH,
    QueueAccess.WORKFLOW: TenantAccess.PATH,
}
"""How routes treat tenants that do not declare it. All other routes have to declare it."""


@dataclass(frozen=True, slots=True)
class Access:
    """Who may use a route.

    Attributes:
        scope: the scope that an API key must have; None if any API key may use the route.
        queues: what the route accesses, for API keys that are restricted to some queues.
        tenants: how the route treats a request for one tenant; None if it follows from ``queues``.
        open: whether the route needs no API key.
    """

    scope: Scope | None = None
    queues: QueueAccess = QueueAccess.CLUSTER
    tenants: TenantAccess | None = None
    open: bool = False


NO_DATA: Final = Access(queues=QueueAccess.NONE, tenants=TenantAccess.NONE)
"""Any API key, whatever its queues and its tenant, for what shows no data."""


@dataclass(frozen=True, slots=True)
class Route:
    """One row of a table of routes, from which the router, the document and docs/api.md derive.

    The summary in the document is the first paragraph of the handler's docstring. A paragraph such
    as "(spec: ojs-core 5)" of it is the section of the specification.

    Attributes:
        path: method and path; braces mark parameters, as in ``GET /ojs/v1/jobs/{id}``.
        handler: the handler.
        access: who may use it.
        answers: the successful responses by status. A type stands for ``Answer`` with this shape.
        body: the type of a body that every request must have; None if there is none.
        optional_body: the type of a body that a request may leave out.
        parameters: parameters of the query and the headers.
        errors: the statuses of errors that not every route may return
            (``openapi.responses.EVERYWHERE``), such as 409.
        batch: whether the body may be as large as ``BodyLimits.max_batch_bytes``.
        waits_for_jobs: whether the route is a fetch, which may wait for jobs. If the client of a
            fetch or of a GET request disconnects, the handler is cancelled.
        is_scrape: whether the route is the scrape of metrics, which needs no API key if
            ``HttpSettings.metrics_open`` is set.
        test_hook: whether the route exists only with test hooks.
        fast: whether the fast lane serves the route. It serves those that workers and producers use
            most.
        request_class: the class of requests that maintenance mode may refuse
            (``store/features/maintenance``); empty for a request that it never refuses.
        action: the name of an administrative change in the audit; empty if there is none. Responses
            with ``audited=False`` are not recorded.
        aliases: further methods and paths, of which ``table`` makes routes.
        method: the method of ``path``.
        template: the path without the method.
        scope: that of ``access``, as the next two.
        queue_access: what the route accesses.
        open: whether the route needs no API key.
        query_names: the names of the parameters in the query.
    """

    path: str
    handler: Handler
    access: Access = Access()
    answers: Mapping[int, Any] = field(default_factory=dict)
    body: Any = None
    optional_body: Any = None
    parameters: tuple[Parameter, ...] = ()
    errors: tuple[int, ...] = ()
    batch: bool = False
    waits_for_jobs: bool = False
    is_scrape: bool = False
    test_hook: bool = False
    fast: bool = False
    request_class: str = ""
    action: str = ""
    aliases: tuple[str, ...] = ()
    method: str = field(init=False)
    template: str = field(init=False)
    scope: Scope | None = field(init=False)
    queue_access: QueueAccess = field(init=False)
    open: bool = field(init=False)
    query_names: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        method, _, template = self.path.partition(" ")
        access = self.access
        query_names = frozenset(p.name for p in self.parameters if p.location == "query")
        # Fields, because properties would cost every request.
        for name, value in (
            *(("method", method), ("template", template), ("scope", access.scope)),
            *(("queue_access", access.queues), ("open", access.open)),
            ("query_names", query_names),
        ):
            object.__setattr__(self, name, value)

    @property
    def access_of_tenants(self) -> TenantAccess:
        """How the route treats a request for one tenant. A route without a decision refuses it."""
        return self.access.tenants or _TENANT_ACCESS.get(self.queue_access, TenantAccess.REFUSED)


def table(*routes: Route) -> tuple[Route, ...]:
    """Return routes, and one more for each of their aliases."""
    return tuple(
        replace(route, path=path, aliases=())
        for route in routes
        for path in (route.path, *route.aliases)
    )


@dataclass(slots=True)
class _Node:
    fixed: dict[str, _Node] = field(default_factory=dict)
    parameter: _Node | None = None
    routes: dict[str, Route] = field(default_factory=dict)


class HttpRouter:
    """Finds routes by path. A fixed segment has priority over a parameter.

    The search never goes back: once a fixed segment matches, the parameter beside it is not tried.
    """

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
            node.routes["OPTIONS"] = Route(
                f"OPTIONS {route.template}", partial(_options, node), NO_DATA
            )
        if route.open:
            access = replace(NO_DATA, open=True)
            node.routes["OPTIONS"] = replace(node.routes["OPTIONS"], access=access)

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
        """Return the route for ``method`` on the raw ``path``, and its decoded parameters.

        The GET route of a path also serves HEAD. Every path that exists has OPTIONS.

        Raises:
            NotFound: no route has this path.
            MethodNotAllowed: a route has this path, but none has ``method``. ``details.allowed``
                lists the methods of the path.
            InvalidRequest: a segment does not decode to UTF-8.
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
            assert node is not None  # noqa: S101 - for mypy: an unknown segment raises NotFound
            child = node.fixed.get(raw)
            if child is None:
                segment = _decode(raw) if "%" in raw else raw
                child = node.parameter
                # An escaped fixed segment must not match as a parameter: ``bulk`` beside ``{id}``.
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
