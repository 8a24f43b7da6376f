"""Options of the conformance run, and the server each test talks to.

By default every suite file runs once per topology of `tests.support.deployment`.
`--conformance-url` (or OJS_CONFORMANCE_URL) points the run at one server instead;
it must answer POST /ojs/v1/admin/reset, because the files share queue names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance import scope
from tests.conformance.dsl.case import load
from tests.conformance.dsl.runner import CaseFailed
from tests.support.deployment import TOPOLOGIES, Deployment, deploy, unavailable

EXTERNAL = "server"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("conformance")
    group.addoption("--conformance-url", help="run the suites against the server at this URL")
    group.addoption(
        "--conformance-folders",
        help="comma separated folders of the suites, or all (default: what is built)",
    )


def _option(config: pytest.Config, name: str) -> str | None:
    # The options exist only when this file is known at start-up, `pytest tests/conformance`.
    value = config.getoption(f"conformance_{name}", default=None)
    return value or os.environ.get(f"OJS_CONFORMANCE_{name.upper()}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if not {"target", "case"} <= set(metafunc.fixturenames):
        return
    topologies = [EXTERNAL] if _option(metafunc.config, "url") else list(TOPOLOGIES)
    parameters = []
    for topology in topologies:
        missing = None if topology == EXTERNAL else unavailable(topology)
        if scope.suites_root() is None:
            missing = scope.HOW_TO_GET_SUITES
        if missing:
            skip = pytest.mark.skip(reason=missing)
            parameters.append(pytest.param(topology, None, marks=skip, id=topology))
        else:
            parameters += _cases(topology, _option(metafunc.config, "folders"))
    metafunc.parametrize(("target", "case"), parameters, indirect=["target"], scope="session")


def _cases(topology: str, chosen: str | None) -> Iterator[Any]:
    root = scope.suites_root()
    assert root is not None
    for file in scope.files(root, chosen):
        case = load(root, file)
        marks: list[pytest.MarkDecorator] = [pytest.mark.xdist_group(f"conformance-{topology}")]
        if reason := scope.IMPOSSIBLE.get(case.file):
            marks.append(pytest.mark.xfail(strict=True, raises=CaseFailed, reason=reason))
        yield pytest.param(topology, case, marks=marks, id=f"{topology}/{case.file}")


@pytest.fixture(scope="session")
def target(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Base URL of the server under test: a deployment of the topology, or the given URL."""
    if request.param == EXTERNAL:
        url = _option(request.config, "url")
        assert url is not None
        yield url.rstrip("/")
        return
    directory: Path = tmp_path_factory.mktemp(request.param)
    deployment: Deployment
    with deploy(directory, request.param) as deployment:
        yield deployment.url
