"""The measured cost of each step: ``costs.toml``, where each line tells how it was measured."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATH = Path(__file__).with_name("costs.toml")


@dataclass(frozen=True, slots=True)
class Costs:
    """Processor time in us, unless the name says otherwise. See ``costs.toml`` for each."""

    api_request: float
    api_turn: float
    api_send: float
    api_read: float
    api_message: float
    api_empty_look: float
    redis_wake: float
    redis_turn: float
    redis_read: float
    redis_slot_check: float
    redis_enqueue: float
    redis_fetch: float
    redis_fetch_empty: float
    redis_ack: float
    redis_publish: float
    redis_message: float
    redis_lease: float
    load_request: float
    load_turn: float
    scheduler_idle: float
    scheduler_shard_idle: float
    topology_master: float
    burst: int
    responses: int


@dataclass(frozen=True, slots=True)
class Observed:
    """A measurement that the simulation must reproduce: lifecycles on a machine with two cores.

    Costs are microseconds of processor time per request.
    """

    name: str
    masters: int
    connections: int
    api_us: float
    redis_us: float
    requests_s: float
    clustered: bool = True


def load(path: Path = PATH) -> tuple[Costs, list[Observed]]:
    """Read the costs, and the measurements to compare with.

    Raises:
        TypeError: a value is missing or unknown.
    """
    found: dict[str, Any] = tomllib.loads(path.read_text())
    return Costs(**found["costs"]), [Observed(**each) for each in found["observed"]]
