"""Servers of the benchmark, and programs whose processor time is read while they run."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pwd
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from redis import Redis

from loadtest.bench._processes import TICK_S, children_of, cpu_s, free_port, running
from loadtest.bench._target import start_api
from loadtest.peers.catalogue import Peer, postgres_folder
from loadtest.peers.programs.base import Spec
from ojs_cluster.server.embedded.servers import Embedded, ServerBinary

GROUPS = ("client", "server", "store")
_LIMIT_S = 60.0
_SETTLE_S = 0.1
"""Time after the last handler in which its ack reaches the server."""


@dataclass(frozen=True)
class Reading:
    """What a program took: the time in seconds, processor time per group, and what it printed."""

    seconds: float
    cpu_s: dict[str, float]
    printed: dict[str, float]


class Site:
    """Our server with its Redis, a Redis for the others, and PostgreSQL."""

    def __init__(
        self, url: str, server_pids: list[int], ours: Embedded, others: Embedded, postgres: int
    ) -> None:
        self._url, self._server_pids, self._postgres = url, server_pids, postgres
        self._ours, self._others = ours, others
        self.postgres_url = ""
        self._names = (f"peers-{number}" for number in itertools.count())

    def url(self, peer: Peer) -> str:
        """Return the address of the server that a library uses."""
        if peer.is_ours:
            return self._url
        return self.postgres_url if peer.has_postgres else self._others.url

    def queue(self, peer: Peer) -> str:
        """Return the name of a new queue, in an empty Redis for all but ours."""
        if not peer.is_ours and not peer.has_postgres:
            self.redis(peer).flushall()
        return next(self._names)

    def redis(self, peer: Peer) -> Redis:
        """Return the Redis of a library."""
        server = self._ours if peer.is_ours else self._others
        return Redis(port=server.nodes[0].port)

    def cpu_s(self, peer: Peer, programs: set[int]) -> dict[str, float]:
        """Return the processor time so far of the programs, the server and the store."""
        server = self._ours if peer.is_ours else self._others
        redis = cpu_s(node.pid for node in server.nodes)
        return {
            "client": sum(map(tree_cpu_s, programs)),
            "server": cpu_s(self._server_pids) if peer.is_ours else 0.0,
            "store": tree_cpu_s(self._postgres) if peer.has_postgres else redis,
        }


def tree_cpu_s(pid: int) -> float:
    """Return the processor time of a process and all of its children, those that ended included."""
    total = cpu_s([pid])
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[13]) + int(fields[14])) * TICK_S
        total += sum(tree_cpu_s(child) for child in children_of(pid))
    return total


@contextlib.contextmanager
def site(peers: list[Peer], binary: ServerBinary, *, append_only: bool) -> Iterator[Site]:
    """Run all servers. Each Redis starts with the same settings."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ours, others = (
            stack.enter_context(
                Embedded(
                    *(folder / name,),
                    binary=binary,
                    masters=1,
                    cluster=False,
                    append_only=append_only,
                )
            )
            for name in ("ours", "others")
        )
        target = start_api(stack, ours, "standalone")
        scheduler = stack.enter_context(
            running(["-m", "ojs_cluster.cli", "scheduler"], target.port, {"REDIS_URL": ours.url})
        )
        postgres, url = 0, ""
        if any(peer.has_postgres for peer in peers):
            postgres, url = stack.enter_context(_postgres())
        found = Site(
            f"http://{target.host}:{target.port}",
            [*target.api_pids, scheduler],
            *(ours, others, postgres),
        )
        found.postgres_url = url
        for peer in peers:
            if peer.has_postgres:
                _run_to_end(peer, Spec("schema", url, "", "", 0, 1))
        yield found


@contextlib.contextmanager
def _postgres() -> Iterator[tuple[int, str]]:
    """Run PostgreSQL, whose commits reach the disk within a second, as those of Redis's AOF do."""
    programs = postgres_folder()
    assert programs is not None
    user = "postgres" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory() as folder:
        if user:
            os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
        data, port = f"{folder}/data", free_port()
        subprocess.run(
            [str(programs / "initdb"), "-D", data, "-U", "bench", "-A", "trust"],
            check=True,
            stdout=subprocess.DEVNULL,
            user=user,
            cwd=folder,
        )
        process = subprocess.Popen(
            [
                *(str(programs / "postgres"), "-D", data, "-k", folder, "-p", str(port)),
                *("-c", "synchronous_commit=off", "-c", "listen_addresses=127.0.0.1"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=user,
            cwd=folder,
        )
        try:
            ready = [str(programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
            deadline = time.monotonic() + _LIMIT_S
            while subprocess.run(ready).returncode:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise SystemExit("PostgreSQL did not start")
                time.sleep(0.1)
            yield process.pid, f"postgresql://bench@127.0.0.1:{port}/postgres"
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)


class Program:
    """The program of a library; a context manager that kills it."""

    def __init__(self, peer: Peer, spec: Spec) -> None:
        command, env = peer.program(json.dumps(asdict(spec)))
        self._name = f"{peer.title}, {spec.role} {spec.kind}"
        self._process = subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            # In a session of its own, it would get a larger share of a busy machine.
            process_group=0,
        )
        self._timer = threading.Timer(_LIMIT_S, self._kill)
        self.pid = self._process.pid

    def __enter__(self) -> Program:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe
            pipe.close()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def wait_for(self, word: str) -> tuple[float, dict[str, float]]:
        """Return the time and the result that the program prints after this word."""
        assert self._process.stdout
        for line in self._process.stdout:
            found, _, rest = line.partition(" ")
            if found == word:
                at, _, result = rest.partition(" ")
                return float(at), json.loads(result)
        raise ProgramFailed(f"{self._name}: ended, or took more than {_LIMIT_S:.0f} s")


class ProgramFailed(Exception):
    """The program of a library did not do its work."""


def measure(site: Site, peer: Peer, spec: Spec) -> Reading:
    """Run a program and return what it took between its first and its last job."""
    with Program(peer, spec) as program:
        return observe(site, peer, program, program)


def observe(site: Site, peer: Peer, first: Program, last: Program) -> Reading:
    """Return what two programs take from the beginning of one to the end of the other."""
    pids = {first.pid, last.pid}
    began, _ = first.wait_for("began")
    before = site.cpu_s(peer, pids)
    ended, printed = last.wait_for("ended")
    time.sleep(_SETTLE_S)
    after = site.cpu_s(peer, pids)
    return Reading(ended - began, {name: after[name] - before[name] for name in GROUPS}, printed)


def _run_to_end(peer: Peer, spec: Spec) -> None:
    with Program(peer, spec) as program:
        program.wait_for("ended")
