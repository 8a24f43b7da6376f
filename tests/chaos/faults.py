"""Inject the faults of a schedule, heal them, and record their real times."""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import redis
import trio

from ojs_cluster.server.embedded.servers import EmbeddedError, EmbeddedNode
from tests.chaos import disk
from tests.chaos.history import History
from tests.chaos.installation import Installation
from tests.chaos.schedule import Fault
from tests.chaos.servers import command, id_of, is_well, limit_memory, owns, shard_slots
from tests.chaos.settings import ProcessChanges
from tests.redis.slots import Mover, cluster_command
from tests.support.nodes import await_death
from tests.support.servers import replicas_of

T = TypeVar("T")

HEALED_WITHIN_S: Final = 300.0
"""How long a cluster may take to serve all slots again, in seconds.

On a busy machine, a replica may need several elections."""
_FULL: Final = 1
"""Bytes of maxmemory with which a master refuses all writes."""
_LATE_S: Final = 2.0
"""How long a demoted master may answer clients, in seconds."""

LOSING: Final = frozenset(
    {"kill a master", "stop a master until it is replaced", "force a failover"}
)
"""Faults that may lose unreplicated writes."""


@dataclass(slots=True)
class Journal:
    """What really happened, in seconds after the start."""

    start: float
    lines: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    """How often each kind of fault has happened."""

    def note(self, fault: Fault, began: float, what: str) -> None:
        """Record a healed fault."""
        ended = trio.current_time() - self.start
        self.lines.append(
            f"{began - self.start:6.1f} to {ended:6.1f} s  {fault.track}: {fault.kind}: {what}"
        )
        self.kinds[fault.kind] += 1


