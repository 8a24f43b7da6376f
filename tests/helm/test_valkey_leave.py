"""Fewer replicas remove the last pods at once: masters among them are handed over before."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import redis

from ojs_cluster.server.embedded.servers import Embedded, ServerBinary
from ojs_cluster.server.supervision.process_spawner import spawn
from tests.helm.chart import CHART, Chart, Rendering
from tests.helm.test_valkey_cluster import has_a_replica_each, read
from tests.helm.valkey_pods import CLI, PATIENCE_S, Pods, pods
from tests.support.servers import own_server, wait_until

VALUES = CHART / "ci" / "bundled-cluster-values.yaml"
needs_cli = pytest.mark.skipif(CLI is None, reason="needs valkey-cli or redis-cli")


@pytest.fixture
def leave(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The chart's own module, as the hook runs it."""
    monkeypatch.syspath_prepend(str(CHART / "files"))
    yield import_module("valkey_leave")
    for name in ("valkey_leave", "valkey_slots", "valkey_nodes"):
        del sys.modules[name]


@pytest.fixture(scope="module")
def nine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """Three masters with two replicas each; nothing beside them moves anything."""
    with own_server(tmp_path_factory.mktemp("nine"), replicas=2) as servers:
        yield servers


def identities(leave: Any, servers: Embedded) -> dict[str, Any]:
    """Return what every node reports about itself, by its id."""
    found = {}
    for server in servers.nodes:
        for member in leave.members(leave.Node("127.0.0.1", server.port)):
            if "myself" in member.flags:
                found[member.id] = member
    return found


def node_of(leave: Any, member: Any) -> Any:
    host, _, port = member.address.rpartition(":")
    return leave.Node(host, int(port))


def test_all_masters_are_handed_over_and_one_shard_as_a_whole(nine: Embedded, leave: Any) -> None:
    with redis.RedisCluster(host="127.0.0.1", port=nine.nodes[0].port) as client:
        for number in range(30):
            client.set(f"kept-{number}", number)
    before = identities(leave, nine)
    staying = [node_of(leave, each) for each in before.values() if not each.leads]

    leave.leave(staying, 3)

    after = identities(leave, nine)
    masters = {id_ for id_, each in after.items() if each.leads}
    assert not masters & {id_ for id_, each in before.items() if each.leads}
    assert len(masters) == 3

    # No remaining node has a copy of this shard.
    shard = min(masters)
    staying = [
        node_of(leave, each) for id_, each in after.items() if id_ != shard and each.master != shard
    ]
    assert len(staying) == 6
    leave.leave(staying, 3)

    kept = set(map(str, staying))
    last = identities(leave, nine)
    assert {each.address for each in last.values() if each.leads} <= kept
    # A shard keeps a remaining master, and no shard loses its last copy among the remaining nodes.
    assert sum(each.leads for each in last.values()) == 3
    with redis.RedisCluster(host="127.0.0.1", port=nine.nodes[0].port) as client:
        assert all(client.get(f"kept-{n}") == str(n).encode() for n in range(30))


