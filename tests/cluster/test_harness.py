"""What can be tested of these tests without a cluster: all but what the cluster does."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest

from tests.cluster import entry, objects
from tests.cluster.census import count, verdict
from tests.cluster.entry import Entry
from tests.cluster.load import busy, check
from tests.cluster.objects import Object
from tests.cluster.release import AUTHORIZATION, KEY, Release, namespace, options_of
from tests.cluster.settings import IMAGE, KUBECONFIG, Missing, Settings
from tests.cluster.surroundings import (
    CRDS,
    CUSTOM,
    Surroundings,
    certificate_for,
    quota,
    secret,
)
from tests.cluster.tools import Failed, Helm, Kubectl
from tests.helm.chart import CHART, CI, NEWEST, Chart
from tests.helm.crds import MODULES, SHAPES, validate
from tests.server.test_dev import dev
from tests.support.load import Ledger
from tests.support.servers import wait_until

HERE = Path(__file__)


def found(_name: str) -> str:
    return "/bin/x"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, KUBECONFIG),
        ({KUBECONFIG: "/nowhere/config", IMAGE: "x"}, "/nowhere/config is no file"),
        ({KUBECONFIG: str(HERE)}, IMAGE),
        ({KUBECONFIG: str(HERE), IMAGE: ""}, IMAGE),
    ],
)
def test_the_reason_to_skip_names_what_is_missing(
    environment: dict[str, str], message: str
) -> None:
    with pytest.raises(Missing, match=message):
        Settings.read(environment, found)


def test_programs_that_are_not_on_path_are_named() -> None:
    environment = {KUBECONFIG: str(HERE), IMAGE: "ojs:1"}
    with pytest.raises(Missing, match="kubectl"):
        Settings.read(environment, lambda name: None if name == "kubectl" else "/bin/x")


@pytest.mark.parametrize(
    ("image", "repository", "tag", "digest"),
    [
        ("ojs-cluster:test", "ojs-cluster", "test", ""),
        ("localhost:5000/a/ojs", "localhost:5000/a/ojs", "", ""),
        ("localhost:5000/a/ojs:1", "localhost:5000/a/ojs", "1", ""),
        ("quay.io/a/ojs@sha256:00ff", "quay.io/a/ojs", "", "sha256:00ff"),
    ],
)
def test_an_image_is_spelled_in_values(image: str, repository: str, tag: str, digest: str) -> None:
    settings = Settings.read({KUBECONFIG: str(HERE), IMAGE: image}, found)
    wanted = {"image.repository": repository, "image.tag": tag, "image.digest": digest}
    assert settings.image_values() == wanted
    assert options_of(wanted, valkey__masters=5)["valkey.masters"] == 5


class Recorder:
    """A program that records how it was called, and prints what the test chose."""

    def __init__(self, folder: Path) -> None:
        self.calls = folder / "calls"
        self.program = folder / "program"
        self.answer(folder, "", 0)

    def answer(self, folder: Path, text: str, code: int) -> None:
        (folder / "answer").write_text(text)
        self.program.write_text(
            f"#!{sys.executable}\nimport json, sys\n"
            f"call = [sys.argv[1:], '' if sys.stdin is None else sys.stdin.read()]\n"
            f"open({str(self.calls)!r}, 'a').write(json.dumps(call) + '\\n')\n"
            f"print(open({str(folder / 'answer')!r}).read())\nsys.exit({code})\n"
        )
        self.program.chmod(0o755)

    def last(self) -> tuple[list[str], str]:
        words, text = json.loads(self.calls.read_text().splitlines()[-1])
        return words, text


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path)


def test_kubectl_is_told_cluster_and_namespace(recorder: Recorder, tmp_path: Path) -> None:
    kube = Kubectl(str(recorder.program), Path("/config")).within("work")
    where = ["--kubeconfig", "/config", "--namespace", "work"]

    recorder.answer(tmp_path, json.dumps({"items": [{"metadata": {"name": "a"}}]}), 0)
    assert [objects.name(each) for each in kube.list("pods", {"x/y": "1", "z": "2"})] == ["a"]
    assert recorder.last()[0] == [
        *where,
        *["get", "pods", "--selector", "x/y=1,z=2", "--output", "json"],
    ]
    kube.delete("pod", "a", "b", force=True)
    options = ["--ignore-not-found", "--wait=false", "--grace-period=0", "--force"]
    assert recorder.last()[0] == [*where, "delete", "pod", "a", "b", *options]
    kube.execute("a", "valkey", "sh", "-c", "echo $A")
    assert recorder.last()[0] == [
        *where,
        "exec",
        "a",
        *["--container", "valkey", "--", "sh", "-c"],
        "echo $A",
    ]
    kube.apply(secret("s", a="b"))
    words, text = recorder.last()
    assert words == [*where, "apply", "--filename", "-"]
    assert json.loads(text)["items"][0]["data"] == {"a": "Yg=="}


def test_a_program_that_fails_says_what_it_said(recorder: Recorder, tmp_path: Path) -> None:
    recorder.answer(tmp_path, "no matches for kind", 3)
    with pytest.raises(Failed, match="no matches for kind"):
        Kubectl(str(recorder.program), Path("/config")).run("get", "x")
    assert not CRDS[0].exists(Kubectl(str(recorder.program), Path("/config")))


def test_helm_waits_and_takes_values_as_json(recorder: Recorder) -> None:
    helm = Helm(str(recorder.program), Path("/config"), "work")
    release = Release("jobs", Kubectl("x", Path("/config")), helm, {"valkey.masters": 3}, ())
    release.upgrade(valkey__masters=5, tests__tolerations=[{"key": "a"}])
    where = ["--kubeconfig", "/config", "--namespace", "work"]
    assert recorder.last()[0] == [
        *where,
        *("upgrade", "jobs", str(CHART), "--wait", "--timeout", "600s"),
        *("--set-json", "valkey.masters=5", "--set-json", 'tests.tolerations=[{"key": "a"}]'),
    ]
    assert release.sets["valkey.masters"] == 5


def thing(name: str, *, ready: str = "True", **more: Any) -> Object:
    """A node or pod in the form that the API server gives."""
    made: Object = {
        "metadata": {"name": name},
        "spec": {},
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    }
    for path, value in more.items():
        part, _, key = path.partition("__")
        made[part][key] = value
    return made


def test_nodes_that_take_no_pods_are_left_out() -> None:
    taint = {"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}
    nodes = [
        thing("a"),
        thing("control", spec__taints=[taint]),
        thing("preferred", spec__taints=[{"key": "x", "effect": "PreferNoSchedule"}]),
        thing("closed", spec__unschedulable=True),
        thing("silent", ready="Unknown"),
    ]
    assert [objects.name(node) for node in objects.workers(nodes)] == ["a", "preferred"]


def test_a_pod_that_ends_is_not_ready() -> None:
    assert objects.is_ready(thing("a"))
    assert not objects.is_ready(thing("a", metadata__deletionTimestamp="2026-01-01T00:00:00Z"))
    assert not objects.is_ready({"metadata": {"name": "a"}, "spec": {}, "status": {}})


def test_addresses_ports_and_hosts_are_read() -> None:
    listed = [
        {"type": kind, "address": address}
        for kind, address in (
            ("Hostname", "h"),
            ("InternalIP", "10.0.0.1"),
            ("ExternalIP", "1.1.1.1"),
        )
    ]
    assert objects.addresses(thing("a", status__addresses=listed)) == ["1.1.1.1", "10.0.0.1"]
    assert objects.node_port({"spec": {"ports": [{"port": 80, "nodePort": 30001}]}}) == 30001
    assert objects.node_port({"spec": {"ports": [{"port": 80}]}}) is None
    pods = [thing("p", spec__nodeName="a"), thing("waits")]
    assert objects.hosts(pods) == {"p": "a"}


NODES = """\
aaa 10.1.0.2:6379@16379,host myself,master - 0 0 1 connected 0-5460
bbb 10.1.0.3:6379@16379 master - 0 1700000000000 2 connected 5461-10922 [93-<-aaa]
ccc 10.1.0.4:6379@16379 master - 0 1700000000000 3 connected 10923-16383
ddd 10.1.0.5:6379@16379 slave aaa 0 1700000000000 1 connected
eee 10.1.0.6:6379@16379 slave bbb 0 1700000000000 2 connected
fff 10.1.0.7:6379@16379 slave ccc 0 1700000000000 3 connected
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("", "", ""),
        ("slave ccc", "slave,fail ccc", "ccc has 0 replicas"),
        ("10923-16383", "", "2 masters of 3"),
        ("10923-16383", "10923-16382", "1 slots without a master"),
        ("slave bbb", "slave aaa", "aaa has 2 replicas"),
    ],
)
def test_what_a_valkey_cluster_lacks_is_named(old: str, new: str, message: str) -> None:
    said = objects.faults(objects.members(NODES.replace(old, new)), 3, 1)
    assert any(message in each for each in said) if message else said == []


