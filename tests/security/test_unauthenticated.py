"""Requests without a key cost the server little."""

from __future__ import annotations

import trio

from ojs_cluster.server.embedded.servers import Embedded
from tests.http.api import Api, open_app

PROBES = ("/ready", "/health", "/ojs/v1/health")


def _commands(server: Embedded) -> int:
    with server.nodes[0].client() as client:
        found: int = client.info("stats")["total_commands_processed"]
        return found


async def test_a_flood_of_probes_causes_few_calls_of_redis(standalone: Embedded) -> None:
    async with open_app(standalone, api_keys=("a-key",)) as app:
        api = Api(app)
        before = _commands(standalone)
        began = trio.current_time()
        answers = [(await api.get(probe)).status for _ in range(300) for probe in PROBES]
        asked_at_most = 2 + int((trio.current_time() - began) / 0.25)
        # A check is three commands at most; the two looks of this test are a few more.
        assert _commands(standalone) - before <= 3 * asked_at_most + 20
        assert answers == [200] * 900


async def test_probes_wait_together_for_a_redis_that_hangs(standalone: Embedded) -> None:
    """Two hundred probes take as long as one, because they share one check."""
    async with open_app(standalone, api_keys=("a-key",), health_timeout_s=1.0) as app:
        api = Api(app)
        standalone.pause(standalone.nodes[0])
        statuses: list[int] = []

        async def probe() -> None:
            statuses.append((await api.get("/ready")).status)

        try:
            with trio.fail_after(60):
                async with trio.open_nursery() as nursery:
                    for _ in range(200):
                        nursery.start_soon(probe)
        finally:
            standalone.resume(standalone.nodes[0])
        assert statuses == [503] * 200


async def test_probes_show_a_recovered_redis_at_once(standalone: Embedded) -> None:
    async with open_app(standalone, health_timeout_s=0.5) as app:
        api = Api(app)
        standalone.pause(standalone.nodes[0])
        try:
            await _until(api, 503)
        finally:
            standalone.resume(standalone.nodes[0])
        await _until(api, 200)


async def _until(api: Api, status: int) -> None:
    with trio.fail_after(60):
        while (await api.get("/ready")).status != status:  # noqa: ASYNC110 - nothing tells of it
            await trio.sleep(0.05)
