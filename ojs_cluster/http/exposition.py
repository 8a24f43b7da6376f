"""Answer scrapes in the formats that Prometheus reads (docs/metrics.md lists the metrics)."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Final

import trio
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    Metric,
)

from ojs_cluster.core.errors import BackendUnavailable, OJSError
from ojs_cluster.http.messages import Request, Response, accepts_gzip
from ojs_cluster.http.metric_families import (
    Families,
    Problems,
    Tenants,
    problem_families,
    queue_families,
    status_families,
    store_families,
    tenant_families,
)
from ojs_cluster.redis.driven_coroutines import ensure_task
from ojs_cluster.redis.errors import MalformedKey
from ojs_cluster.store.context import Store
from ojs_cluster.store.ground.cached import Cached
from ojs_cluster.store.operators.dashboard.problem_records import count_problems
from ojs_cluster.store.operators.operations.metrics import (
    CACHED_S,
    PATIENCE_S,
    CachedMetrics,
    ClusterMetrics,
)

_NO_TENANTS: Final[Tenants] = {}

_MAX_TEXTS: Final = 4
"""Maximum number of texts of the same numbers that a process keeps."""
_MIN_COMPRESSED: Final = 16_384
"""Size in bytes from which a response is compressed: a scrape of few queues is not worth it."""
_EOF: Final = b"# EOF\n"
"""The last line of the OpenMetrics format."""


class _Collector:
    """A prometheus_client collector that returns the given metric families."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


async def exposition(
    request: Request, families: Families, cluster: ClusterExposition | None = None
) -> Response:
    """Return the response to a scrape, in a format that its client accepts.

    Args:
        request: the request.
        families: the metrics of the process.
        cluster: the metrics of the cluster, which follow; None for none.
    """
    accept = request.headers.get("accept", "")
    try:
        encode, content_type = choose_encoder(accept)
    except TypeError:  # prometheus_client cannot compare an invalid version
        encode, content_type = choose_encoder("")
    more = b""
    if cluster is not None:
        status, more = await cluster.read(encode, content_type)
        families = [*status, *families]
    if accept.strip().lower() == "text/plain":
        # A conformance suite asks for exactly this type and compares it (ext-observability).
        content_type = "text/plain"
    headers = [("Content-Type", content_type), ("Cache-Control", "no-store")]
    text = _encoded(encode, families)
    body = text.removesuffix(_EOF) + more if more else text
    headers.append(("Vary", "Accept-Encoding"))
    if len(body) >= _MIN_COMPRESSED and accepts_gzip(request.headers.get("accept-encoding", "")):
        await ensure_task()
        body = await trio.to_thread.run_sync(partial(gzip.compress, body, 1, mtime=0))
        headers.append(("Content-Encoding", "gzip"))
    return Response(200, body, tuple(headers))


def _encoded(encode: Callable[[CollectorRegistry], bytes], families: Families) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(families))
    return encode(registry)


class ClusterExposition:
    """The metrics of the cluster as text.

    The text of some thousand queues takes a quarter of a second. So a thread builds it, once for
    each format and each read of the numbers.

    Args:
        store: the store.
        cached: the numbers.
        timeout_s: maximum time in seconds to wait for Redis.
    """

    def __init__(self, store: Store, cached: CachedMetrics, timeout_s: float) -> None:
        self._store = store
        self._cached = cached
        self._timeout_s = timeout_s
        self._problems = Cached(lambda: _read_problems(store), lambda _value, _took_s: CACHED_S)
        self._building = trio.Lock()
        self._numbers: ClusterMetrics | None = None
        self._tenants: Tenants = _NO_TENANTS
        self._texts: dict[str, bytes] = {}
        """The texts of these numbers by their type."""

    async def read(
        self, encode: Callable[[CollectorRegistry], bytes], content_type: str
    ) -> tuple[Families, bytes]:
        """Return metrics about the connection to Redis, and the text of those in Redis.

        If Redis does not respond in time, ``ojs_redis_up`` is 0, and the text is empty.

        Args:
            encode: encodes the metrics.
            content_type: the type of the result of ``encode``.

        Raises:
            MalformedKey: another program has written a key of this server.
        """
        numbers: ClusterMetrics | None = None
        tenants = _NO_TENANTS
        problems: Problems | None = None
        await ensure_task()
        with trio.move_on_after(self._timeout_s):
            try:
                numbers = await self._cached.get()
                problems = await self._problems.get()
                if not numbers.unreachable:
                    tenants = await self._cached.tenants.get()
            except MalformedKey:
                raise
            except OJSError:
                numbers = None
        status = status_families(self._store, is_up=numbers is not None)
        if numbers is None:
            return status, b""
        status += problem_families(problems)
        async with self._building:
            if numbers is not self._numbers or tenants is not self._tenants:
                self._numbers, self._tenants, self._texts = numbers, tenants, {}
            text = self._texts.get(content_type)
            if text is None:
                if len(self._texts) >= _MAX_TEXTS:  # clients choose a part of the type
                    self._texts.clear()
                build = partial(_encoded_numbers, encode, numbers, tenants)
                text = self._texts[content_type] = await trio.to_thread.run_sync(build)
        return status, text


async def _read_problems(store: Store) -> Problems | None:
    """Return the numbers of problems; None while the master of the meta tag does not answer."""
    with trio.move_on_after(PATIENCE_S), suppress(BackendUnavailable):
        return await count_problems(store)
    return None


def _encoded_numbers(
    encode: Callable[[CollectorRegistry], bytes],
    numbers: ClusterMetrics,
    tenants: Tenants,
) -> bytes:
    families = [*queue_families(numbers), *tenant_families(tenants), *store_families(numbers)]
    return _encoded(encode, families)
