"""The chart of the previous version is upgraded to this one and rolled back, and the other way."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helm.chart import CHART, CI, Chart
from tests.helm.conftest import chart  # noqa: F401 - a fixture
from tests.helm.fake_cluster import Cluster, running
from tests.helm.test_versions import QUICK, counted
from tests.upgrade.previous_version import PreviousVersion

VALUES = sorted(CI)[::3]
"""Some sets of values; each costs seconds."""


def image(cluster: Cluster) -> set[str]:
    """Return the images of the API pods."""
    found = (
        each["spec"]["template"]["spec"]["containers"][0]["image"]
        for each in cluster.objects.values()
        if each["kind"] == "Deployment" and each["metadata"]["name"].endswith("api")
    )
    return set(found)


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_a_release_of_the_previous_chart_is_upgraded_and_goes_back(
    chart: Chart,  # noqa: F811 - the fixture
    previous: PreviousVersion,
    values: Path,
) -> None:
    former = previous.chart / "ci" / values.name
    if not former.exists():
        pytest.skip(f"the previous chart has no {former.name}")
    with running() as cluster:
        options = [*QUICK, "--values", str(former)]
        cluster.helm(chart, "install", "jobs", str(previous.chart), *options)
        counts, images = counted(cluster), image(cluster)
        cluster.helm(chart, "upgrade", "jobs", str(CHART), *QUICK, "--values", str(values))
        assert counted(cluster) == counts
        assert len(image(cluster)) == len(images) == 1
        cluster.helm(chart, "rollback", "jobs", "1")
        assert (counted(cluster), image(cluster)) == (counts, images)
        cluster.helm(chart, "upgrade", "jobs", str(CHART), *QUICK, "--reuse-values")
        assert counted(cluster) == counts
