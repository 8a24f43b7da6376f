"""A cluster under constant load: clients, API processes, masters.

Every client has one connection to one API process. It enqueues, fetches and acknowledges jobs, one
request after the other. A request needs one command, to the master of its queue's shard. The
commands of a turn go to each master in pieces of ``Costs.burst`` and one with the rest, as
``ojs_cluster.redis.connection`` sends them. A master replies at the end of a turn to everything
that it read in the turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from random import Random

from loadtest.sim.costs import Costs
from loadtest.sim.engine import Action, Engine
from loadtest.sim.process import Process
from ojs_cluster.keys import Keyspace

SLOTS = 16384
_IN = 0.6
"""The part of a request's API cost before its command is sent."""


@dataclass(frozen=True, slots=True)
class Setup:
    """The parameters of a simulation.

    Args:
        masters: number of masters; one with ``clustered`` False is a standalone server.
        clustered: whether the masters are a cluster.
        apis: API processes.
        connections: clients of each API process.
        shards: logical shards (``OJS_SHARDS``).
        network_us: one-way latency between any two machines, in microseconds.
        load_process: whether clients are one process with a cost, as in benchmarks.
        own_queue: whether each client uses one queue; otherwise each job goes to a random queue.
    """

    masters: int
    apis: int = 1
    connections: int = 32
    shards: int = 64
    clustered: bool = True
    network_us: float = 0.0
    load_process: bool = False
    own_queue: bool = False
    seed: int = 1


@dataclass(slots=True)
class Command:
    """A request in transit. ``sent_at`` is when its client sent it."""

    verb: str
    client: Client
    master: int
    sent_at: float


@dataclass(slots=True)
class Client:
    """One connection and its next request."""

    api: int
    verbs: Iterator[str]
    shard: int
    requests: int = 0


@dataclass(slots=True)
class Replies:
    """The replies of a master to what it read from one API process in one turn."""

    commands: Sequence[Command]


@dataclass(slots=True)
class Piece:
    """Commands that an API process has sent in one piece."""

    api: int
    commands: list[Command] = field(default_factory=list)


class Cluster:
    """All processes of a setup."""

    def __init__(self, setup: Setup, costs: Costs) -> None:
        self.engine = Engine()
        self.setup = setup
        self.costs = costs
        self.random = Random(setup.seed)
        self.times_us: list[float] = []
        self.begun = self.ended = 0
        self.served = [0] * setup.masters
        self.masters = [
            Process[Piece](self.engine, partial(self._master_turn, number), costs.redis_wake)
            for number in range(setup.masters)
        ]
        self.apis = [
            Process[Command | Replies](self.engine, partial(self._api_turn, number))
            for number in range(setup.apis)
        ]
        self.load = Process[Command](self.engine, self._load_turn)
        self.homes = homes(setup.shards, setup.masters)
        self._script = {
            "enqueue": costs.redis_enqueue,
            "fetch": costs.redis_fetch,
            "ack": costs.redis_ack,
        }
        self._check_us = costs.redis_slot_check * setup.clustered
        self.clients = [
            Client(api, cycle(("enqueue", "fetch", "ack")), self.random.randrange(setup.shards))
            for api in range(setup.apis)
            for _ in range(setup.connections)
        ]

    def run(self, until_us: float) -> None:
        """Start all clients, spread over a millisecond, and simulate up to ``until_us``."""
        if not self.begun:
            for client in self.clients:
                start_us = self.random.uniform(0, 1000)
                self.engine.at(start_us, partial(self._begin, client))
        self.engine.run(until_us)

    def forget(self) -> None:
        """Reset the counters after the warm-up."""
        self.times_us.clear()
        self.served = [0] * len(self.masters)
        for master in self.masters:
            master.busy_us = 0.0
        for api in self.apis:
            api.busy_us = 0.0
        self.load.busy_us = 0.0

    def _begin(self, client: Client) -> None:
        verb = next(client.verbs)
        if verb == "enqueue" and not self.setup.own_queue:
            client.shard = self.random.randrange(self.setup.shards)
        self.begun += 1
        command = Command(verb, client, self.homes[client.shard], self.engine.now)
        self._after_network(partial(self.apis[client.api].receive, command))

    def _after_network(self, action: Action) -> None:
        if self.setup.network_us:
            moment = self.engine.now + self.setup.network_us * self.random.uniform(0.8, 1.2)
            self.engine.at(moment, action)
        else:
            action()

    def _arrive(self, command: Command) -> None:
        """A response reaches its client, which sends the next request."""
        self.ended += 1
        self.times_us.append(self.engine.now - command.sent_at)
        if self.setup.load_process:
            self.load.receive(command)
        else:
            self._begin(command.client)

    def _load_turn(self, taken: Sequence[Command]) -> tuple[float, list[tuple[float, Action]]]:
        used = self.costs.load_turn
        sent: list[tuple[float, Action]] = []
        for command in taken:
            used += self.costs.load_request
            sent.append((used, partial(self._begin, command.client)))
        return used, sent

    def _api_turn(
        self, number: int, taken: Sequence[Command | Replies]
    ) -> tuple[float, list[tuple[float, Action]]]:
        costs, used = self.costs, self.costs.api_turn
        sent: list[tuple[float, Action]] = []
        pieces: dict[int, Piece] = {}

        responses: list[Command] = []

        def send(master: int) -> None:
            nonlocal used
            used += costs.api_send
            deliver = partial(self.masters[master].receive, pieces.pop(master))
            sent.append((used, partial(self._after_network, deliver)))

        def respond() -> None:
            for command in responses:
                arrive = partial(self._arrive, command)
                sent.append((used, partial(self._after_network, arrive)))
            responses.clear()

        for item in taken:
            if isinstance(item, Replies):
                used += costs.api_read
                for command in item.commands:
                    used += costs.api_request * (1 - _IN)
                    responses.append(command)
                    if len(responses) >= costs.responses:
                        respond()
                respond()
                continue
            used += costs.api_request * _IN
            piece = pieces.setdefault(item.master, Piece(number))
            piece.commands.append(item)
            if len(piece.commands) >= costs.burst:
                send(item.master)
        for master in list(pieces):
            send(master)
        return used, sent

    def _master_turn(
        self, number: int, taken: Sequence[Piece]
    ) -> tuple[float, list[tuple[float, Action]]]:
        costs, used = self.costs, self.costs.redis_turn
        replies: dict[int, list[Command]] = {}
        for piece in taken:
            replies.setdefault(piece.api, []).extend(piece.commands)
        for commands in replies.values():
            used += costs.redis_read
            used += sum(self._check_us + self._script[command.verb] for command in commands)
            self.served[number] += len(commands)
        sent: list[tuple[float, Action]] = []
        for api, commands in replies.items():
            deliver = partial(self.apis[api].receive, Replies(commands))
            sent.append((used, partial(self._after_network, deliver)))
        return used, sent


def homes(shards: int, masters: int) -> list[int]:
    """Return the master of each shard, with the slots split evenly."""
    return [shard.slot * masters // SLOTS for shard in Keyspace(shards)]
