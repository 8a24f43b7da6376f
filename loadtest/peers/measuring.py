"""All measurements of one run: the libraries take turns in every round."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from loadtest.peers.catalogue import FLOWS, OPTIONS, Peer
from loadtest.peers.programs.base import Spec, warm_up
from loadtest.peers.running import (
    GROUPS,
    Program,
    ProgramFailed,
    Reading,
    Site,
    measure,
    observe,
    site,
)
from ojs_cluster.server.embedded.servers import ServerBinary

CONCURRENCIES = (1, 10, 100)
USUAL = 10
"""The concurrency of everything but the part ``single``."""
FLOW_SIZES = (10, 100, 1000)
SHARE = 0.3
PARTS = ("single", "batch", "aof", "latency", "memory", "imports", "options", "flows")
_CONNECT_S = 2.0
_IMPORTS = 3


@dataclass
class Row:
    """A library under one load: the readings of each round."""

    jobs: int
    rounds: list[tuple[Reading, ...]] = field(default_factory=list)

    def rates(self, part: int) -> list[float]:
        """Return the jobs per second of each round: enqueued (0), and run (1)."""
        return [self.jobs / readings[part].seconds for readings in self.rounds]

    def us(self, groups: Sequence[str] = GROUPS) -> list[float]:
        """Return the processor time per job of each round."""
        return [
            sum(reading.cpu_s[group] for reading in readings for group in groups) / self.jobs * 1e6
            for readings in self.rounds
        ]


@dataclass
class Settings:
    """How long the measurements are.

    Args:
        rounds: number of rounds.
        jobs: jobs of a measurement.
        seconds: time of an open loop.
        parts: some of ``PARTS``.
        sizes: those of workflows.
    """

    rounds: int
    jobs: int
    seconds: float
    parts: Sequence[str] = PARTS
    sizes: Sequence[int] = FLOW_SIZES


class Comparison:
    """What all libraries took."""

    def __init__(self, peers: list[Peer], settings: Settings) -> None:
        self.peers, self.settings = peers, settings
        self.rows: dict[str, dict[str, Row]] = defaultdict(dict)
        """By load and title."""
        self.values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        """By what is measured and title."""
        self.failures: list[str] = []

    def run(self, binary: ServerBinary) -> None:
        """Measure all parts. Each round begins with another library."""
        parts = self.settings.parts
        with site(self.peers, binary, append_only=False) as where:
            if "memory" in parts:  # before other jobs fill and empty the memory
                self._each(partial(self._memory, where))
            for number in range(self.settings.rounds):
                self._round(where, number)
        if "aof" in parts:
            with site(self.peers, binary, append_only=True) as where:
                for number in range(self.settings.rounds):
                    self._each(partial(self._jobs, where, load="aof", kind="single"), number)

    def _round(self, where: Site, number: int) -> None:
        """Measure everything once, on servers without AOF."""
        parts, jobs = set(self.settings.parts), partial(self._jobs, where)
        for tasks in CONCURRENCIES if parts & {"single", "latency"} else ():
            self._each(partial(jobs, load=f"single, {tasks}", kind="single", tasks=tasks), number)
        if "batch" in parts:
            self._each(partial(jobs, load="batch", kind="batch"), number)
        if "latency" in parts:
            self._each(partial(self._latency, where), number)
        if "imports" in parts:
            self._each(self._import, number)
        for kind in ("single", *OPTIONS) if "options" in parts else ():
            self._each(partial(jobs, load=f"option, {kind}", kind=kind), number)
        for kind in FLOWS if "flows" in parts else ():
            for size in self.settings.sizes:
                self._each(partial(self._flow, where, kind=kind, size=size), number)

    def _each(self, act: Callable[[Peer], None], number: int = 0) -> None:
        """Measure the libraries in turn; note a failure instead of ending the whole run."""
        shift = number % len(self.peers)
        for peer in self.peers[shift:] + self.peers[:shift]:
            try:
                act(peer)
            except ProgramFailed as failure:
                self.failures.append(str(failure))
                print(failure, file=sys.stderr)

    def _jobs(self, where: Site, peer: Peer, load: str, kind: str, tasks: int = USUAL) -> None:
        """Enqueue and run jobs once."""
        if kind == "batch" and not peer.has_batch:
            return
        if kind in OPTIONS and (kind not in peer.options or peer.forks):
            return
        if peer.is_serial and load.startswith("single") and tasks > 1:
            return
        jobs = self.settings.jobs if tasks > 1 else self.settings.jobs // 2
        jobs = max(10, jobs // 20) if peer.forks else jobs
        queue, url = where.queue(peer), where.url(peer)
        enqueued = measure(where, peer, Spec("produce", url, queue, kind, jobs, tasks))
        ran = measure(where, peer, Spec("work", url, queue, kind, jobs, peer.handlers(tasks)))
        row = self.rows[load].setdefault(peer.title, Row(jobs - warm_up(jobs)))
        row.rounds.append((enqueued, ran))

    def _latency(self, where: Site, peer: Peer) -> None:
        """Enqueue jobs at fixed times, while a worker runs them."""
        full = self.rows[f"single, {1 if peer.is_serial else USUAL}"].get(peer.title)
        if full is None:
            return
        rate = SHARE / sum(1 / full.rates(part)[-1] for part in (0, 1))
        jobs = max(20, int(rate * self.settings.seconds))
        queue, url = where.queue(peer), where.url(peer)
        work = Spec("work", url, queue, "single", jobs, peer.handlers(USUAL))
        with Program(peer, work) as worker:
            time.sleep(_CONNECT_S)
            with Program(peer, Spec("produce", url, queue, "single", jobs, USUAL, rate)):
                printed = observe(where, peer, worker, worker).printed
        for name, value in {"rate": rate, **printed}.items():
            self.values[f"latency, {name}"][peer.title].append(value)

    def _memory(self, where: Site, peer: Peer) -> None:
        """Enqueue jobs that wait, and note the bytes of each."""
        if peer.has_postgres or peer.forks:
            return
        redis, queue, url = where.redis(peer), where.queue(peer), where.url(peer)
        kind, jobs = "batch" if peer.has_batch else "single", self.settings.jobs * 4
        # Connections, scripts and the queue exist before.
        measure(where, peer, Spec("produce", url, queue, kind, 10, USUAL))
        before = int(redis.info("memory")["used_memory"])
        measure(where, peer, Spec("produce", url, queue, kind, jobs, USUAL))
        used = int(redis.info("memory")["used_memory"]) - before
        self.values["memory"][peer.title].append(used / jobs)

    def _import(self, peer: Peer) -> None:
        """Note the processor time of importing the client, without the start of the interpreter."""
        if peer.forks:
            return
        statement = peer.statement

        def ms(code: str) -> float:
            command, env = peer.command("-e" if peer.is_node else "-c", code)
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(command, env=env, check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1000

        least = [min(ms(code) for _ in range(_IMPORTS)) for code in (statement, "0")]
        self.values["import"][peer.title].append(least[0] - least[1])

    def _flow(self, where: Site, peer: Peer, kind: str, size: int) -> None:
        """Create a workflow and run it."""
        if kind not in peer.flows or peer.forks:
            return
        queue, url = where.queue(peer), where.url(peer)
        with Program(peer, Spec("work", url, queue, kind, size, peer.handlers(USUAL))) as worker:
            time.sleep(_CONNECT_S)
            with Program(peer, Spec("flow", url, queue, kind, size, 1)) as creator:
                reading = observe(where, peer, creator, worker)
        row = self.rows[f"{kind} of {size}"].setdefault(peer.title, Row(size))
        row.rounds.append((reading,))
