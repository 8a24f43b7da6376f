"""Upgrades and losses under load: no request of an upgrade fails, and no loss costs a job."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator

import pytest
import trio

from tests.cluster import objects
from tests.cluster.conftest import release_of
from tests.cluster.load import busy
from tests.cluster.release import Release, await_until, cordoned, installed, namespace
from tests.cluster.settings import Settings, required
from tests.cluster.tools import WAIT_S, Failed, Kubectl, run

required()

_DRAIN = ("--ignore-daemonsets", "--delete-emptydir-data", f"--timeout={WAIT_S}s")


async def test_an_upgrade_fails_no_request(bundled: Release) -> None:
    async with busy(bundled, unbroken=True) as load:
        annotation = {"example.com/release": "2"}

        def upgrade() -> None:
            bundled.upgrade(api__podAnnotations=annotation, scheduler__podAnnotations=annotation)

        await trio.to_thread.run_sync(upgrade)
        await load.progress(100, WAIT_S)
    bundled.test()


async def test_a_rollback_keeps_the_number_of_pods_that_a_scaler_chose(
    settings: Settings, space: Kubectl
) -> None:
    sets = {"api__autoscaling__enabled": True, "api__autoscaling__maxReplicas": 6}
    release = release_of(settings, space, "scaled", **sets)
    with installed(release):
        async with busy(release):
            api = objects.name(release.one("deployment", "api"))
            # As the scaler does, by the same subresource. Without metrics it changes nothing.
            release.kube.run("scale", "deployment", api, "--replicas=4")
            await trio.to_thread.run_sync(release.await_ready)
            changed = {"api__podAnnotations": {"example.com/release": "2"}}
            await trio.to_thread.run_sync(lambda: release.upgrade(**changed))
            assert release.one("deployment", "api")["spec"]["replicas"] == 4
            await trio.to_thread.run_sync(release.rollback)
            assert release.one("deployment", "api")["spec"]["replicas"] == 4


async def test_each_host_is_drained_in_turn(
    nodes: Kubectl, three: list[str], bundled: Release
) -> None:
    for host in three:
        async with busy(bundled, avoid=[host], unbroken=True):
            with cordoned(nodes, host):
                drain = ("drain", host, *_DRAIN, "--pod-selector", _of(bundled))
                await trio.to_thread.run_sync(lambda d=drain: nodes.run(*d, timeout_s=WAIT_S + 60))  # type: ignore[misc]
                await trio.to_thread.run_sync(bundled.await_whole)


def _of(release: Release) -> str:
    return f"app.kubernetes.io/instance={release.name}"


@pytest.fixture(scope="module")
def durable(bundled: Release) -> Release:
    """Give the release, from here on with writes that outlive a master that is lost.

    They are refused while a master has no replica: the tests before expect that none is.
    """
    bundled.upgrade(config__OJS_DURABILITY="replica")
    return bundled


async def test_a_lost_host_costs_no_job(nodes: Kubectl, three: list[str], durable: Release) -> None:
    masters = durable.masters()
    host = objects.hosts(masters.values())[min(masters)]
    async with busy(durable, avoid=[host]) as load:
        with lost(nodes, durable, host):
            await load.progress(100, WAIT_S)
            await trio.to_thread.run_sync(durable.await_whole)
    await trio.to_thread.run_sync(durable.await_whole)


@contextlib.contextmanager
def lost(nodes: Kubectl, release: Release, host: str) -> Iterator[None]:
    """Take a host away. On kind its container is paused; elsewhere its pods are killed.

    Kubernetes leaves pods of a silent host where they are for minutes. Forced deletion is what an
    operator, or the controller of nodes, does then.
    """
    engine = next(filter(shutil.which, ("docker", "podman")), None)
    provider = nodes.get("node", host)["spec"].get("providerID", "")
    stops = engine is not None and provider.startswith("kind://")
    with cordoned(nodes, host):
        try:
            if stops:
                run([str(engine), "pause", host], timeout_s=60)
            gone = [pod for pod in _pods(release) if pod["spec"].get("nodeName") == host]
            release.kube.delete("pod", *map(objects.name, gone), force=True)
            yield
        finally:
            if stops:
                with contextlib.suppress(Failed):
                    run([str(engine), "unpause", host], timeout_s=60)
                await_until(lambda: objects.is_ready(nodes.get("node", host)), f"{host} is back")


def _pods(release: Release) -> list[objects.Object]:
    return [pod for part in ("api", "scheduler", "valkey") for pod in release.pods(part)]


@pytest.mark.usefixtures("three")
def test_a_lost_host_takes_one_master_and_not_its_replica(
    settings: Settings, space: Kubectl
) -> None:
    # A release of its own: the hosts of the shared one were drained and lost before.
    with installed(release_of(settings, space, "spread")) as release:
        release.await_whole()
        await_until(lambda: _apart(release), "masters and replicas are on different hosts")


def _apart(release: Release) -> bool:
    """Whether each host has at most one master, and no master has its replica beside it."""
    members = {member.id: member for member in release.view()}
    by_address = {pod["status"].get("podIP"): pod for pod in release.pods("valkey")}
    if missing := {m.address for m in members.values()} - by_address.keys():
        raise Failed(f"no pod has {missing}")
    on = {id_: by_address[m.address]["spec"]["nodeName"] for id_, m in members.items()}
    masters = [id_ for id_, member in members.items() if member.is_master]
    beside = [id_ for id_, m in members.items() if m.follows in on and on[id_] == on[m.follows]]
    return len({on[id_] for id_ in masters}) == len(masters) and not beside


async def test_two_masters_that_are_lost_at_once_are_replaced(durable: Release) -> None:
    durable.await_whole()
    gone = sorted(durable.masters())[:2]
    async with busy(durable) as load:
        durable.kube.delete("pod", *gone, force=True)
        await trio.to_thread.run_sync(durable.await_whole)
        await load.progress(100, WAIT_S)


async def test_all_pods_that_are_killed_at_once_return_with_every_job(
    settings: Settings, nodes: Kubectl, space: Kubectl
) -> None:
    if not nodes.list("storageclass"):
        pytest.skip("the cluster has no storage class for volumes")
    with namespace(nodes, f"{space.namespace}-disk") as disks:
        sets = {"valkey__persistence__enabled": True, "valkey__persistence__size": "1Gi"}
        # The disk has what was acknowledged: no replica is left to have it.
        durable = {"config__OJS_DURABILITY": "fsync"}
        release = release_of(settings, disks, "kept", **sets, **durable)
        with installed(release):
            async with busy(release) as load:
                pods = [objects.name(pod) for pod in _pods(release)]
                release.kube.delete("pod", *pods, force=True)
                await trio.to_thread.run_sync(release.await_whole)
                await load.progress(100, WAIT_S)
