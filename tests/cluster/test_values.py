"""Every set of values in ``ci/`` installs under ``restricted``, works, changes and ends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.cluster.conftest import release_of
from tests.cluster.load import busy
from tests.cluster.release import Release, installed
from tests.cluster.settings import Settings, required
from tests.cluster.surroundings import CRDS, CUSTOM, Surroundings
from tests.cluster.tools import Failed, Kubectl
from tests.helm.chart import CI

required()


@pytest.fixture(scope="module")
def around(settings: Settings, space: Kubectl, bundled: Release) -> Surroundings:
    """Give what sets of values expect to find: a Redis, Secrets, a ConfigMap."""
    made = Surroundings(space, bundled)
    made.prepare()
    return made


@pytest.fixture(scope="module")
def custom(nodes: Kubectl) -> Iterator[None]:
    """Have the custom resources of KEDA and of the Prometheus operator; installs what is absent."""
    with contextlib.ExitStack() as stack:
        for crd in CRDS:
            stack.enter_context(crd.present(nodes))
        yield


def release_for(values: Path, settings: Settings, around: Surroundings) -> Release:
    name = values.stem.removesuffix("-values")
    release = release_of(settings, around.space, name)
    release.values = (values,)
    release.sets |= around.changes(name)
    return release


async def test_the_bundled_cluster_passes_its_test_and_works(bundled: Release) -> None:
    bundled.test()
    async with busy(bundled):
        pass


@pytest.mark.parametrize("values", CI, ids=lambda path: path.stem.removesuffix("-values"))
def test_without_custom_resources_helm_says_which_are_missing(
    nodes: Kubectl, settings: Settings, around: Surroundings, values: Path
) -> None:
    # Before the tests that install what is absent: it stays until the last of them has ended.
    wanted = [crd for crd in CRDS if crd.kind in CUSTOM.get(values.stem, ())]
    if not wanted or any(crd.exists(nodes) for crd in wanted):
        pytest.skip("asks for no custom resource that this cluster lacks")
    release = release_for(values, settings, around)
    with pytest.raises(Failed, match="no matches for kind"):
        release.install()
    release.uninstall()


@pytest.mark.parametrize("values", CI, ids=lambda path: path.stem.removesuffix("-values"))
@pytest.mark.usefixtures("custom")
async def test_a_set_of_values_installs_changes_and_ends(
    settings: Settings, around: Surroundings, values: Path
) -> None:
    release = release_for(values, settings, around)
    with installed(release):
        release.test()
        if around.is_plain(values):
            async with busy(release):
                change = {"api.podAnnotations": {"example.com/change": "1"}}
                release.sets |= change
                await trio.to_thread.run_sync(release.upgrade)
                await trio.to_thread.run_sync(release.rollback)
        else:
            release.upgrade(scheduler__podAnnotations={"example.com/change": "1"})
            release.rollback()
            release.test()
    left = [
        kind for kind in ("deployment", "pod") if around.space.list(kind, release.labels("api"))
    ]
    assert left in ([], ["pod"]), "pods may still end"
