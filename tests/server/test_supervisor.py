"""The supervisor and the server loop, seen from outside: signals, kills, drains."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ojs_cluster.server.http.http_server import report
from ojs_cluster.server.supervision import supervisor
from ojs_cluster.server.supervision.supervisor import STABLE_AFTER_S, ChildSpec, Supervisor
from tests.server.echo_child import BIG
from tests.server.programs import Program, clean_environment, get, pid_exists, program
from tests.support.servers import wait_until

_OPEN = {"OJS_ALLOW_INSECURE_NO_AUTH": "1"}


@contextlib.contextmanager
def echo(workers: int = 2, **env: str) -> Iterator[tuple[Program, int]]:
    """Run the supervisor with echo children until they are ready; gives its port as well."""
    variables = {"OJS_WORKERS": str(workers), "OJS_SHUTDOWN_TIMEOUT": "300s", **env}
    with program(["-m", "tests.server.echo_main"], env=variables) as running:
        running.wait_line("ready")
        yield running, int(running.seen[0])


def pids(port: int, workers: int) -> set[int]:
    """Ask until as many processes as there are have answered."""
    found: set[int] = set()
    deadline = time.monotonic() + 120
    while len(found) < workers:
        assert time.monotonic() < deadline, f"only {found} answered"
        with contextlib.suppress(httpx.TransportError):
            found.add(int(get(port, "/pid").text))
    return found


def test_every_worker_serves_the_one_port() -> None:
    with echo(workers=2) as (_, port):
        assert len(pids(port, 2)) == 2


def test_killed_worker_is_replaced_and_the_port_stays_open() -> None:
    with echo(workers=2) as (_, port):
        victim, survivor = pids(port, 2)
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: not pid_exists(victim), what="the victim is gone")
        assert get(port, "/pid").status_code == 200
        assert pids(port, 2) - {victim, survivor}, "a new process took the victim's place"


async def test_child_that_keeps_dying_is_restarted_later_and_later(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    lives_s = [*[1.0] * 9, STABLE_AFTER_S, 1.0, 1.0]
    supervisor = Supervisor([ChildSpec("c", "no.module", {})], stop_timeout_s=1)
    starts: list[float] = []

    async def run_once(spec: ChildSpec) -> int:
        starts.append(trio.current_time())
        if len(starts) > len(lives_s):
            supervisor.stop()
            return 0
        await trio.sleep(lives_s[len(starts) - 1])
        return -signal.SIGKILL

    monkeypatch.setattr(supervisor, "_run_once", run_once)
    assert await supervisor.run() == 0

    pauses_s = [b - a - life for a, b, life in zip(starts, starts[1:], lives_s, strict=False)]
    doubled = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10]
    # One that has lasted has recovered.
    assert pauses_s == pytest.approx([*doubled, 0.1, 0.2, 0.4])


def test_drain_finishes_the_request_in_flight_and_refuses_new_connections(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with echo(workers=2) as (running, port), slow_request(port, gate) as response:
        chunks = response.iter_raw()
        first = next(chunks)
        running.signal(signal.SIGTERM)
        wait_until(lambda: refuses(port), what="new connections are refused")
        assert running.process.poll() is None, "the request is still in flight"
        gate.touch()
        rest = b"".join(chunks)
        assert rest == first
        assert running.wait_exit() == 0


def test_idle_keep_alive_connection_does_not_delay_the_end() -> None:
    with echo(workers=1) as (running, port), httpx.Client(timeout=60) as client:
        client.get(f"http://127.0.0.1:{port}/pid")
        running.signal(signal.SIGTERM)
        assert running.wait_exit() == 0, "it waited for the grace period of five minutes"


def test_shutdown_delay_keeps_accepting_first() -> None:
    with echo(workers=1, OJS_SHUTDOWN_DELAY="600s") as (running, port):
        running.signal(signal.SIGTERM)
        running.wait_line("draining")
        assert get(port, "/pid").status_code == 200
        assert not refuses(port)
        running.signal(signal.SIGTERM)
        assert running.wait_exit() == 0


def test_after_the_shutdown_delay_the_port_closes(tmp_path: Path) -> None:
    with (
        echo(workers=1, OJS_SHUTDOWN_DELAY="1s") as (running, port),
        slow_request(port, tmp_path / "never made"),
    ):
        running.signal(signal.SIGTERM)
        wait_until(lambda: refuses(port), what="the port closes")
        assert running.process.poll() is None, "a request is still in flight"
        running.signal(signal.SIGTERM)
        assert running.wait_exit() == 0


def test_request_longer_than_the_grace_period_is_cut(tmp_path: Path) -> None:
    with (
        echo(workers=1, OJS_SHUTDOWN_TIMEOUT="0.3s") as (running, port),
        slow_request(port, tmp_path / "never made") as response,
    ):
        running.signal(signal.SIGTERM)
        with pytest.raises(httpx.TransportError):
            response.read()
        assert running.wait_exit() == 0


def test_worker_that_hangs_is_killed_when_the_time_is_up() -> None:
    with echo(workers=1, OJS_SHUTDOWN_TIMEOUT="1s") as (running, port):
        (pid,) = pids(port, 1)
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET /hang HTTP/1.1\r\nhost: x\r\n\r\n")
            running.wait_line("hanging")
            running.signal(signal.SIGTERM)
            running.wait_line("killing it")
            assert running.wait_exit() == 0
        assert not pid_exists(pid)


def test_worker_whose_event_loop_stands_still_is_replaced() -> None:
    with echo(workers=1, OJS_WATCHDOG="3s") as (running, port):
        (pid,) = pids(port, 1)
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET /hang HTTP/1.1\r\nhost: x\r\n\r\n")
            running.wait_line("hanging")
            running.wait_line("echo-0 has sent no heartbeat for 3 s: killing it")
            wait_until(lambda: not pid_exists(pid), what="the child that hangs is gone")
            assert pids(port, 1) != {pid}


def test_worker_that_only_waits_is_left_alone(tmp_path: Path) -> None:
    """A request may take longer than the watchdog: the event loop runs during that time."""
    gate = tmp_path / "gate"
    with echo(workers=1, OJS_WATCHDOG="8s") as (running, port):
        (pid,) = pids(port, 1)
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET /slow?%b HTTP/1.1\r\nhost: x\r\n\r\n" % str(gate).encode())
            assert client.recv(4096)
            time.sleep(11)  # longer than the watchdog waits
            gate.touch()
            client.settimeout(60)
            assert client.recv(4096)
        assert pids(port, 1) == {pid}
        assert "has sent no heartbeat" not in running.output


async def test_a_child_that_hangs_before_its_first_beat_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # With the usual factor this test would wait for a minute.
    monkeypatch.setattr(supervisor, "STARTING_WATCHDOG_FACTOR", 1)
    monkeypatch.setattr(supervisor, "STARTING_WATCHDOG_MIN_S", 1.0)
    env = clean_environment({"MUTE_FILE": str(tmp_path / "first"), **_OPEN})
    spec = ChildSpec("child", "tests.server.mute_child", env)
    watched = Supervisor([spec], stop_timeout_s=60, watchdog_s=10)
    with trio.fail_after(300):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watched.run)
            await watched.all_ready.wait()
            watched.stop()
    assert "child has sent no heartbeat for 10 s" in caplog.text


async def test_a_child_that_starts_during_the_stop_is_stopped_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = clean_environment({"MUTE_FILE": str(tmp_path / "first"), **_OPEN})
    spec = ChildSpec("child", "tests.server.mute_child", env)
    stopping = Supervisor([spec], stop_timeout_s=3600)
    start, started = stopping._start, list[trio.Process]()

    async def start_late(spec: ChildSpec, control_fd: int) -> trio.Process:
        started.append(await start(spec, control_fd))
        stopping.stop()
        await wait_all_tasks_blocked()  # the children that are known are signalled
        return started[0]

    monkeypatch.setattr(stopping, "_start", start_late)
    try:
        with trio.fail_after(60):
            assert await stopping.run() == 0
    finally:
        started[0].kill()


def test_workers_are_left_alone_when_the_supervisor_was_stopped() -> None:
    """It has not heard them while it was stopped, and they are well."""
    with echo(workers=2, OJS_WATCHDOG="8s") as (running, port):
        before = pids(port, 2)
        for _ in range(2):
            running.signal(signal.SIGSTOP)
            time.sleep(11)  # longer than the watchdog waits
            running.signal(signal.SIGCONT)
            time.sleep(1)
        assert pids(port, 2) == before
        assert "has sent no heartbeat" not in running.output


def test_second_signal_kills_at_once() -> None:
    with echo(workers=1, OJS_SHUTDOWN_TIMEOUT="600s", OJS_SHUTDOWN_DELAY="600s") as (running, _):
        running.signal(signal.SIGINT)
        running.wait_line("draining")
        running.signal(signal.SIGINT)
        assert running.wait_exit() == 0


def test_children_end_when_the_supervisor_is_killed() -> None:
    with echo(workers=2) as (running, port):
        children = pids(port, 2)
        running.signal(signal.SIGKILL)
        running.wait_exit()
        wait_until(lambda: not any(map(pid_exists, children)), what="the children ended")
        assert refuses(port)


def test_hanging_child_ends_too_when_the_supervisor_is_killed() -> None:
    with echo(workers=1, OJS_SHUTDOWN_TIMEOUT="1s") as (running, port):
        (child,) = pids(port, 1)
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET /hang HTTP/1.1\r\nhost: x\r\n\r\n")
            running.wait_line("hanging")
            running.signal(signal.SIGKILL)
            running.wait_exit()
            wait_until(lambda: not pid_exists(child), what="the child ended")


def test_child_that_refuses_its_configuration_stops_everything_with_code_2() -> None:
    env = {"OJS_WORKERS": "2", "ECHO_REFUSE": "echo-1"}
    with program(["-m", "tests.server.echo_main"], env=env) as running:
        assert running.wait_exit() == 2
        assert "told to refuse" in running.output


def test_child_that_cannot_be_started_does_not_end_the_others() -> None:
    env = {"OJS_WORKERS": "2", "ECHO_OVERLOAD": "echo-1"}
    with program(["-m", "tests.server.echo_main"], env=env) as running:
        running.wait_line("echo-1 could not be started")
        running.wait_line("again in 0.2 s")
        assert get(int(running.seen[0]), "/pid").status_code == 200
        running.signal(signal.SIGTERM)
        assert running.wait_exit() == 0


def test_nohup_is_honoured() -> None:
    ignoring = "import runpy, signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); "
    command = ["-c", ignoring + "runpy.run_module('tests.server.echo_main', run_name='__main__')"]
    with program(command, env={"OJS_WORKERS": "1"}) as running:
        running.wait_line("ready")
        port = int(running.seen[0])
        before = pids(port, 1)
        running.signal(signal.SIGHUP)
        for child in before:
            os.kill(child, signal.SIGHUP)
        running.signal(signal.SIGTERM)
        line = running.wait_line("draining")
        assert "SIGTERM" in line
        assert running.wait_exit() == 0


def test_error_of_one_request_leaves_other_connections_alone() -> None:
    with echo(workers=1) as (_, port), httpx.Client(timeout=60) as client:
        base = f"http://127.0.0.1:{port}"
        pid = client.get(f"{base}/pid").text
        assert get(port, "/bug").status_code == 500
        assert client.get(f"{base}/pid").text == pid


def test_an_error_in_the_server_loop_is_logged_without_what_was_sent(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What hypercorn raises may quote a request, its key included."""
    sent = b"Bearer " + b"-".join([b"my", b"key\xff"])  # the stack shows the lines below
    try:
        sent.decode("ascii")
    except UnicodeDecodeError as error:
        report(ExceptionGroup("", [ExceptionGroup("", [error])]))
    assert "connection ended by an unexpected UnicodeDecodeError" in caplog.text
    assert "my-key" not in caplog.text + str(caplog.records[0].__dict__)


