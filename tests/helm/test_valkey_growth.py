"""``valkey.masters`` may grow: empty masters join, and slots move to them under load."""

from __future__ import annotations

import itertools
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import redis

from ojs_cluster.server.embedded.servers import Embedded, ServerBinary
from tests.helm.chart import CHART, Chart
from tests.helm.test_valkey_hosts import hosts_of
from tests.helm.valkey_pods import CLI, PATIENCE_S, Pods, pods
from tests.support.servers import own_server, wait_until

VALUES = CHART / "ci" / "bundled-cluster-values.yaml"
SLOT_TAG = "kept"
KEYS = 40
needs_cli = pytest.mark.skipif(CLI is None, reason="needs valkey-cli or redis-cli")


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Any]]:
    """The chart's own modules, as the job imports them."""
    monkeypatch.syspath_prepend(str(CHART / "files"))
    names = ("valkey_nodes", "valkey_slots")
    loaded: tuple[ModuleType, ...] = tuple(import_module(name) for name in names)
    yield loaded[0], loaded[1]
    loaded[0]._client.cache_clear()
    for name in names:
        del sys.modules[name]


class Died(BaseException):
    """The pod of a job is deleted."""


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """Three masters, whose slots the tests may move."""
    with own_server(tmp_path_factory.mktemp("three")) as servers:
        yield servers


def slot_of(tag: str) -> int:
    return int(redis.crc.key_slot(tag.encode()))


def values(servers: Embedded) -> set[bytes | None]:
    """What clients read."""
    with redis.RedisCluster(host="127.0.0.1", port=servers.nodes[0].port) as client:
        return {client.get(f"{{{SLOT_TAG}}}-{number}") for number in range(KEYS)}


def claims(modules: tuple[Any, Any], nodes: list[Any], slot: int) -> list[Any]:
    """Return the nodes that claim a slot."""
    return [node for node in nodes if slot in modules[0].myself(node).slots]


def open_slots(modules: tuple[Any, Any], nodes: list[Any]) -> list[Any]:
    return [each for node in nodes for each in modules[0].myself(node).moving]