def test_nothing_to_hand_over_changes_nothing(
    nine: Embedded, leave: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    before = identities(leave, nine)
    staying = [leave.Node("127.0.0.1", server.port) for server in nine.nodes]
    leave.leave(staying, 3)
    # More masters than exist yet; their nodes do not answer.
    leave.leave([*staying, leave.Node("127.0.0.1", 1)], 5)
    assert capsys.readouterr().out == "every master remains\n" * 2
    assert {i: (m.leads, m.master) for i, m in identities(leave, nine).items()} == {
        i: (m.leads, m.master) for i, m in before.items()
    }


def test_fewer_masters_are_refused_before_anything_changes(nine: Embedded, leave: Any) -> None:
    staying = [leave.Node("127.0.0.1", server.port) for server in nine.nodes[:2]]
    with pytest.raises(SystemExit, match=r"has 3 masters and valkey\.masters is 2: masters cannot"):
        leave.leave(staying, 2)


def test_a_first_install_has_nothing_to_hand_over(leave: Any) -> None:
    leave.leave([leave.Node("no-such-pod.no-such-service", 6379)], 3)


def test_a_replica_out_of_reach_stops_the_upgrade(
    nine: Embedded, leave: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A remaining node refuses to answer, so its role is unknown.
    monkeypatch.setattr(leave, "PATIENCE_S", 1)
    with nine.nodes[0].client() as client:
        client.config_set("requirepass", "another")
        try:
            staying = [leave.Node("127.0.0.1", server.port) for server in nine.nodes]
            import_module("valkey_nodes")._client.cache_clear()
            with pytest.raises(SystemExit, match="nothing was changed"):
                leave.leave(staying, 3)
        finally:
            client.config_set("requirepass", "")


def test_it_runs_before_an_upgrade_and_a_rollback_by_the_names_that_stay(chart: Chart) -> None:
    rendering = chart.render(VALUES, sets={"valkey.replicasPerMaster": 2})
    hook = rendering.one("Pod", "-leave")
    assert hook["metadata"]["annotations"]["helm.sh/hook"] == "pre-upgrade,pre-rollback"
    scripts = rendering.one("ConfigMap", "-leave")["metadata"]["annotations"]
    assert int(scripts["helm.sh/hook-weight"]) < 0
    (container,) = hook["spec"]["containers"]
    program, script, names, masters = container["command"]
    assert (program, script, masters) == ("python", "/scripts/valkey_leave.py", "3")
    wanted = rendering.one("ConfigMap", "-valkey")["data"]["nodes"].splitlines()[2:]
    assert [f"node {name}" for name in names.split(",")] == wanted
    assert len(wanted) == 9
    # Objects of the same upgrade do not exist yet.
    assert hook["spec"]["serviceAccountName"] == "default"
    assert "Pod" not in [each["kind"] for each in without_valkey(chart).manifests if hooked(each)]


def hooked(manifest: dict[str, Any]) -> bool:
    notes = manifest["metadata"].get("annotations", {})
    return str(notes.get("helm.sh/hook", "")).startswith("pre-")


def without_valkey(chart: Chart) -> Rendering:
    return chart.render(CHART / "ci" / "minimal-values.yaml")


@needs_cli
@pytest.mark.soak
def test_one_replica_instead_of_two_when_all_masters_are_in_the_last_pods(
    chart: Chart, server_binary: ServerBinary, tmp_path: Path
) -> None:
    rendering = chart.render(VALUES, sets={"valkey.replicasPerMaster": 2})
    with pods(rendering, server_binary, tmp_path, count=9) as here:
        here.formed()
        with redis.RedisCluster(host="127.0.0.1", port=here.nodes[0].port) as client:
            for number in range(60):
                client.set(f"kept-{number}", number)
        for pod in here.all[6:]:
            if "slave" in pod.myself()[2]:
                with pod.node.client() as client:
                    client.execute_command("CLUSTER", "FAILOVER")  # type: ignore[no-untyped-call]
                wait_until(lambda pod=pod: "master" in pod.myself()[2], what="it leads")  # type: ignore[misc]

        here.rendering = chart.render(VALUES)
        handed_over(here)

        assert not any("master" in pod.myself()[2] for pod in here.all[6:])
        for pod in here.all[6:]:
            pod.lose()
            pod.bus.release()
        here.end_sidecars()
        del here.all[6:]
        here.meet()
        wait_until(lambda: has_a_replica_each(here), timeout_s=PATIENCE_S, what="a replica each")
        assert read(here, 60) == [str(number).encode() for number in range(60)]


def handed_over(here: Pods) -> None:
    """Run the hook of a release of six pods."""
    for name, text in here.rendering.one("ConfigMap", "-leave")["data"].items():
        (here.directory / name).write_text(text)
    names = ",".join(pod.node.address for pod in here.all[:6])
    command = [sys.executable, str(here.directory / "valkey_leave.py"), names, "3"]
    process = spawn(command, output=here.directory / "leave.log", env=here.environment())
    try:
        assert process.wait(PATIENCE_S) == 0, here.log("leave")
    finally:
        process.send_signal(signal.SIGKILL)
