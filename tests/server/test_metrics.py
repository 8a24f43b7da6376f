"""Metrics and probes of real processes."""

from __future__ import annotations

from collections.abc import Mapping

import httpx
from prometheus_client.parser import text_string_to_metric_families as parse

from ojs_cluster.server.embedded.servers import Embedded
from tests.server.programs import free_port, get, program
from tests.server.test_serve import CLI, OPEN, serve
from tests.support.servers import wait_until

KEY = "k" * 32


def sample(
    port: int, name: str, labels: Mapping[str, str] | None = None, *, key: str = ""
) -> float:
    """The sum of a metric's samples with these labels."""
    headers = {"authorization": f"Bearer {key}"} if key else None
    reply = httpx.get(f"http://127.0.0.1:{port}/metrics", headers=headers, timeout=60)
    assert reply.status_code == 200
    return sum(
        sample.value
        for family in parse(reply.text)
        for sample in family.samples
        if sample.name == name and (labels or {}).items() <= sample.labels.items()
    )


def test_whichever_process_is_asked_tells_of_all_on_its_node(standalone: Embedded) -> None:
    with serve(standalone.url, OJS_WORKERS="3") as (running, port):
        running.wait_line("ready to serve")
        for _ in range(30):
            assert get(port, "/ojs/v1/queues").status_code == 200  # each by a connection of its own
        asked = {"route": "/ojs/v1/queues", "status": "2xx"}
        for _ in range(10):
            assert sample(port, "ojs_http_requests_total", asked) == 30


def test_a_scheduler_answers_probes_and_scrapes_with_the_key(standalone: Embedded) -> None:
    port = free_port()
    env = {
        "OJS_HOST": "127.0.0.1",
        "OJS_SCHEDULER_PORT": str(port),
        "OJS_API_KEY": KEY,
        "OJS_CORS_ORIGINS": "https://ui.example.com",
        "REDIS_URL": standalone.url,
    }
    with program([*CLI, "scheduler"], env=env) as running:
        running.wait_line("scheduler started")
        origin = {"Origin": "https://ui.example.com"}
        shown = httpx.get(f"http://127.0.0.1:{port}/live", headers=origin, timeout=60)
        assert shown.headers["access-control-allow-origin"] == "https://ui.example.com"
        asked = {**origin, "Access-Control-Request-Method": "GET"}
        preflight = httpx.request("OPTIONS", shown.url.join("/metrics"), headers=asked, timeout=60)
        assert preflight.status_code == 204
        wait_until(lambda: get(port, "/ready").status_code == 200, timeout_s=60)
        assert get(port, "/health").json() == {"status": "ok"}
        assert get(port, "/live").status_code == 200
        assert (get(port, "/healthz").status_code, get(port, "/readyz").status_code) == (200, 200)
        assert get(port, "/metrics").status_code == 401
        assert get(port, "/ojs/v1/queues").status_code == 401
        running.wait_line('"action":"authenticate"')
        wait_until(lambda: sample(port, "ojs_scheduler_shards_led", key=KEY) == 65, timeout_s=60)
        wait_until(
            lambda: sample(port, "ojs_scheduler_steps_total", {"loop": "promote"}, key=KEY) > 0,
            timeout_s=60,
        )
        assert sample(port, "ojs_redis_up", key=KEY) == 1
        with program([*CLI, "scheduler"], env=env) as second:
            assert second.wait_exit() == 2
            assert f"cannot listen on 127.0.0.1 port {port}" in second.output


def test_a_scheduler_without_keys_tells_its_metrics_by_no_name_of_a_page(
    standalone: Embedded,
) -> None:
    """A page may have pointed its name at the scheduler (DNS rebinding)."""
    port = free_port()
    env = {**OPEN, "OJS_SCHEDULER_PORT": str(port), "REDIS_URL": standalone.url}

    def status(path: str, host: str) -> int:
        headers = {"Host": f"{host}:{port}"}
        return httpx.get(f"http://127.0.0.1:{port}{path}", headers=headers, timeout=60).status_code

    with program(
        [*CLI, "scheduler"], env={**env, "OJS_ALLOWED_HOSTS": "ojs.example.com"}
    ) as running:
        running.wait_line("scheduler started")
        assert status("/metrics", "page.example.com") == 403
        assert status("/other", "page.example.com") == 403
        for host in ("127.0.0.1", "localhost", "scheduler", "ojs.example.com"):
            assert status("/metrics", host) == 200, host
        assert status("/live", "page.example.com") == 200
    with program([*CLI, "scheduler"], env={**env, "OJS_METRICS_OPEN": "true"}) as running:
        running.wait_line("scheduler started")
        assert status("/metrics", "page.example.com") == 200, "as on an API process"


def test_a_scheduler_lives_and_is_not_ready_without_redis() -> None:
    port = free_port()
    env = {**OPEN, "OJS_SCHEDULER_PORT": str(port), "REDIS_URL": f"redis://127.0.0.1:{free_port()}"}
    with program([*CLI, "scheduler"], env=env) as running:
        running.wait_line("Redis cannot be used yet")
        assert get(port, "/health").status_code == 200
        assert (get(port, "/ready").status_code, get(port, "/readyz").status_code) == (503, 503)
        assert sample(port, "ojs_build_info") == 1
