"""Options of the conformance run, and the server under test.

By default every suite file runs once per topology of ``tests.support.deployment``.
``--conformance-url`` (or OJS_CONFORMANCE_URL) runs the suites against one server instead. It must
support POST /ojs/v1/admin/reset, because the files share queue names.
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
from tests.support.deployment import Deployment, deploy, unavailable


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("conformance")
    group.addoption("--conformance-url", help="run the suites against the server at this URL")
    group.addoption(
        "--conformance-folders",
        help="comma separated folders of the suites, or all (default: what is built)",
    )


def _option(config: pytest.Config, name: str) -> str | None:
    # The options exist only if this file is known at the start: `pytest tests/conformance`.
    value = config.getoption(f"conformance_{name}", default=None)
    return value or os.environ.get(f"OJS_CONFORMANCE_{name.upper()}")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With a URL the suites run against it, otherwise against our own deployments."""
    name = collection_path.name
    if name.startswith("test_on_"):
        return (name == "test_on_given_server.py") != (_option(config, "url") is not None)
    return None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if not {"target", "case"} <= set(metafunc.fixturenames):
        return
    # One file per topology, because `--dist loadfile` then assigns each to its own process. The
    # files of one topology share its server, and the topologies wait in parallel.
    topology = metafunc.module.TOPOLOGY
    missing = unavailable(topology) if topology else None
    if scope.suites_root() is None:
        missing = scope.HOW_TO_GET_SUITES
    if missing:
        skip = pytest.mark.skip(reason=missing)
        parameters = [pytest.param(topology, None, marks=skip, id="skipped")]
    else:
        parameters = list(_cases(topology, _option(metafunc.config, "folders")))
    metafunc.parametrize(("target", "case"), parameters, indirect=["target"], scope="module")


def _cases(topology: str | None, chosen: str | None) -> Iterator[Any]:
    root = scope.suites_root()
    assert root is not None
    for file in scope.files(root, chosen):
        case = load(root, file)
        marks: list[pytest.MarkDecorator] = []
        if reason := scope.IMPOSSIBLE.get(case.file):
            marks.append(pytest.mark.xfail(strict=True, raises=CaseFailed, reason=reason))
        is_slow = case.file in scope.SLOW and topology not in scope.ALWAYS_SLOW_ON
        if topology and (is_slow or topology in scope.ONLY_IN_SOAK):
            marks.append(pytest.mark.soak)
        yield pytest.param(topology, case, marks=marks, id=case.file)


@pytest.fixture(scope="module")
def target(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Return the base URL of the server under test: a deployment, or the given URL."""
    if request.param is None:
        url = _option(request.config, "url")
        assert url is not None
        yield url.rstrip("/")
        return
    directory: Path = tmp_path_factory.mktemp(request.param)
    deployment: Deployment
    with deploy(directory, request.param) as deployment:
        yield deployment.url