def test_members_have_addresses_and_slots() -> None:
    first, second, *_ = objects.members(NODES)
    assert (first.address, first.slots, first.is_master) == ("10.1.0.2", 5461, True)
    assert (second.slots, second.follows) == (5462, "-")


def test_a_tunnel_that_ends_is_opened_again(tmp_path: Path) -> None:
    program, calls = tmp_path / "kubectl", tmp_path / "calls"
    program.write_text(
        f'#!/bin/sh\necho "$$ $*" >> {calls}\n'
        "echo 'Forwarding from 127.0.0.1:4321 -> 8080'\nexec sleep 600\n"
    )
    program.chmod(0o755)
    kube = Kubectl(str(program), Path("/config"), "work")
    with entry._forwarded(kube, "api") as url:
        assert url == "http://127.0.0.1:4321"
        first = calls.read_text().split()[0]
        subprocess.run(["kill", "-9", first], check=True)  # noqa: S607
        wait_until(lambda: len(calls.read_text().splitlines()) == 2, what="another tunnel")
    asked = [line.split(maxsplit=1)[1] for line in calls.read_text().splitlines()[:2]]
    assert [line.rpartition(" ")[2] for line in asked] == [":http", "4321:http"]


def test_a_certificate_is_made_for_the_namespace() -> None:
    certificate, key = certificate_for("*.work.svc")
    assert "BEGIN CERTIFICATE" in certificate
    assert "PRIVATE KEY" in key


