"""Charts of two versions upgrade into each other, in both directions, with both major versions of
Helm.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from tests.helm.chart import CHART, Chart
from tests.helm.fake_cluster import Cluster, running
from tests.helm.values_table import FIRST

FORMER = sorted(Path(__file__).with_name("first").glob("*-values.yaml"))
"""Values that were tested with the first chart."""
QUICK = ("--disable-openapi-validation", "--set", "tests.enabled=false")


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the first chart, unpacked."""
    folder = tmp_path_factory.mktemp("first")
    with tarfile.open(FIRST) as package:
        package.extractall(folder, filter="data")
    return folder / "ojs-cluster"


def counted(cluster: Cluster) -> dict[str, int]:
    """Return the replicas of everything that has them."""
    return {
        name.rpartition("/")[2]: each["spec"]["replicas"]
        for name, each in cluster.objects.items()
        if each["kind"] in ("Deployment", "StatefulSet")
    }


@pytest.mark.parametrize("values", FORMER, ids=lambda path: path.stem)
def test_a_release_of_the_first_chart_is_upgraded_and_goes_back(
    each_helm: Chart, first: Path, values: Path
) -> None:
    with running() as cluster:
        cluster.helm(each_helm, "install", "jobs", str(first), *QUICK, "--values", str(values))
        before = counted(cluster)
        cluster.helm(each_helm, "upgrade", "jobs", str(CHART), *QUICK, "--reuse-values")
        assert counted(cluster) == before
        cluster.helm(each_helm, "rollback", "jobs", "1")
        assert counted(cluster) == before


def test_a_release_of_this_chart_takes_the_first_one(each_helm: Chart, first: Path) -> None:
    values = ["--values", str(FORMER[0])]
    with running() as cluster:
        cluster.helm(each_helm, "install", "jobs", str(CHART), *QUICK, *values)
        cluster.helm(each_helm, "upgrade", "jobs", str(first), *QUICK, "--reset-values", *values)
        cluster.helm(each_helm, "upgrade", "jobs", str(CHART), *QUICK, *values)


def test_every_template_takes_values_of_earlier_charts() -> None:
    templates = [*(CHART / "templates").rglob("*.yaml"), CHART / "templates" / "NOTES.txt"]
    assert len(templates) > 15
    for template in templates:
        assert template.read_text().startswith('{{- include "ojs.init" . -}}\n'), template.name