@pytest.mark.parametrize("before", [True, False], ids=["unsent", "sent"])
def test_a_slot_arrives_wherever_its_job_died(
    three: Embedded, modules: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    module, slots = modules
    nodes = [module.Node("127.0.0.1", node.port) for node in three.nodes]
    slot = slot_of(SLOT_TAG)
    with redis.RedisCluster(host="127.0.0.1", port=nodes[0].port) as client:
        for number in range(KEYS):
            client.set(f"{{{SLOT_TAG}}}-{number}", number)
    wanted = {str(number).encode() for number in range(KEYS)}
    send = module.Node.send

    for point in itertools.count(1):
        cluster = slots.Cluster(nodes)
        source = cluster.owner(slot)
        target = next(node for node in nodes if node != source)
        left = itertools.count(point, -1)

        def die(node: Any, *command: Any, left: Iterator[int] = left) -> Any:
            last = next(left) == 1
            if last and before:
                raise Died
            reply = send(node, *command)
            if last:
                raise Died
            return reply

        monkeypatch.setattr(module.Node, "send", die)
        try:
            slots.SlotMover(cluster, source, target).move([slot])
        except Died:
            died = True
        else:
            died = False
        monkeypatch.setattr(module.Node, "send", send)

        def completed() -> bool:
            try:
                slots.complete_open_slots(nodes)
            except (module.NotYet, redis.ResponseError):
                return False  # it has not heard of the new owner yet, and tries again
            return not open_slots(modules, nodes) and len(claims(modules, nodes, slot)) == 1

        wait_until(completed, what=f"what died at command {point} is complete")
        assert values(three) == wanted
        assert sum(slots.keys_in(node, slot) for node in nodes) == KEYS
        if not died:
            break
    assert point > 10  # every command of a move was a point to die at


def test_a_slot_whose_target_is_gone_stays(three: Embedded, modules: tuple[Any, Any]) -> None:
    module, slots = modules
    nodes = [module.Node("127.0.0.1", node.port) for node in three.nodes]
    cluster = slots.Cluster(nodes)
    source, target = nodes[:2]
    slot = max(cluster.members[source].slots)
    source.send("CLUSTER", "SETSLOT", slot, "MIGRATING", cluster.members[target].id)
    left = [node for node in nodes if node != target]  # the target's pod is another node now

    slots.complete_open_slots(left)

    assert not open_slots(modules, nodes)
    assert claims(modules, nodes, slot) == [source]


def test_a_key_that_two_masters_have_is_not_overwritten(
    three: Embedded, modules: tuple[Any, Any]
) -> None:
    # As after a failover of the source on a server that loses the state of a moving slot.
    module, slots = modules
    nodes = [module.Node("127.0.0.1", node.port) for node in three.nodes]
    cluster = slots.Cluster(nodes)
    slot = slot_of("twice")
    source = cluster.owner(slot)
    target = next(node for node in nodes if node != source)
    ids = {node: cluster.members[node].id for node in nodes}
    target.send("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
    with redis.Redis(target.host, target.port) as client:
        client.execute_command("ASKING")
    with redis.Redis(target.host, target.port, single_connection_client=True) as client:
        client.execute_command("ASKING")
        client.execute_command("SET", "{twice}", "moved")
    source.send("SET", "{twice}", "made again")
    try:
        with pytest.raises(SystemExit, match="a key is at"):
            slots.SlotMover(cluster, source, target).move([slot])
        assert source.send("GET", "{twice}") == b"made again"
    finally:
        source.send("DEL", "{twice}")
        wait_until(lambda: not slots.complete_open_slots(nodes), what="it moves now")
    assert target.send("GET", "{twice}") == b"moved"


def test_fewer_masters_are_refused(three: Embedded, modules: tuple[Any, Any]) -> None:
    nodes = [modules[0].Node("127.0.0.1", node.port) for node in three.nodes]
    with pytest.raises(SystemExit, match=r"has 3 masters and valkey\.masters is 2: masters cannot"):
        modules[1].grow(nodes, 2, 0)


def test_a_batch_of_keys_shrinks_when_it_blocks_a_master_too_long(
    three: Embedded, modules: tuple[Any, Any]
) -> None:
    # Every batch takes longer than zero and less than an hour.
    module, slots = modules
    nodes = [module.Node("127.0.0.1", node.port) for node in three.nodes]
    cluster = slots.Cluster(nodes)
    slot = slot_of(SLOT_TAG)
    source = cluster.owner(slot)
    target = next(node for node in nodes if node != source)
    for bound_s, batch in [(0.0, 1), (3600.0, slots.MOST_KEYS)]:
        slots.BLOCK_S = bound_s
        mover = slots.SlotMover(slots.Cluster(nodes), source, target)
        mover._batch = 2 if bound_s == 0 else slots.MOST_KEYS // 2
        with redis.RedisCluster(host="127.0.0.1", port=nodes[0].port) as client:
            for number in range(KEYS):
                client.set(f"{{{SLOT_TAG}}}-{number}", number)
        mover.move([slot])
        assert mover._batch == batch
        source, target = target, source


class Traffic:
    """A client that writes and reads until it is stopped."""

    def __init__(self, port: int) -> None:
        self.written = 0
        self.wrong: list[str] = []
        self._port = port
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        with redis.RedisCluster(host="127.0.0.1", port=self._port, socket_timeout=60) as client:
            while not self._over.is_set():
                client.set(f"key-{self.written}", self.written)
                back = client.get(f"key-{self.written}")
                if back != str(self.written).encode():
                    self.wrong.append(f"{self.written}: {back!r}")
                self.written += 1


@needs_cli
def test_five_masters_share_the_slots_of_three_under_traffic(
    chart: Chart, server_binary: ServerBinary, tmp_path: Path
) -> None:
    with pods(chart.render(VALUES), server_binary, tmp_path, hosts="abcbca") as grown:
        grown.formed()
        grow(grown, chart, "abcbcaabca")


@needs_cli
@pytest.mark.soak
def test_slots_move_key_by_key_without_atomic_moves(
    chart: Chart, server_binary: ServerBinary, tmp_path: Path
) -> None:
    with pods(chart.render(VALUES), server_binary, tmp_path, hosts="abcbca") as grown:
        slots = Path(grown.script("/scripts/valkey_slots.py"))
        slots.write_text(slots.read_text().replace('b"MIGRATESLOTS"', 'b"NOT KNOWN"'))
        grown.formed()
        grow(grown, chart, "abcbcaabca", patience_s=3600)


def grow(here: Pods, chart: Chart, hosts: str, *, patience_s: float = PATIENCE_S) -> None:
    """Grow to five masters, with a job that dies once, and check the result."""
    here.rendering = chart.render(VALUES, sets={"valkey.masters": 5})
    with Traffic(here.nodes[0].port) as traffic:
        wait_until(lambda: traffic.written > 10, what="clients are at work")
        here.add(10, hosts)
        here.meet()
        job = here.form()
        wait_until(
            lambda: "slots are left to move" in here.log("form") or job.poll() is not None,
            timeout_s=PATIENCE_S,
            what="slots move",
        )
        job.kill()
        job.wait(PATIENCE_S)
        assert here.form().wait(patience_s) == 0, here.log("form")
        before = traffic.written
        wait_until(lambda: traffic.written > before + 10, what="clients are still at work")
    assert not traffic.wrong

    sizes = []
    for pod in here.all:
        own = pod.myself()
        spans = [part.split("-") for part in own[8:]]
        if spans:
            sizes.append(sum(int(span[-1]) - int(span[0]) + 1 for span in spans))
    assert sorted(sizes) == [3276, 3277, 3277, 3277, 3277]
    parts = here.layout()
    masters = [id_ for id_, part in parts.items() if part[0] == "master"]
    assert Counter(part[1] for part in parts.values() if part[0] == "slave") == dict.fromkeys(
        masters, 1
    )
    assert all(here.is_ready(pod) for pod in here.all)
    wait_until(
        lambda: all(master not in replicas for master, replicas in hosts_of(here)),
        timeout_s=PATIENCE_S,
        what="replicas are on other hosts than their masters",
    )
    with redis.RedisCluster(host="127.0.0.1", port=here.nodes[-1].port) as client:
        assert all(
            client.get(f"key-{number}") == str(number).encode()
            for number in range(0, traffic.written, 1 + traffic.written // 500)
        )
    here.formed()
    assert here.layout() == parts