def test_many_requests_on_one_connection_keep_it_open() -> None:
    with echo(workers=1) as (_, port), contextlib.closing(connection(port)) as client:
        for _ in range(1500):  # hypercorn's own limit is 1000
            client.request("GET", "/pid")
            assert client.getresponse().read()


def test_client_that_does_not_take_its_response_is_disconnected() -> None:
    with (
        echo(workers=1, OJS_WRITE_TIMEOUT="1s") as (_, port),
        socket.create_connection(("127.0.0.1", port)) as client,
    ):
        client.sendall(b"GET /big HTTP/1.1\r\nhost: x\r\n\r\n")
        wait_until(lambda: established(port) == 0, what="the server hung up")
        received = 0
        with contextlib.suppress(ConnectionResetError):
            while data := client.recv(1 << 20):
                received += len(data)
        assert received < BIG


@contextlib.contextmanager
def slow_request(port: int, gate: Path) -> Iterator[httpx.Response]:
    """Send a request whose response has begun and ends when the file exists."""
    with httpx.stream("GET", f"http://127.0.0.1:{port}/slow?{gate}", timeout=120) as response:
        yield response


def connection(port: int) -> http.client.HTTPConnection:
    """Open one connection that is not opened again when it closes."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    client.connect()
    client.auto_open = 0
    return client


def established(port: int) -> int:
    """Count connections that the server side of the port holds (Linux)."""
    wanted, count = f":{port:04X}", 0
    with open("/proc/net/tcp") as table:
        for line in table.readlines()[1:]:
            _, local, _, state, *_ = line.split()
            count += local.endswith(wanted) and state == "01"
    return count


def refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False
