"""Arguments, metrics and the search for changed files."""

from __future__ import annotations

import contextlib
import os
import re
import socket
from multiprocessing import Pipe
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ojs_client import Worker
from ojs_client.worker_command import arguments, health, metrics, reloading
from ojs_client.worker_command.arguments import parse
from ojs_client.worker_command.links import can_send
from ojs_client.worker_command.metrics import Counts, Report, exposition
from ojs_client.worker_command.target import load
from tests.server.programs import free_port


def test_the_arguments_of_the_worker_are_those_that_were_given() -> None:
    given = "shop:app --processes 4 --queues a,b --concurrency 8 --grace 2m --max-jobs 1000"
    given += " --max-memory 500M --reload --health-port 9100 --log-format json --log-level debug"
    options = parse(given.split())
    assert options.worker == {"queues": ("a", "b"), "concurrency": 8, "grace": 120.0}
    assert (options.processes, options.max_jobs, options.max_memory) == (4, 1000, 500 << 20)
    assert (options.reload, options.health) == (True, ("", 9100))
    assert (options.log_format, options.log_level) == ("json", "DEBUG")
    assert parse(["shop:app"]).worker == {}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("shop", "'shop' is not module:name, such as shop.tasks:app"),
        ("shop:app --processes 0", "'0' is no number above 0"),
        ("shop:app --max-memory much", "'much' is no size such as 500M or 2G"),
        ("shop:app --queues a,,b", "'a,,b' has an empty name"),
        ("shop:app --grace soon", "soon"),
    ],
)
def test_a_mistake_in_the_arguments_is_explained(
    given: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(given.split())
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_limit_of_memory_is_refused_where_no_system_tells_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on macOS and Windows."""
    monkeypatch.setattr(arguments, "resident_bytes", lambda: None)
    with pytest.raises(SystemExit):
        parse(["shop:app", "--max-memory", "500M"])
    assert "--max-memory: it needs Linux" in capsys.readouterr().err


def new_worker(**arguments: Any) -> Worker:
    return Worker(labels=["made"], **arguments)


def test_a_target_may_be_a_function_that_returns_a_worker() -> None:
    worker = load(f"{__name__}:new_worker", {"concurrency": 3})
    assert (worker.concurrency, worker._settings.labels) == (3, ("made",))


@pytest.mark.parametrize(
    ("text", "bytes_"), [("10", 10), ("1.5k", 1536), ("500M", 500 << 20), ("2GiB", 2 << 30)]
)
def test_sizes_have_units(text: str, bytes_: int) -> None:
    assert arguments.size(text) == bytes_


def test_the_metrics_have_the_format_of_prometheus() -> None:
    first, second = Counts(), Counts()
    for run_s in (0.001, 0.005, 4000.0):
        first.add("a.b", "completed", run_s)
    second.add("a.b", "failed", 0.2)
    second.add("c", "completed", 0.2)
    first.merge(second)
    reports = {
        0: Report(second, 25.0, 3, 2, 5, 0.5, 1 << 20),
        1: Report(second, 25, 1, 0, 1, 0, None),
    }
    text = exposition(first, reports, 2, {"crash": 1})
    families = {each.name: each for each in text_string_to_metric_families(text)}
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in families.values()
        for sample in family.samples
    }
    assert samples["ojs_worker_jobs_total", "a.b", "completed"] == 3
    assert samples["ojs_worker_jobs_total", "a.b", "failed"] == 1
    name = "ojs_worker_job_duration_seconds"
    assert families[name].type == "histogram"
    assert samples[f"{name}_bucket", "a.b", "0.005"] == 2
    assert samples[f"{name}_bucket", "a.b", "0.5"] == 3
    assert samples[f"{name}_bucket", "a.b", "+Inf"] == samples[f"{name}_count", "a.b"] == 4
    assert samples[f"{name}_sum", "a.b"] == pytest.approx(4000.206)
    assert samples["ojs_worker_jobs_running", "0"] == 3
    assert samples["ojs_worker_memory_bytes", "0"] == 1 << 20
    assert ("ojs_worker_memory_bytes", "1") not in samples
    assert samples["ojs_worker_restarts_total", "crash"] == 1
    page = Path(__file__).parents[3] / "docs" / "guide" / "worker-command.md"
    documented = set(re.findall(r"^\| `(ojs_worker_\w+)`", page.read_text(), re.MULTILINE))
    assert documented == set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))


def test_types_of_jobs_without_end_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_MAX_TYPES", 2)
    counts = Counts()
    for type in ("a", "b", "c", "d", "a"):
        counts.add(type, "completed", 1.0)
    assert counts.jobs == {("a", "completed"): 2, ("b", "completed"): 1, ("other", "completed"): 2}
    others = Counts()
    for type in ("b", "e"):
        others.add(type, "completed", 1.0)
    counts.merge(others)
    assert counts.jobs == {("a", "completed"): 2, ("b", "completed"): 2, ("other", "completed"): 3}
    assert sum(map(sum, counts.buckets.values())) == sum(counts.seconds.values()) == 7


def test_the_health_port_serves_the_newest_of_a_bounded_number_of_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health, "_MAX_REQUESTS", 2)
    port = free_port()
    found = health.Health("ok", 1, 1)
    Thread(target=health.serve(("127.0.0.1", port), lambda: found, lambda: ""), daemon=True).start()
    with contextlib.ExitStack() as stack:
        idle = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 60)) for _ in range(4)
        ]
        for connection in idle[:2]:
            connection.sendall(b"GET ")
            assert connection.recv(1) == b"", "the oldest ones are ended"
        assert httpx.get(f"http://127.0.0.1:{port}/health", timeout=60).status_code == 200


@pytest.mark.skipif(os.name != "posix", reason="Windows does not suspend a program")
def test_a_suspended_supervisor_does_not_block_a_report() -> None:
    supervisor, child = Pipe()
    with supervisor, child:
        assert can_send(child)
        os.set_blocking(child.fileno(), False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(child.fileno(), bytes(4096))
        assert not can_send(child)


def test_source_files_are_found(tmp_path: Path) -> None:
    for name in ("a.py", "b/c.py", ".git/d.py", "venv/e.py", "b/f.txt", "node_modules/g.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "venv" / "pyvenv.cfg").touch()
    found = {os.path.relpath(path, tmp_path) for path in reloading.source_times(str(tmp_path))}
    assert found == {"a.py", "b/c.py"}