class EmptyCluster(Kubectl):
    """Stands for a cluster that has nothing. It keeps what would be applied."""

    applied: ClassVar[list[Object]] = []

    def run(self, *words: str, timeout_s: float = 0, text: str = "") -> str:
        if words[0] == "get":
            raise Failed("not found")
        if words[0] == "apply":
            self.applied.extend(json.loads(text)["items"])
        return ""


def test_every_object_that_the_tests_apply_is_valid() -> None:
    """The API server would refuse others, hours after a cluster was found for the tests."""
    kube = EmptyCluster("kubectl", Path("/config"), "work")
    store = cast(Release, Local("unused"))
    Surroundings(kube, store).prepare()
    kube.apply(quota())
    with contextlib.ExitStack() as stack:
        stack.enter_context(namespace(kube, "work"))
        for crd in CRDS:
            stack.enter_context(crd.present(kube))

    kinds = {each["kind"] for each in kube.applied}
    assert kinds >= {"CustomResourceDefinition", "NetworkPolicy", "Namespace", "Secret"}
    for each in kube.applied:
        validate(each, NEWEST)
        if each["kind"] == "CustomResourceDefinition":
            check_definition(each)


def check_definition(each: Object) -> None:
    """Check the rules of the API server that no schema has."""
    spec, metadata = each["spec"], each["metadata"]
    assert metadata["name"] == f"{spec['names']['plural']}.{spec['group']}"
    if spec["group"].endswith((".k8s.io", ".kubernetes.io")):
        approved = metadata["annotations"]["api-approved.kubernetes.io"]
        assert approved.startswith(("https://", "unapproved"))
    assert [version["storage"] for version in spec["versions"]].count(True) == 1
    for version in spec["versions"]:
        assert version["schema"]["openAPIV3Schema"]["type"] == "object"


