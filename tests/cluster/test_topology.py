"""The bundled Valkey Cluster grows and shrinks while it is in use."""

from __future__ import annotations

import pytest
import trio

from tests.cluster import objects
from tests.cluster.conftest import release_of
from tests.cluster.load import busy
from tests.cluster.release import Release, await_until, installed
from tests.cluster.settings import Settings, required
from tests.cluster.tools import WAIT_S, Failed, Kubectl

required()


async def test_three_masters_become_five_under_load(settings: Settings, space: Kubectl) -> None:
    release = release_of(settings, space, "growing")
    with installed(release):
        async with busy(release) as load:
            await trio.to_thread.run_sync(lambda: release.upgrade(valkey__masters=5))
            await trio.to_thread.run_sync(lambda: release.await_whole(masters=5))
            await load.progress(100, WAIT_S)
        owned = sorted(member.slots for member in release.view() if member.is_master)
        assert owned[0] >= 16384 // 5 - 400, "every master serves its part of the shards"


async def test_fewer_replicas_take_no_master_away(settings: Settings, space: Kubectl) -> None:
    release = release_of(settings, space, "shrinking", valkey__replicasPerMaster=2)
    with installed(release):
        release.await_whole(replicas=2)
        _move_masters_to_the_end(release)
        async with busy(release):
            try:
                await trio.to_thread.run_sync(lambda: release.upgrade(valkey__replicasPerMaster=1))
            except Failed as problem:
                refused = str(problem)
            else:
                refused = ""
                await trio.to_thread.run_sync(release.await_whole)
        assert not refused or "valkey-cli" in refused, "a refusal names the command to type"


def _move_masters_to_the_end(release: Release) -> None:
    """Make the pods with the highest numbers masters: those that a smaller StatefulSet loses."""
    pods = {objects.name(pod): pod for pod in release.pods("valkey")}
    for number in (6, 7, 8):
        (name,) = (each for each in pods if each.endswith(f"-valkey-{number}"))
        if name in release.masters():
            continue
        (own,) = (m for m in release.members(name) if "myself" in m.flags)
        (leader,) = (m for m in release.members(name) if m.id == own.follows)
        if any(pods[each]["status"]["podIP"] == leader.address for each in list(pods)[6:]):
            continue  # its master is one of the last already
        script = 'export REDISCLI_AUTH="$OJS_REDIS_PASSWORD"; exec valkey-cli cluster failover'
        release.kube.execute(name, "valkey", "sh", "-c", script)
        await_until(lambda n=name: n in release.masters(), f"{name} is a master")  # type: ignore[misc]
    last = [each for each in release.masters() if each[-1] in "678"]
    if not last:
        pytest.fail("no master could be moved to the pods that go")
