"""Fixtures for the chart and the program that renders it."""

from __future__ import annotations

import pytest

from tests.helm import tools
from tests.helm.chart import CI, Chart, Rendering


@pytest.fixture(scope="session")
def chart() -> Chart:
    """Return the chart; skip where no helm exists for this machine."""
    try:
        return Chart(tools.helm())
    except tools.NoSuchTool as problem:
        pytest.skip(str(problem))


@pytest.fixture(scope="session", params=tools.REQUIREMENTS, ids="helm{}".format)
def each_helm(request: pytest.FixtureRequest) -> Chart:
    """Return the chart with each major version of helm."""
    try:
        return Chart(tools.helm(request.param))
    except tools.NoSuchTool as problem:
        pytest.skip(str(problem))


@pytest.fixture(scope="session", params=CI, ids=lambda path: path.stem.removesuffix("-values"))
def rendering(request: pytest.FixtureRequest, chart: Chart) -> Rendering:
    """Return the rendering of each set of values in `ci/`."""
    return chart.render(request.param)