def is_custom(manifest: Object) -> bool:
    """Whether a cluster knows the kind of a manifest only by a definition."""
    return (manifest["apiVersion"], manifest["kind"]) in {*MODULES, *SHAPES}


def ledger(*acknowledged: str) -> Ledger:
    return Ledger(acknowledged=set(acknowledged), completed=set(acknowledged))


@pytest.mark.parametrize(
    ("listed", "retried", "message"),
    [
        ({"a": "completed", "b": "completed"}, [], None),
        ({"a": "completed"}, [], "b: acknowledged, and lost"),
        ({"a": "completed", "b": "active"}, [], "b: acknowledged, and active"),
        ({"a": "completed", "b": "completed", "c": "completed"}, [], "1 jobs that no client"),
        ({"a": "completed", "b": "completed", "c": "completed"}, ["/ojs/v1/jobs: lost"], None),
    ],
)
def test_the_verdict_names_every_difference(
    listed: dict[str, str], retried: list[str], message: str | None
) -> None:
    told = ledger("a", "b")
    told.retried += retried
    said = verdict(told, listed)
    assert [each.startswith(message) for each in said] == [True] if message else said == []


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a whole installation on this machine."""
    with dev(tmp_path_factory.mktemp("dev")) as (program, where):
        yield where
        program.process.send_signal(signal.SIGTERM)


class Local:
    """Stands for a release: the way in leads to this machine."""

    def __init__(self, url: str) -> None:
        self.url = url

    def labels(self, component: str) -> dict[str, str]:
        return {"app.kubernetes.io/component": component}

    def one(self, kind: str, component: str) -> Object:
        return thing(f"jobs-{component}")

    def entry(self, *, avoid: object = ()) -> Any:
        return contextlib.nullcontext(Entry(self.url, through_service=True))


async def test_load_runs_and_is_counted_by_what_the_server_lists(url: str) -> None:
    async with busy(cast(Release, Local(url)), jobs=50, unbroken=True) as load:
        pass

    listed = count(url, AUTHORIZATION, load.queues)
    assert len(listed) >= 100
    assert set(listed.values()) == {"completed"}
    assert load.ledger.acknowledged == listed.keys()
    check(Entry(url, through_service=True), load, unbroken=True)
    load.ledger.acknowledged.add("00000000-0000-7000-8000-000000000000")
    with pytest.raises(AssertionError, match="acknowledged, and lost"):
        check(Entry(url, through_service=True), load, unbroken=True)


@pytest.mark.parametrize("values", CI, ids=lambda path: path.stem.removesuffix("-values"))
def test_every_set_of_values_is_fitted_to_the_cluster(chart: Chart, values: Path) -> None:
    store = cast(Release, Local("unused"))
    around = Surroundings(Kubectl("x", Path("/config"), "work"), store)
    changes = around.changes(values.stem.removesuffix("-values"))

    rendering = chart.render(values, sets=options_of({}, **changes))

    assert KEY in values.read_text() or "existingSecret" in values.read_text()
    custom = {each["kind"] for each in rendering.manifests if is_custom(each)}
    assert custom == set(CUSTOM.get(values.stem, ()))
    assert custom <= {crd.kind for crd in CRDS}
    assert {each["metadata"].get("namespace", "work") for each in rendering.manifests} == {"work"}
    priorities = [pod["spec"].get("priorityClassName") for _, pod in rendering.pods()]
    assert not any(priorities), "a class that the cluster does not have"