class FaultInjector:
    """Injects faults into one installation."""

    def __init__(
        self, installation: Installation, history: History, kill_worker: Callable[[float], str]
    ) -> None:
        self._installation = installation
        self._history = history
        self._kill_worker = kill_worker
        self._changes = ProcessChanges(installation, history)
        self.journal = Journal(trio.current_time())
        self._end = self.journal.start

    async def run(self, faults: Sequence[Fault], seconds: float) -> None:
        """Return when every fault has happened and is healed.

        On a busy machine, faults take longer than planned. Those that could only begin after the
        time in seconds are left out.
        """
        self._end = self.journal.start + seconds
        async with trio.open_nursery() as nursery:
            for track in dict.fromkeys(fault.track for fault in faults):
                nursery.start_soon(self._track, [it for it in faults if it.track == track])

    async def _track(self, faults: Sequence[Fault]) -> None:
        for fault in faults:
            await trio.sleep_until(self.journal.start + fault.at)
            if trio.current_time() > self._end:
                break
            began = trio.current_time()
            make: Callable[[Fault], Any] = getattr(self, METHODS[fault.kind])
            what = await make(fault)
            self.journal.note(fault, began, what)
            if fault.kind in LOSING:
                self._history.losses.append((began, trio.current_time() + _LATE_S))

    # -- Redis --------------------------------------------------------------------------------

    async def kill_master(self, fault: Fault) -> str:
        """Restart the master only after its replica leads, because it restarts without data."""
        master = await self._master(fault)
        await _thread(self._installation.backend.kill, master)
        await self._until(lambda: self._is_replaced(master))
        await trio.sleep(fault.length)
        await _thread(self._installation.backend.restart, master)
        await self._until(self._is_whole)
        return f"node {master.index}"

    async def kill_replica(self, fault: Fault) -> str:
        masters = await _thread(self._installation.backend.masters)
        replicas = [node for node in self._installation.backend.nodes if node not in masters]
        victim = _choose(replicas, fault)
        await _thread(self._installation.backend.kill, victim)
        await trio.sleep(fault.length)
        await _thread(self._installation.backend.restart, victim)
        await self._until(self._is_whole)
        return f"node {victim.index}"

    async def kill_server(self, fault: Fault) -> str:
        node = self._installation.backend.nodes[0]
        await _thread(self._installation.backend.kill, node)
        await trio.sleep(fault.length)
        await _thread(self._installation.backend.restart, node)
        return "it has its data on disk"

    async def stop_shortly(self, fault: Fault) -> str:
        master = await self._master(fault)
        async with self._stopped(master):
            await trio.sleep(fault.length)
        return f"node {master.index}"

    async def stop_until_replaced(self, fault: Fault) -> str:
        master = await self._master(fault)
        async with self._stopped(master):
            await self._until(lambda: self._is_replaced(master))
            await trio.sleep(fault.length)
        await self._until(self._is_whole)
        return f"node {master.index}"

    async def fail_over(self, fault: Fault) -> str:
        return await self._fail_over(fault)

    async def force_failover(self, fault: Fault) -> str:
        return await self._fail_over(fault, "FORCE")

    async def _fail_over(self, fault: Fault, *how: str) -> str:
        master = await self._master(fault)
        [replica] = await _thread(replicas_of, self._installation.backend, master)

        def ask() -> bool:
            if self._is_replaced(master):
                return True
            with contextlib.suppress(redis.RedisError), replica.client() as client:
                cluster_command(client, "FAILOVER", *how)
            return False

        await self._until(ask, every_s=1.0)
        await self._until(self._is_whole)
        return f"node {replica.index} takes over from node {master.index}"

    async def move_slots_as_a_whole(self, fault: Fault) -> str:
        return await self._move(fault, whole=True)

    async def move_slots_by_key(self, fault: Fault) -> str:
        return await self._move(fault, whole=False)

    async def _move(self, fault: Fault, *, whole: bool) -> str:
        source = await self._master(fault)
        masters = await _thread(self._installation.backend.masters)
        target = next(node for node in masters if node is not source)

        def move() -> str:
            mover = Mover(self._installation.backend)
            mover.masters = masters
            mover.ids = {node.index: id_of(node) for node in masters}
            slots = [slot for slot in shard_slots() if owns(source, slot)]
            chosen = random.Random(fault.choice).sample(slots, min(3, len(slots)))
            if whole and chosen:
                mover.move_atomically(chosen, source, target)
            for slot in () if whole else chosen:
                mover.move(slot, source, target)
            return f"{len(chosen)} slots from node {source.index} to node {target.index}"

        what: str = await _thread(move)
        await self._until(self._is_whole)
        return what

    async def fill(self, fault: Fault) -> str:
        master = await self._master(fault)
        await _thread(limit_memory, master, _FULL)
        await trio.sleep(fault.length)
        for node in self._installation.backend.nodes:
            await _thread(limit_memory, node, 0)
        return f"node {master.index}"

    async def fill_disk(self, fault: Fault) -> str:
        """Let a snapshot of a master fail: until one succeeds, the master refuses writes."""
        master = await self._master(fault)
        await _thread(disk.set_snapshots, master)
        await _thread(disk.fill, master)
        try:
            failed = await _thread(disk.snapshot, master) == "err"
            await trio.sleep(fault.length)
        finally:
            await _thread(disk.empty, master)
        await self._until(lambda: disk.snapshot(master) == "ok", every_s=0.5)
        await _thread(disk.set_snapshots, master, "")
        return f"node {master.index}{'' if failed else ', which had room enough'}"

    async def fill_disk_of_aof(self, fault: Fault) -> str:
        """Let writes of the AOF fail: the server refuses writes, or ends."""
        [node] = self._installation.backend.nodes
        ends = fault.choice < 0.5
        if not ends:
            await _thread(disk.set_fsync, node, "everysec")
        await _thread(disk.fill, node)
        await trio.sleep(fault.length)
        if node.is_alive():
            await _thread(disk.empty, node)
            await self._until(lambda: disk.writes_aof(node))
            await _thread(disk.set_fsync, node, "always")
            return "it refused writes"
        await _thread(self._installation.backend.restart, node)
        return "it ended"

    async def flush_scripts(self, fault: Fault) -> str:
        for node in self._installation.backend.nodes:
            await _thread(command, node, "SCRIPT", "FLUSH")
        return "all nodes"

    async def kill_clients(self, fault: Fault) -> str:
        master = await self._master(fault)
        await _thread(command, master, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        return f"node {master.index}"

    # -- processes ----------------------------------------------------------------------------

    async def kill_api_process(self, fault: Fault) -> str:
        pid = await self._api_process(fault)
        os.kill(pid, signal.SIGKILL)
        await _thread(await_death, pid)
        return f"process {pid}"

    async def kill_api_node(self, fault: Fault) -> str:
        node = _choose(self._installation.nodes, fault)
        orphans = await _thread(node.api_processes)
        await _thread(node.process.kill)
        for orphan in orphans:
            await _thread(await_death, orphan)
        await trio.sleep(fault.length)
        node.process.start()
        return node.process.name

    async def stop_api_process(self, fault: Fault) -> str:
        pid = await self._api_process(fault)
        async with _stopped([pid]):
            await trio.sleep(fault.length)
        return f"process {pid}"

    async def kill_scheduler(self, fault: Fault) -> str:
        process = _choose(self._installation.schedulers, fault)
        orphans = await _thread(process.children)
        await _thread(process.kill)
        for orphan in orphans:
            with contextlib.suppress(ProcessLookupError):
                os.kill(orphan, signal.SIGKILL)
        await trio.sleep(fault.length)
        process.start()
        return process.name

    async def stop_scheduler(self, fault: Fault) -> str:
        process = _choose(self._installation.schedulers, fault)
        async with _stopped([process.pid, *await _thread(process.children)]):
            await trio.sleep(fault.length)
        return process.name

    async def kill_worker(self, fault: Fault) -> str:
        return self._kill_worker(fault.choice)

    async def change_partitions(self, fault: Fault) -> str:
        what = await self._changes.change_partitions(fault)
        with trio.move_on_at(self._end):
            await trio.sleep(fault.length)
        return what

    async def change_settings(self, fault: Fault) -> str:
        return await self._changes.change_settings(fault)

    async def skew_clocks(self, fault: Fault) -> str:
        return await self._changes.skew(fault)

    async def import_jobs(self, fault: Fault) -> str:
        return await self._changes.import_jobs(fault)

    # -- the network --------------------------------------------------------------------------

    async def cut_off(self, fault: Fault) -> str:
        return await self._tunnel(fault, "close")

    async def cut_some(self, fault: Fault) -> str:
        return await self._tunnel(fault, "cut", 0.5)

    async def silence(self, fault: Fault) -> str:
        return await self._tunnel(fault, "silence")

    async def lose(self, fault: Fault) -> str:
        """Leave connections half open: in one or both directions, all that they carry is lost."""
        direction = ("both", "requests", "replies")[int(3 * fault.choice)]
        await self._tunnel(fault, "lose", direction)
        return f"{direction}"

    async def slow(self, fault: Fault) -> str:
        return await self._tunnel(fault, "slow", 20 + 180 * fault.choice)

    async def _tunnel(self, fault: Fault, command: str, *amount: object) -> str:
        tunnels, node = self._installation.tunnels, _choose(self._installation.backend.nodes, fault)
        assert tunnels is not None
        await _thread(tunnels.tell, command, node.port, *amount)
        await trio.sleep(fault.length)
        await _thread(tunnels.tell, "heal", node.port)
        return f"node {node.index}"

    # -- lookups --------------------------------------------------------------------------------

    async def _master(self, fault: Fault) -> EmbeddedNode:
        return _choose(await _thread(self._installation.backend.masters), fault)

    async def _api_process(self, fault: Fault) -> int:
        """Return an API process; wait for one when all have just been killed."""
        node = _choose(self._installation.nodes, fault)
        found: list[int] = []

        def some() -> bool:
            found[:] = node.api_processes() if node.process.is_alive() else []
            return bool(found)

        await self._until(some)
        return _choose(found, fault)

    @asynccontextmanager
    async def _stopped(self, node: EmbeddedNode) -> AsyncIterator[None]:
        async with _stopped([node.pid]):
            yield

    def _is_replaced(self, master: EmbeddedNode) -> bool:
        """Ask another node, as the master may be stopped."""
        others = [node for node in self._installation.backend.nodes if node is not master]
        with contextlib.suppress(redis.RedisError), others[0].client() as client:
            rows = cluster_command(client, "NODES").decode().splitlines()
            leading = [row.split() for row in rows if "master" in row.split()[2]]
            owners = [row for row in leading if len(row) > 8 and "fail" not in row[2]]
            ports = {int(row[1].split("@")[0].rpartition(":")[2]) for row in owners}
            return len(owners) == 3 and master.port not in ports
        return False

    def _is_whole(self) -> bool:
        """Return whether every slot is served and every master has a replica in sync."""
        backend = self._installation.backend
        if not backend.cluster:
            return True
        with contextlib.suppress(redis.RedisError, EmbeddedError):
            masters = backend.masters()
            return len(masters) == 3 and all(is_well(node) for node in backend.nodes)
        return False

    async def whole(self) -> None:
        """Return when all faults are healed."""
        await self._until(self._is_whole)
        for server in self._installation.backend.nodes:
            await _thread(limit_memory, server, 0)
        for node in self._installation.nodes:
            await _thread(node.await_ready)

    async def _until(self, condition: Callable[[], bool], every_s: float = 0.1) -> None:
        with trio.move_on_after(HEALED_WITHIN_S):
            while not await _thread(condition):  # noqa: ASYNC110 - others set no event
                await trio.sleep(every_s)
            return
        raise AssertionError(
            f"a fault was not healed in {HEALED_WITHIN_S} s\n{self._installation.logs()}"
        )


METHODS: Final = {
    "kill a master": "kill_master",
    "kill a replica": "kill_replica",
    "kill the server": "kill_server",
    "stop a master shortly": "stop_shortly",
    "stop the server for long": "stop_shortly",
    "stop a master until it is replaced": "stop_until_replaced",
    "fail over by hand": "fail_over",
    "force a failover": "force_failover",
    "move slots as a whole": "move_slots_as_a_whole",
    "move slots key by key": "move_slots_by_key",
    "fill a master": "fill",
    "flush scripts": "flush_scripts",
    "kill clients": "kill_clients",
    "kill an API process": "kill_api_process",
    "kill an API node": "kill_api_node",
    "stop an API process": "stop_api_process",
    "kill a scheduler": "kill_scheduler",
    "stop a scheduler": "stop_scheduler",
    "kill a worker": "kill_worker",
    "change the default of partitions": "change_partitions",
    "change settings": "change_settings",
    "skew clocks": "skew_clocks",
    "import jobs": "import_jobs",
    "fill a disk": "fill_disk",
    "fill the disk of the AOF": "fill_disk_of_aof",
    "lose what connections carry": "lose",
    "cut a node off": "cut_off",
    "cut some connections": "cut_some",
    "silence a node": "silence",
    "slow a node": "slow",
}


@asynccontextmanager
async def _stopped(pids: Sequence[int]) -> AsyncIterator[None]:
    """Stop processes (SIGSTOP) while the block runs. Some of them may be killed in that time."""
    try:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def _choose(items: Sequence[T], fault: Fault) -> T:
    return items[int(fault.choice * len(items))]


async def _thread(function: Callable[..., T], *args: Any) -> T:
    return await trio.to_thread.run_sync(lambda: function(*args))
