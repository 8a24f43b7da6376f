"""The command runs, restarts, replaces and drains its processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
import trio

from ojs_client import RetryPolicy
from tests.client_library.worker_command.conftest import Shop
from tests.server.programs import pid_exists

in_thread = trio.to_thread.run_sync
"""Runs a scenario beside the server, which is in the event loop of the test."""
ONCE: Any = {"retry": RetryPolicy(max_attempts=1)}


async def test_processes_share_the_jobs_and_add_their_metrics(shop: Shop) -> None:
    def scenario() -> None:
        with shop.running("--processes", "2", "--concurrency", "1") as command:
            shop.until(lambda: shop.health() == (200, ok(2)), "both processes report")
            paths = [shop.folder / "one", shop.folder / "two"]
            jobs = [shop.enqueue("wait", {"path": str(path)}) for path in paths]
            begun = [path.with_suffix(".begun") for path in paths]
            shop.until(lambda: all(path.exists() for path in begun), "both jobs run")
            shop.until(lambda: shop.metric("ojs_worker_jobs_running") == 2, "both are counted")
            assert shop.metric('ojs_worker_jobs_running{process="0"}') == 1
            for path in paths:
                path.touch()
            completed = 'ojs_worker_jobs_total{type="shop.wait",outcome="completed"}'
            shop.until(lambda: shop.metric(completed) == 2, "both have ended")
            assert [shop.state(job) for job in jobs] == ["completed"] * 2
            assert shop.metric("ojs_worker_job_duration_seconds_count") == 2
            assert shop.metric("ojs_worker_job_duration_seconds_sum") > 0
            assert shop.metric("ojs_worker_memory_bytes") > 1 << 24
            assert shop.metric("ojs_worker_event_loop_lag_seconds{") >= 0
            assert shop.metric("ojs_worker_jobs_held") == shop.metric("ojs_worker_jobs_waiting")
            command.signal(signal.SIGTERM)
            assert command.wait_exit() == 0

    await in_thread(scenario)


def ok(processes: int) -> dict[str, Any]:
    return {"status": "ok", "processes": processes, "alive": processes}


@pytest.mark.parametrize("backend_name", ["asyncio", "trio"])
async def test_sigterm_lets_the_jobs_end(shop: Shop, backend_name: str) -> None:
    def scenario() -> None:
        path = shop.folder / "file"
        with shop.running("--processes", "2", "--backend", backend_name) as command:
            shop.until(lambda: shop.health() == (200, ok(2)), "both processes report")
            job = shop.enqueue("wait", {"path": str(path)})
            shop.until(path.with_suffix(".begun").exists, "the job runs")
            command.signal(signal.SIGTERM)
            command.wait_line("SIGTERM: drains 2 processes")
            command.wait_line("has stopped")  # the other process
            assert shop.health()[1]["status"] == "draining"
            assert shop.state(job) == "active"
            path.touch()
            assert command.wait_exit() == 0
        assert shop.state(job) == "completed"
        assert "again" not in command.output

    await in_thread(scenario)


async def test_a_second_signal_ends_the_handlers(shop: Shop) -> None:
    def scenario() -> None:
        path = shop.folder / "file"
        with shop.running("--grace", "10m") as command:
            job = shop.enqueue("wait", {"path": str(path)})
            shop.until(path.with_suffix(".begun").exists, "the job runs")
            command.signal(signal.SIGINT)
            command.wait_line("SIGINT: drains 1 processes")
            command.signal(signal.SIGINT)
            assert command.wait_exit() == 0
        assert shop.state(job) == "available"

    await in_thread(scenario)


async def test_a_process_that_was_killed_is_started_again(shop: Shop) -> None:
    def scenario() -> None:
        with shop.running() as command:
            before = shop.call("where")
            shop.until(lambda: shop.metric("ojs_worker_jobs_total") == 1, "it is reported")
            shop.enqueue("crash", **ONCE)
            command.wait_line("worker-0 was ended by SIGKILL: starts again in 0.5 s")
            after = shop.call("where")
            assert before != after
            shop.until(lambda: shop.metric("ojs_worker_jobs_total") == 2, "counts are kept")
            assert shop.metric('ojs_worker_restarts_total{reason="crash"}') == 1
            command.signal(signal.SIGTERM)
            assert command.wait_exit() == 0

    await in_thread(scenario)


async def test_a_process_is_replaced_after_its_jobs(shop: Shop) -> None:
    def scenario() -> None:
        with shop.running("--max-jobs", "3") as command:
            pids: list[int] = []
            for number in range(1, 4):
                pids += [shop.call("where") for _ in range(3)]
                # A poll of the old process may still be open.
                shop.until(
                    lambda: shop.metric("ojs_worker_restarts_total") == number,  # noqa: B023
                    "it was replaced",
                )
            assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 3]
            command.wait_line("this process is replaced: it has run 3 jobs")
            completed = 'ojs_worker_jobs_total{type="shop.where",outcome="completed"}'
            shop.until(lambda: shop.metric(completed) == 9, "counts are kept")
            command.signal(signal.SIGTERM)
            assert command.wait_exit() == 0

    await in_thread(scenario)


async def test_the_processes_of_handlers_end_with_a_killed_worker(shop: Shop) -> None:
    def scenario() -> None:
        path = shop.folder / "file"
        with shop.running() as command:
            shop.enqueue("hold", str(path))
            shop.until(path.exists, "the handler runs")
            worker, handler = map(int, path.read_text().split())
            os.kill(worker, signal.SIGKILL)
            command.wait_line("was ended by SIGKILL")
            shop.until(lambda: not pid_exists(handler), "the handler is killed")

    await in_thread(scenario)


async def test_a_replaced_process_interrupts_no_job(shop: Shop) -> None:
    def scenario() -> None:
        path = shop.folder / "file"
        with shop.running("--max-jobs", "1", "--grace", "0s") as command:
            job = shop.enqueue("wait", {"path": str(path)})
            shop.until(path.with_suffix(".begun").exists, "the job runs")
            shop.enqueue("where")
            command.wait_line("this process is replaced")
            path.touch()
            shop.until(lambda: shop.state(job) == "completed", "the long job ends")
            shop.call("where")

    await in_thread(scenario)


async def test_a_process_is_replaced_above_its_memory(shop: Shop) -> None:
    def scenario() -> None:
        with shop.running("--max-memory", "400M") as command:
            before = shop.call("keep", {"megabytes": 1})
            assert shop.call("keep", {"megabytes": 500}) == before
            command.wait_line("this process is replaced: it uses")
            shop.until(lambda: shop.metric("ojs_worker_restarts_total") == 1, "it was replaced")
            assert shop.call("where") != before

    await in_thread(scenario)


async def test_a_limit_before_the_first_job_is_no_busy_loop(shop: Shop) -> None:
    def scenario() -> None:
        with shop.running("--max-memory", "1M") as command:
            reached = "worker-0 has reached its limit before its first job: starts again in"
            command.wait_line(f"{reached} 0.5 s")
            command.wait_line(f"{reached} 1.0 s")

    await in_thread(scenario)


async def test_a_replaced_process_ends_although_a_thread_goes_on(shop: Shop) -> None:
    def scenario() -> None:
        with shop.running("--max-jobs", "1") as command:
            before = shop.call("linger")
            command.wait_line("threads of the application do not end: exits without them")
            assert shop.call("where") != before
            assert 'reason="crash"' not in shop.text("metrics")
            assert not pid_exists(before)

    await in_thread(scenario)


async def test_a_drained_process_with_a_stuck_handler_is_not_started_again(shop: Shop) -> None:
    def scenario() -> None:
        path = shop.folder / "file"
        with shop.running("--grace", "0s") as command:
            job = shop.enqueue("stick", str(path))
            shop.until(path.exists, "the handler runs")
            os.kill(int(path.read_text()), signal.SIGTERM)
            command.wait_line("1 sync handlers did not end: exits without them")
            assert command.wait_exit() == 0
        assert shop.state(job) == "available"

    await in_thread(scenario)


async def test_a_signal_while_a_process_cannot_start_ends_no_handler(shop: Shop) -> None:
    source = shop.folder / "shop.py"

    def scenario() -> None:
        path = shop.folder / "file"
        with shop.running("--processes", "2", "--concurrency", "1") as command:
            shop.until(lambda: shop.health() == (200, ok(2)), "both processes report")
            job = shop.enqueue("wait", {"path": str(path)})
            shop.until(path.with_suffix(".begun").exists, "the job runs")
            other = shop.call("where")
            source.write_text("a mistake")
            os.kill(other, signal.SIGKILL)
            command.wait_line("cannot start: drains 1 processes")
            command.signal(signal.SIGTERM)
            shop.until(lambda: shop.health()[1]["status"] == "draining", "it drains")
            path.touch()
            assert command.wait_exit() == 2
        assert shop.state(job) == "completed"

    await in_thread(scenario)


async def test_a_target_that_leaves_a_thread_and_cannot_be_loaded_ends_the_command(
    shop: Shop,
) -> None:
    text = "import threading, time\nthreading.Thread(target=time.sleep, args=(3600,)).start()\n"
    (shop.folder / "shop.py").write_text(f"{text}raise ValueError('no settings')\n")

    def scenario() -> None:
        with shop.running() as command:
            command.wait_line("shop:app cannot be loaded")
            assert command.wait_exit() == 2

    await in_thread(scenario)


async def test_each_process_has_an_id_of_its_own(shop: Shop) -> None:
    def scenario() -> None:
        with shop.running("--processes", "2", target="shop:fixed") as command:
            command.wait_line("worker fixed-0 starts")
            command.wait_line("worker fixed-1 starts")

    await in_thread(scenario)


async def test_changed_files_start_the_processes_again(shop: Shop) -> None:
    source = shop.folder / "shop.py"

    def scenario() -> None:
        with shop.running("--reload") as command:
            before = shop.call("where")
            text = source.read_text()
            source.write_text(text.replace("return os.getpid()", "return -os.getpid()"))
            command.wait_line("shop.py has changed: starts again")
            shop.until(lambda: shop.metric("ojs_worker_restarts_total") == 1, "it starts again")
            after = shop.call("where")
            assert after < 0
            assert after != -before
            source.write_text("a mistake")
            command.wait_line("waits for a change of the files")
            source.write_text(text)
            assert shop.call("where") > 0
            command.signal(signal.SIGINT)
            assert command.wait_exit() == 0

    await in_thread(scenario)


async def test_processes_end_with_their_supervisor(shop: Shop) -> None:
    def scenario() -> None:
        path = shop.folder / "file"
        with shop.running() as command:
            pid = shop.call("where")
            job = shop.enqueue("wait", {"path": str(path)})
            shop.until(path.with_suffix(".begun").exists, "the job runs")
            command.signal(signal.SIGKILL)
            command.wait_exit()
            path.touch()
            shop.until(lambda: not pid_exists(pid), "the process ends")
            assert shop.state(job) == "completed"

    await in_thread(scenario)


async def test_sigterm_to_one_process_drains_it_and_starts_no_other(shop: Shop) -> None:
    def scenario() -> None:
        with shop.running() as command:
            os.kill(shop.call("where"), signal.SIGTERM)
            command.wait_line("SIGTERM: drains")
            assert command.wait_exit() == 0

    await in_thread(scenario)


async def test_a_process_may_have_processes_for_handlers(shop: Shop) -> None:
    def scenario() -> None:
        with shop.running() as command:
            assert shop.call("compute", {"number": 4}) == [shop.call("where"), 8]
            command.signal(signal.SIGTERM)
            assert command.wait_exit() == 0

    await in_thread(scenario)


async def test_an_error_of_the_worker_is_logged_and_it_starts_again(shop: Shop) -> None:
    with (shop.folder / "shop.py").open("a") as file:
        file.write("\n\ndef broken():\n    raise KeyError('no database')\n\n\n")
        file.write("app._lifespan = broken\n")

    def scenario() -> None:
        with shop.running("--log-format", "json") as command:
            line = json.loads(command.wait_line("the worker has failed"))
            assert "KeyError: 'no database'" in line["exc"]
            command.wait_line("worker-0 has ended with exit code 1: starts again in 0.5 s")

    await in_thread(scenario)


async def test_options_replace_those_of_the_application(shop: Shop) -> None:
    def scenario() -> None:
        with shop.running("--queues", "here,there", target="shop:worker") as command:
            assert shop.call("handled", queue="there") == "there"
            command.wait_line("queues here, there")

    await in_thread(scenario)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nothing:app", "No module named 'nothing'"),
        ("shop:nothing", "shop has no 'nothing'"),
        ("shop:kept", "shop:kept is a list, not an App or a Worker"),
    ],
)
async def test_a_wrong_target_ends_the_command(shop: Shop, target: str, message: str) -> None:
    def scenario() -> None:
        with shop.running("--processes", "2", target=target) as command:
            assert command.wait_exit() == 2
        assert message in command.output

    await in_thread(scenario)


def test_a_refused_worker_ends_the_command(tmp_path: Any) -> None:
    refuse(tmp_path, "from ojs_client import App\n\napp = App()\n")


def test_a_refusal_is_told_although_a_handler_does_not_end(tmp_path: Any) -> None:
    """The first fetch returns a job, and the next one is refused."""
    text = "import time\nfrom ojs_client import App\n\napp = App()\n\n\n"
    text += "@app.task(name='stick')\ndef stick() -> None:\n    time.sleep(3600)\n"
    job: dict[str, Any] = {
        "id": "0190b6a0-0000-7000-8000-000000000001",
        "type": "stick",
        "args": [],
    }
    job |= {
        "queue": "default",
        "state": "active",
        "attempt": 1,
        "max_attempts": 1,
        "lease_id": "l1",
    }
    refuse(tmp_path, text, {"jobs": [job]}, "--grace", "0s")


def refuse(folder: Any, text: str, first: Any = None, *arguments: str) -> None:
    """Run an application whose server refuses the fetches after the first one."""
    fetches: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            is_fetch = self.path.endswith("/fetch")
            if (is_fetch and first and not fetches) or (first and not is_fetch):
                fetches.extend([1] * is_fetch)
                body = json.dumps(first if is_fetch else {"state": "running"}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                return
            body = json.dumps({"error": {"code": "unauthorized", "message": "no key"}}).encode()
            self.send_response(401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_DELETE = do_POST

        def log_message(self, *_: Any) -> None:
            pass

    (folder / "shop.py").write_text(text)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            with Shop(url, folder, 0).running(*arguments) as command:
                assert command.wait_exit() == 2
            assert f"{url} refuses this worker: 401 unauthorized: no key; OJS_API_KEY" in (
                command.output
            )
            assert "Traceback" not in command.output
        finally:
            server.shutdown()
            thread.join()


async def test_lines_in_json_name_the_job(shop: Shop) -> None:
    def scenario() -> None:
        with shop.running("--log-format", "json") as command:
            job = shop.enqueue("fail", {"name": "Ada"}, **ONCE)
            shop.until(lambda: shop.state(job) == "discarded", "it fails")
            command.signal(signal.SIGTERM)
            assert command.wait_exit() == 0
        lines = [json.loads(line) for line in command.output.splitlines()]
        (failure,) = (line for line in lines if line.get("job_id") == job)
        assert failure["level"] == "warning"
        assert (failure["job_type"], failure["attempt"]) == ("shop.fail", 1)
        assert failure["process"] == "worker-0"
        assert "raise KeyError(name)\nKeyError: 'Ada'" in failure["exc"]
        assert {line["process"] for line in lines} == {"supervisor", "worker-0"}

    await in_thread(scenario)


def test_the_supervisor_imports_no_event_loop() -> None:
    """It would cost the memory of one more worker."""
    code = (
        "import sys; from ojs_client.worker_command import supervisor"
        "; print({'msgspec', 'anyio', 'ojs_client.worker.worker'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
