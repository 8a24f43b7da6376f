"""What operators do to processes: other settings, other numbers of partitions, clocks, imports."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import httpx
import trio

from tests.chaos import imports
from tests.chaos.clock import offset_of
from tests.chaos.history import Answer, History, Outcome
from tests.chaos.installation import Installation
from tests.chaos.names import BOUNDED, PARTITIONS
from tests.chaos.schedule import Fault
from tests.support.nodes import ApiNode, Process

_PARTITIONS: Final = "OJS_QUEUE_PARTITIONS"
_SETTINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "OJS_FAST_LANE": ("0", "1"),
    "OJS_REDIS_MAX_IN_FLIGHT": ("16", "1024"),
    "OJS_REDIS_CALL_TIMEOUT": ("4s", "6s", "12s"),
    "OJS_HISTORY_ENABLED": ("true", "false"),
    "OJS_ERRORS_KEPT": ("1", "10"),
    "OJS_UI": ("off", "full"),
    "OJS_SEARCH_INDEX": ("", "meta.tenant_id,tags"),
    "OJS_HEARTBEAT_INTERVAL_MS": ("1000", "2000", "5000"),
    "OJS_SCHEDULER_LEASE": ("2s", "4s"),
    "OJS_METRICS_TYPES": ("0", "20"),
    "OJS_MAX_BATCH": ("100", "1000"),
    "OJS_LOG_LEVEL": ("INFO", "DEBUG"),
}
"""Settings that change no rule of the checker, with some of their values."""
_CHANGED: Final = 3
"""How many settings a process gets at once."""
_IMPORTED_WITHIN_S: Final = 60.0
_GROWN_WITHIN_S: Final = 60.0
_TRIES: Final = 20


class ProcessChanges:
    """Changes how the processes of an installation run."""

    def __init__(self, installation: Installation, history: History) -> None:
        self._installation = installation
        self._history = history
        self._partitions = PARTITIONS[0]
        self._imports = 0

    async def change_partitions(self, fault: Fault) -> str:
        """Restart all processes in any order with another default number of partitions."""
        chance = random.Random(fault.choice)
        self._partitions = chance.choice([each for each in PARTITIONS if each != self._partitions])
        processes = self._processes()
        chance.shuffle(processes)
        began = trio.current_time()
        # Processes read the number at their start. Until the last one has started, some may restart
        # with the old number, for example because they were killed.
        span = (began, began)
        self._history.repartitioned.append(span)
        new = {_PARTITIONS: str(self._partitions)}
        one_by_one = chance.random() < 0.5
        async with trio.open_nursery() as nursery:
            for each in processes:
                kill = chance.random() < 0.3
                if one_by_one:
                    await self._restart(each, new, kill)
                    await self._ready(each)
                else:
                    nursery.start_soon(self._restart, each, new, kill)
        for node in self._installation.nodes:
            await self._ready(node)
        is_over = await self._has_partitions(self._installation.nodes[0])
        self._history.repartitioned.remove(span)
        self._history.repartitioned.append((began, trio.current_time() if is_over else math.inf))
        return f"{self._partitions} partitions"

    async def _has_partitions(self, node: ApiNode) -> bool:
        """Wait until queues have the new number: a scheduler copies their settings before."""
        path = f"/ojs/v1/admin/queues/{BOUNDED}/config"
        async with httpx.AsyncClient(base_url=node.url, timeout=10) as api:
            with trio.move_on_after(_GROWN_WITHIN_S):
                while True:
                    with suppress(httpx.HTTPError):
                        answer = await api.get(path)
                        if answer.is_success and answer.json()["partitions"] == self._partitions:
                            return True
                    await trio.sleep(0.5)
        return False

    async def change_settings(self, fault: Fault) -> str:
        """Restart a process with other settings, which it keeps."""
        chance = random.Random(fault.choice)
        settings = {
            name: chance.choice(_SETTINGS[name]) for name in chance.sample([*_SETTINGS], _CHANGED)
        }
        chosen = chance.choice(self._processes())
        await self._restart(chosen, settings, False)
        await self._ready(chosen)
        return f"{_process(chosen).name} with {settings}"

    async def skew(self, fault: Fault) -> str:
        """Set the clock of some processes ahead or back for a time, while they run."""
        clock = self._installation.clock
        assert clock is not None
        offset_s = offset_of(fault.choice)
        clock.set(offset_s)
        await trio.sleep(fault.length)
        clock.set(0)
        return f"by {offset_s:.0f} s"

    async def import_jobs(self, fault: Fault) -> str:
        """Import an archive; kill the first try after a time."""
        self._imports += 1
        chance = random.Random(fault.choice)
        path = self._installation.directory / f"import-{self._imports}.jsonl"
        began, tries = trio.current_time(), 0
        jobs = imports.write_archive(path, chance, int(time.time() * 1000))
        outcome: Outcome = "unknown"
        deadline = began + _IMPORTED_WITHIN_S
        # Another process may read the jobs before the import has ended.
        imports.record(self._history, jobs, Answer(began, began, "unknown"))
        while tries < _TRIES and trio.current_time() < deadline and outcome == "unknown":
            tries += 1
            process = self._installation.command(f"import-{self._imports}-{tries}", "import", path)
            process.start()
            limit_s = fault.length if tries == 1 else _IMPORTED_WITHIN_S
            with trio.move_on_after(limit_s):
                while process.is_alive():  # noqa: ASYNC110 - a process sets no event
                    await trio.sleep(0.05)
            if await trio.to_thread.run_sync(process.end) == 0:
                outcome = "done"
        imports.record(self._history, jobs, Answer(began, trio.current_time(), outcome))
        return f"{len(jobs)} jobs, {outcome} after {tries} tries"

    def _processes(self) -> list[ApiNode | Process]:
        return [*self._installation.nodes, *self._installation.schedulers]

    async def _restart(
        self, which: ApiNode | Process, settings: Mapping[str, str], kill: bool
    ) -> None:
        process = _process(which)
        if kill:
            await trio.to_thread.run_sync(process.kill_all)
        else:
            await trio.to_thread.run_sync(process.stop)
        process.env = {**process.env, **settings}
        process.start()

    async def _ready(self, which: ApiNode | Process) -> None:
        if isinstance(which, ApiNode):
            await trio.to_thread.run_sync(which.await_ready)


def _process(which: ApiNode | Process) -> Process:
    return which.process if isinstance(which, ApiNode) else which
