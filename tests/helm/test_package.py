"""The packaged chart has the files that users expect."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from tests.helm.chart import CHART, Chart
from tests.helm.values_table import README

ROOT = CHART.parent.parent


@pytest.fixture(scope="module")
def package(chart: Chart, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the package as Helm makes it."""
    folder = tmp_path_factory.mktemp("package")
    chart.run("package", str(CHART), "--destination", str(folder))
    (made,) = folder.iterdir()
    return made


def test_helm_shows_the_readme_of_a_package(each_helm: Chart, package: Path) -> None:
    assert each_helm.run("show", "readme", str(package)).strip() == README.read_text().strip()


def test_a_package_holds_its_licence_and_how_to_upgrade_and_no_test(package: Path) -> None:
    with tarfile.open(package) as opened:
        names = {name.removeprefix("ojs-cluster/") for name in opened.getnames()}
    assert {"LICENSE", "README.md", "UPGRADING.md", "values.schema.json"} <= names
    assert not [name for name in names if name.startswith("ci/")]
    assert (CHART / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
