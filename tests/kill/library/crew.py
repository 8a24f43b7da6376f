"""The two worker processes of a round, and the faults that happen to them."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from tests.chaos.client import V1, ChaosClient
from tests.chaos.tunnel import Tunnels
from tests.kill.library.ledger import Ledger, Run
from tests.kill.library.worker import GRACE_S

LOOPS: Final = ("asyncio", "trio")
PATIENCE_S: Final = 120.0
_SHUTDOWN_S: Final = 1.0 + 3.0 + 10.0 + 2.0
"""What a worker may take after its grace period: threads, clean-up, last acks, last heartbeat."""
_START_AND_END_S: Final = 10.0
"""What a busy machine may take to run the code around that."""


@dataclass(slots=True)
class Worker:
    """A worker process."""

    name: str
    slot: int
    process: subprocess.Popen[bytes]
    output: Path
    killed: bool = False

    def log_tail(self) -> str:
        """Return the end of its log, for failure messages."""
        text = self.output.read_text(errors="replace").splitlines()[-30:]
        return "\n".join([f"--- {self.name}:", *text])


@dataclass(slots=True)
class Crew:
    """A worker on asyncio and one on trio, each behind a tunnel of its own.

    Args:
        port: the port of the proxy, and so that of the tunnels.
        hosts: where the tunnel of each worker listens.
        tunnels: the tunnels.
        folder: for the files.
        ledger: reads what the workers write.
        operator: sends directives.
        chance: decides what the seed does not fix otherwise.
    """

    port: int
    hosts: tuple[str, ...]
    tunnels: tuple[Tunnels, ...]
    folder: Path
    ledger: Ledger
    operator: ChaosClient
    chance: random.Random
    workers: list[Worker] = field(default_factory=list)
    """All workers of the round, dead ones included."""
    current: list[Worker] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    calm: Callable[[], bool] = lambda: True
    """Whether the servers are whole now."""
    served: Callable[[], bool] = lambda: True
    """Whether each slot has a master now, or should have one."""

    @property
    def go(self) -> Path:
        return self.folder / "go"

    def start(self) -> None:
        """Start both workers."""
        self.current = [self._spawn(slot) for slot in range(len(LOOPS))]

    def kill_all(self) -> None:
        """Kill every process that still runs."""
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.process.kill()
            worker.process.wait()

    def _spawn(self, slot: int) -> Worker:
        name = f"{LOOPS[slot]}-{len(self.workers)}"
        file, output = self.folder / f"{name}.jsonl", self.folder / f"{name}.log"
        url = f"http://{self.hosts[slot]}:{self.port}"
        command = [sys.executable, "-m", "tests.kill.library.worker", url, name, LOOPS[slot]]
        with output.open("wb") as log:
            process = subprocess.Popen(
                [*command, str(self.go), str(file)], stdout=log, stderr=subprocess.STDOUT
            )
        self.ledger.follow(name, file)
        worker = Worker(name, slot, process, output)
        self.workers.append(worker)
        return worker

    def _replace(self, worker: Worker) -> None:
        self.current[worker.slot] = self._spawn(worker.slot)

    # -- faults -------------------------------------------------------------------------------

    @property
    def faults(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """All faults by name."""
        return {
            "kill a worker": self._kill,
            "stop a worker past its leases": self._stop,
            "terminate a worker": self.terminate,
            "let the server terminate a worker": self._directive,
            "cut a worker off for a short time": self._cut,
            "cut a worker off past its leases": self._cut_long,
            "silence a worker past its leases": self._silence,
        }

    async def _kill(self) -> None:
        victim = await self._victim()
        victim.killed = True
        victim.process.kill()
        victim.process.wait()
        self._replace(victim)

    async def _stop(self) -> None:
        victim = await self._victim()
        held = self.ledger.held(victim.name)
        victim.process.send_signal(signal.SIGSTOP)
        try:
            await self.until(lambda: all(map(self._is_taken, held)), "others hold its jobs")
        finally:
            victim.process.send_signal(signal.SIGCONT)
        await self._cancelled(held)

    async def _cut(self) -> None:
        victim = await self._victim()
        self._tell(victim, "close")
        await trio.sleep(self.chance.uniform(0.1, 1.5))
        self._tell(victim, "heal")

    async def _cut_long(self) -> None:
        await self._apart("close")

    async def _silence(self) -> None:
        await self._apart("silence")

    async def _apart(self, how: str) -> None:
        """Separate a worker from the server: its own clock must end its handlers."""
        victim = await self._victim()
        held = self.ledger.held(victim.name)
        self._tell(victim, how)
        try:
            await self._cancelled(held)
        finally:
            self._tell(victim, "heal")

    async def terminate(self) -> None:
        """Send SIGTERM to a worker, after its successor has started."""
        victim = await self._victim()
        self._replace(victim)
        calm = self.calm()
        victim.process.send_signal(signal.SIGTERM)
        await self._ends(victim, strict=calm)

    async def _directive(self) -> None:
        victim = await self._victim()
        self._replace(victim)
        body = {"worker_ids": [victim.name], "directive": "terminate"}
        calm = self.calm()
        told = await self.operator.insist("POST", f"{V1}/admin/workers/directive", body)
        assert told.done, told
        await self._ends(victim, strict=calm)

    async def end(self) -> None:
        """Terminate both workers, while no fault happens."""
        for worker in self.current:
            worker.process.send_signal(signal.SIGTERM)
        for worker in self.current:
            await self._ends(worker, strict=True)

    # -- waits --------------------------------------------------------------------------------

    async def _ends(self, worker: Worker, *, strict: bool) -> None:
        """Wait until a drain ends, and check that it leaves nothing half done."""
        began = time.monotonic()
        limit_s = GRACE_S + _SHUTDOWN_S + _START_AND_END_S
        with trio.move_on_after(limit_s):
            while worker.process.poll() is None:  # noqa: ASYNC110 - a process sets no event
                await trio.sleep(0.02)
        code = worker.process.poll()
        if code != 0:
            took_s = time.monotonic() - began
            self.problems.append(f"{worker.name} has exit code {code} after {took_s:.1f} s")
        self.ledger.read()
        if strict and self.calm():
            self.problems += self.ledger.half_settled(worker.name, began)

    async def _victim(self) -> Worker:
        """Wait until live workers run all held jobs; return the worker that runs most of them."""
        await self.settled()
        return max(self.current, key=lambda worker: len(self.ledger.held(worker.name)))

    async def settled(self) -> None:
        """Return when each held job has one handler in the live workers, and no other one.

        So every handler that has lost its lease has been cancelled.
        """
        jobs = {run.job for run in self.ledger.runs if run.type == "kill.holds"}

        def one_each() -> bool:
            names = {worker.name for worker in self.workers if not worker.killed}
            held = [run.job for run in self.ledger.held() if run.worker in names]
            return len(held) == len(set(held)) and set(held) >= jobs

        await self.until(one_each, "each held job has one handler")

    async def _cancelled(self, runs: list[Run]) -> None:
        await self.until(
            lambda: all(run.finish == "cancelled" for run in runs),
            f"{len(runs)} handlers are cancelled",
        )

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Read the ledger until a condition holds.

        The time in which a cluster replaces a killed master does not count. It depends on the
        machine, and the fault has a limit of its own.

        Raises:
            AssertionError: it did not hold in time.
        """
        waited_s = 0.0
        while waited_s < PATIENCE_S:
            before, counts = time.monotonic(), self.served()
            self.ledger.read()
            if condition():
                return
            await trio.sleep(0.05)
            waited_s += time.monotonic() - before if counts else 0.0
        logs = "\n".join(worker.log_tail() for worker in self.current)
        raise AssertionError(f"not reached in {PATIENCE_S} s: {what}\n{logs}")

    def _is_taken(self, run: Run) -> bool:
        return any(
            it.job == run.job and it.worker != run.worker and it.began > run.began
            for it in self.ledger.runs
        )

    def _tell(self, worker: Worker, command: str) -> None:
        self.tunnels[worker.slot].tell(command, self.port)
