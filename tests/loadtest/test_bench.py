"""The benchmarks run and print their tables. These tests do not judge the measurements."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from loadtest.bench import (
    batch,
    latency,
    lowered_default,
    many_queues,
    memory,
    options,
    push,
    redis_client,
    request_parts,
    retention,
    scrapes,
    ui,
    workers,
)
from ojs_cluster.store.ground.process_state import partitions


def table(out: str) -> dict[str, list[str]]:
    """Return the rows of all tables, by their first cell."""
    lines = [line.strip("| ").split("|") for line in out.splitlines() if line.startswith("|")]
    return {first.strip(): [cell.strip() for cell in rest] for first, *rest in lines}


def printed(
    main: Callable[[], None],
    options: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> dict[str, list[str]]:
    monkeypatch.setattr(sys, "argv", ["bench", *options.split()])
    main()
    return table(capsys.readouterr().out)


def test_a_job_takes_less_memory_with_the_setting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--jobs 500 --rounds 1 --per-round 16"
    found = printed(memory.main, options, monkeypatch, capsys)
    by_default, small = (found[f"hash-max-listpack-value {value}"] for value in ("64", "1024"))
    assert all(int(less) < int(more) for less, more in zip(small, by_default, strict=True))
    assert {str(size) for size in memory.SIZES} <= found.keys()


def test_every_subscriber_reads_every_event(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("OJS_PUSH_SUBSCRIBERS", "OJS_PUSH_SUBSCRIBERS_PER_CLIENT"):
        monkeypatch.setenv(name, "100")  # the benchmark sets what is not set
    arguments = "--jobs 5 --rounds 1 --subscribers 1 3"
    found = printed(push.main, arguments, monkeypatch, capsys)
    assert {"0", "1", "3"} <= found.keys()


def test_batches_and_single_jobs_go_all_the_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = printed(batch.main, "--jobs 400 --rounds 1", monkeypatch, capsys)
    assert {*batch.VERBS, "all three"} <= found.keys()


def test_an_open_loop_is_sent_to_its_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = printed(latency.main, "--seconds 0.2 --rounds 1", monkeypatch, capsys)
    assert {"30%", "60%", "90%"} <= found.keys()


def test_a_lowered_default_closes_unless_too_many_queues_use_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(partitions, "MAX_SEPARATED", 20)
    arguments = "--queues 150 --few 20"
    found = printed(lowered_default.main, arguments, monkeypatch, capsys)
    opened = lowered_default.HEADS.index("open") - 1
    assert (found["20 in use"][opened], found["all in use"][opened]) == ("1", "4")


def test_workers_of_many_queues_fetch_wait_and_idle(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = "--queues 1 5 --rounds 1 --calls 5 --jobs 5 --waiters 2 --idle 3 --seconds 0.2"
    found = printed(many_queues.main, arguments, monkeypatch, capsys)
    assert {"empty, API", "fetch, Redis", "waited, API", "3 idle long polls"} <= found.keys()


def test_jobs_of_all_options_go_all_the_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = printed(options.main, "--jobs 3 --rounds 1", monkeypatch, capsys)
    assert {"Redis", "API", *options.KINDS} <= found.keys()


def test_the_parts_of_a_request_are_sampled_beside_the_smallest_loop(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = printed(request_parts.main, "--seconds 1 --rounds 2", monkeypatch, capsys)
    assert {"empty", "smallest loop", "standalone", "body to command"} <= found.keys()


def test_scrapes_name_all_queues(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OJS_METRICS_QUEUES", "50")  # the benchmark sets what is not set
    found = printed(scrapes.main, "--queues 1 50 --scrapes 1", monkeypatch, capsys)
    assert int(found["1"][0]) < int(found["50"][0])


def test_retention_removes_jobs_in_both_ways(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = printed(retention.main, "--jobs 400 --rounds 1", monkeypatch, capsys)
    assert retention.WAYS.keys() <= found.keys()


def test_workers_run_with_every_concurrency_on_both_loops(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = printed(workers.main, "--jobs 40 --rounds 1", monkeypatch, capsys)
    names = {f"{loop}, {count}" for loop in workers.LOOPS for count in workers.CONCURRENCIES}
    names |= {f"asyncio, 1, prefetch {count}" for count in workers.PREFETCHES}
    assert names <= found.keys()


def test_the_redis_clients_table_ends_with_whether_its_share_was_kept(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def contender(name: str, cpu_us: float) -> redis_client.Contender:
        return redis_client.Contender(name, redis_client.ours, 1.0, [cpu_us], [1000.0])

    for coredis_us, ending in ((80.0, "0.125, reached"), (79.0, "0.127, not reached")):
        redis_client.report([contender("ours", 10.0), contender("coredis", coredis_us)])
        out = capsys.readouterr().out
        assert out.rstrip().endswith(ending)
        assert table(out)["coredis"][2] == f"{coredis_us / 10:.1f}"


def test_every_page_of_the_dashboard_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ui, "EXPIRED_S", 0)
    options = "--jobs 2000 --queues 20 --rounds 1 --seconds 0.5"
    found = printed(ui.main, options, monkeypatch, capsys)
    assert found.keys() >= ui.pages("").keys()
    assert all(len(found[name]) == 4 for name in ui.pages(""))
