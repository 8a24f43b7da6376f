"""`ojs-cluster serve` and `scheduler` as an operator meets them."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from ojs_cluster.server.embedded.servers import Embedded
from tests.server.programs import Program, free_port, get, program
from tests.support.servers import own_server, wait_until

CLI = ("-m", "ojs_cluster.cli")
OPEN = {"OJS_ALLOW_INSECURE_NO_AUTH": "true", "OJS_HOST": "127.0.0.1", "OJS_WORKERS": "1"}


@contextlib.contextmanager
def serve(redis_url: str, **env: str) -> Iterator[tuple[Program, int]]:
    port = free_port()
    variables = {**OPEN, "REDIS_URL": redis_url, "OJS_PORT": str(port), **env}
    with program([*CLI, "serve"], env=variables) as running:
        yield running, port


def test_serve_without_a_key_refuses_and_names_both_variables() -> None:
    with program([*CLI, "serve"]) as running:
        assert running.wait_exit() == 2
        assert "OJS_API_KEY" in running.output
        assert "OJS_ALLOW_INSECURE_NO_AUTH" in running.output


def test_every_wrong_value_is_told_at_once_with_exit_code_2() -> None:
    env = {"OJS_PORT": "x", "OJS_SHARDS": "0", "OJS_IDLE_TIMEOUT": "5"}
    with program([*CLI, "serve"], env=env) as running:
        assert running.wait_exit() == 2
        for name in env:
            assert name in running.output
        assert "Traceback" not in running.output


def test_options_win_over_variables_and_are_checked_alike() -> None:
    with program([*CLI, "serve", "--port", "none"], env={"OJS_PORT": "9000"}) as running:
        assert running.wait_exit() == 2
        assert "OJS_PORT='none'" in running.output


def test_config_lists_every_variable_and_hides_secrets() -> None:
    with program([*CLI, "config"], env={"OJS_API_KEY": "hidden-key-1"}) as running:
        assert running.wait_exit() == 0
        assert "OJS_RETENTION_COMPLETED" in running.output
        assert "hidden-key-1" not in running.output


def test_taken_port_is_said_plainly(standalone: Embedded) -> None:
    with serve(standalone.url) as (first, port):
        first.wait_line("ready to serve")
        env = {**OPEN, "REDIS_URL": standalone.url, "OJS_PORT": str(port)}
        with program([*CLI, "serve"], env=env) as second:
            assert second.wait_exit() == 1
            assert f"cannot listen on 127.0.0.1 port {port}" in second.output


def test_other_shard_count_stops_the_command_with_code_2(standalone: Embedded) -> None:
    with serve(standalone.url) as (first, _):
        first.wait_line("ready to serve")
    with serve(standalone.url, OJS_SHARDS="8") as (second, _):
        assert second.wait_exit() == 2
        assert "OJS_SHARDS=64" in second.output
    env = {"REDIS_URL": standalone.url, "OJS_SHARDS": "8"}
    with program([*CLI, "scheduler"], env=env) as third:
        assert third.wait_exit() == 2
        assert "OJS_SHARDS=64" in third.output


def test_eviction_policy_is_refused_unless_allowed(tmp_path: Path) -> None:
    config = {"maxmemory-policy": "allkeys-lru"}
    with own_server(tmp_path, cluster=False, config=config) as embedded:
        with serve(embedded.url) as (running, _):
            assert running.wait_exit() == 2
            assert "allkeys-lru" in running.output
        with serve(embedded.url, OJS_ALLOW_EVICTION="true") as (running, port):
            running.wait_line("ready to serve")
            assert get(port, "/ready").status_code == 200
            shown = get(port, "/ojs/v1/admin/config").json()["items"]
            variables = {variable["name"]: variable for variable in shown}
            eviction = variables["OJS_ALLOW_EVICTION"]
            assert (eviction["value"], eviction["set"], eviction["default"]) == (
                "true",
                True,
                "false",
            )
            assert variables["OJS_PORT"]["value"] == str(port)
            assert (variables["REDIS_URL"]["value"], variables["REDIS_URL"]["hidden"]) == (
                None,
                True,
            )


def test_lives_without_redis_and_works_as_soon_as_it_is_there(tmp_path: Path) -> None:
    with own_server(tmp_path, cluster=False, append_only=True) as embedded:
        (node,) = embedded.nodes
        embedded.kill(node)
        with serve(embedded.url, OJS_REDIS_CALL_TIMEOUT="500ms") as (_, port):
            wait_until(lambda: answers(port), what="the port is open")
            assert get(port, "/health").status_code == 200
            assert get(port, "/ready").status_code == 503
            refused = httpx.post(
                f"http://127.0.0.1:{port}/ojs/v1/jobs", json={"type": "a.b"}, timeout=60
            )
            assert refused.status_code == 503
            assert refused.headers["retry-after"]
            embedded.restart(node)
            wait_until(lambda: get(port, "/ready").status_code == 200, what="it became ready")


def answers(port: int) -> bool:
    try:
        get(port, "/health")
    except httpx.TransportError:
        return False
    return True


def test_a_refused_password_is_said_and_tried_again_until_it_is_right(tmp_path: Path) -> None:
    with own_server(tmp_path, cluster=False) as embedded:
        (node,) = embedded.nodes
        with node.client() as admin:
            admin.config_set("requirepass", "the-old-one")
            url = embedded.url.replace("redis://", "redis://:the-new-one@")
            with serve(url) as (running, port):
                refused = running.wait_line("Redis cannot be used yet")
                assert "WRONGPASS" in refused
                wait_until(lambda: answers(port), what="the port is open")
                assert get(port, "/live").status_code == 200
                assert get(port, "/ready").status_code == 503
                admin.config_set("requirepass", "the-new-one")
                wait_until(lambda: get(port, "/ready").status_code == 200, what="it became ready")
                assert "starting it again" not in running.output
                assert "the-new-one" not in running.output


def test_a_server_that_is_full_for_a_while_ends_no_process(tmp_path: Path) -> None:
    with own_server(tmp_path, cluster=False) as embedded:
        (node,) = embedded.nodes
        url = embedded.url.replace("redis://", "redis://:secret-pw@")
        with node.client() as admin:
            admin.config_set("requirepass", "secret-pw")
            admin.config_set("maxclients", 1)
            with serve(url, OJS_REDIS_CALL_TIMEOUT="500ms") as (running, port):
                running.wait_line("Redis cannot be used yet")
                wait_until(lambda: answers(port), what="the port is open")
                assert get(port, "/live").status_code == 200
                admin.config_set("maxclients", 1000)
                wait_until(lambda: get(port, "/ready").status_code == 200, what="it became ready")
                assert "starting it again" not in running.output


def test_database_number_on_a_cluster_stops_the_command_with_code_2(cluster: Embedded) -> None:
    url = f"redis://{cluster.nodes[0].address}/2"
    with serve(url) as (running, _):
        assert running.wait_exit() == 2
        assert "database 2" in running.output
        assert "Traceback" not in running.output
    for command in ("scheduler", "export"):
        with program([*CLI, command], env={"REDIS_URL": url}) as running:
            assert running.wait_exit() == 2
            assert "database 2" in running.output
            assert "Traceback" not in running.output


def test_process_that_waits_for_redis_stops_at_once(tmp_path: Path) -> None:
    with serve("redis://127.0.0.1:1", OJS_SHUTDOWN_TIMEOUT="300s") as (running, port):
        wait_until(lambda: answers(port), what="the port is open")
        running.signal(signal.SIGTERM)
        assert running.wait_exit() == 0
    env = {"REDIS_URL": "redis://127.0.0.1:1", "OJS_REDIS_CALL_TIMEOUT": "300ms"}
    with program([*CLI, "scheduler"], env=env) as running:
        running.wait_line("Redis cannot be used yet")
        running.signal(signal.SIGTERM)
        assert running.wait_exit() == 0


def test_drain_turns_readiness_off_and_ends_long_polls(standalone: Embedded) -> None:
    with serve(standalone.url, OJS_SHUTDOWN_DELAY="600s") as (running, port):
        running.wait_line("ready to serve")
        running.signal(signal.SIGTERM)
        wait_until(lambda: get(port, "/ready").status_code == 503, what="readiness is off")
        answer = httpx.post(
            f"http://127.0.0.1:{port}/ojs/v1/workers/fetch",
            json={"queues": ["default"], "worker_id": "w", "wait_ms": 20_000},
            timeout=60,
        )
        assert answer.json()["jobs"] == []
        assert answer.headers["connection"] == "close"
        running.signal(signal.SIGTERM)  # do not wait for the rest of the delay
        assert running.wait_exit() == 0


def test_long_poll_that_began_before_the_drain_is_told_to_close(standalone: Embedded) -> None:
    with serve(standalone.url) as (running, port), ThreadPoolExecutor(1) as pool:
        running.wait_line("ready to serve")
        poll = pool.submit(
            httpx.post,
            f"http://127.0.0.1:{port}/ojs/v1/workers/fetch",
            json={"queues": ["default"], "worker_id": "patient", "wait_ms": 20_000},
            timeout=60,
        )
        wait_until(lambda: "patient" in get(port, "/ojs/v1/workers").text, what="the poll waits")
        running.signal(signal.SIGTERM)

        assert poll.result(60).headers["connection"] == "close"
        assert running.wait_exit() == 0


def test_log_is_json_and_says_what_is_unusual(standalone: Embedded) -> None:
    with serve(standalone.url, OJS_TEST_HOOKS="true") as (running, _):
        running.wait_line("ready to serve")
        running.signal(signal.SIGTERM)
        assert running.wait_exit() == 0
        lines = [json.loads(line) for line in running.output.splitlines()]
    messages = " ".join(line["msg"] for line in lines)
    for what in ("WITHOUT AUTHENTICATION", "OJS_TEST_HOOKS"):
        assert messages.count(what) == 1


def led(scheduler: Program) -> int:
    """How many shards a scheduler said last that it leads."""
    lines = (json.loads(line) for line in scheduler.output.splitlines())
    said = [line["shards"] for line in lines if line["msg"] == "leading"]
    return said[-1] if said else 0


def test_scheduler_stops_at_sigterm_and_hands_its_shards_over(standalone: Embedded) -> None:
    env = {"REDIS_URL": standalone.url}
    with (
        program([*CLI, "scheduler"], env=env) as first,
        program([*CLI, "scheduler"], env=env) as second,
    ):
        wait_until(lambda: {led(first), led(second)} == {32, 33}, what="they share the shards")
        first.signal(signal.SIGTERM)
        assert first.wait_exit() == 0
        wait_until(lambda: led(second) == 65, what="the other leads all")
