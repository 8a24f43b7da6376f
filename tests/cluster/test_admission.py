"""What a cluster refuses: untolerated taints, a quota, names that are long or alike."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cluster import objects
from tests.cluster.conftest import release_of
from tests.cluster.load import busy
from tests.cluster.release import Release, installed, namespace, tainted
from tests.cluster.settings import Settings, required
from tests.cluster.surroundings import PASSWORD, admission, quota
from tests.cluster.tools import Kubectl

required()

TAINT = "example.com/ojs-test=only:NoSchedule"
TOLERATION = [{"key": "example.com/ojs-test", "operator": "Exists", "effect": "NoSchedule"}]
PARTS = ("api", "scheduler", "valkey", "valkey__form", "tests")


async def test_every_pod_tolerates_the_taints_that_it_is_told(
    settings: Settings, nodes: Kubectl, space: Kubectl
) -> None:
    hosts = [objects.name(node) for node in objects.workers(nodes.list("nodes"))]
    sets = {f"{part}__tolerations": TOLERATION for part in PARTS}
    with (
        tainted(nodes, hosts, TAINT),
        installed(release_of(settings, space, "tolerant", **sets)) as release,
    ):
        release.test()
        async with busy(release):
            pass


async def test_every_pod_fits_under_a_quota(
    settings: Settings, nodes: Kubectl, space: Kubectl
) -> None:
    with namespace(nodes, f"{space.namespace}-quota") as limited:
        limited.apply(quota())
        with installed(release_of(settings, limited, "modest")) as release:
            release.test()
            async with busy(release):
                pass


async def test_two_long_names_that_begin_alike_are_two_releases(
    settings: Settings, space: Kubectl, bundled: Release
) -> None:
    sets: dict[str, Any] = {
        "valkey__enabled": False,
        "networkPolicy__enabled": False,
        "redis__password": PASSWORD,
        "redis__url": f"redis://{objects.name(bundled.one('service', 'valkey'))}:6379",
    }
    space.apply(admission(bundled.labels("valkey")))  # where policies are enforced
    stem = "orders-of-all-regions-in-production-with-blue"
    one, other = (release_of(settings, space, f"{stem}-{end}", **sets) for end in "ab")
    with installed(one), installed(other):
        for release in (one, other):
            release.test()
            async with busy(release):
                pass
        names = [
            {objects.name(d) for d in space.list("deployment", r.labels("api"))}
            for r in (one, other)
        ]
        assert len(names[0] | names[1]) == 2


@pytest.mark.parametrize("part", ["valkey", "api", "scheduler"])
def test_pods_of_the_shared_release_run_as_no_root(bundled: Release, part: str) -> None:
    for pod in bundled.pods(part):
        for container in pod["spec"]["containers"]:
            own = bundled.kube.execute(objects.name(pod), container["name"], "id", "-u")
            assert own.strip() != "0"
