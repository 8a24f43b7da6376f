"""A run says what it did, and several runs say what they did together."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from tests.chaos.__main__ import main
from tests.chaos.checker import examine
from tests.chaos.client import route_of
from tests.chaos.faults import Journal
from tests.chaos.history import History
from tests.chaos.installation import VARIANTS
from tests.chaos.report import Run, Tally
from tests.chaos.schedule import Fault
from tests.chaos.test_checker import good


def run_of(history: History, *kinds: str) -> Run:
    journal = Journal(0)
    for kind in kinds:
        journal.note(Fault("redis", kind, 1, 1, 0.5), 1, "node 1")
    return Run(VARIANTS[0], 7, 20, (), journal, history, list(examine(history)))


async def test_a_run_counts_faults_requests_jobs_and_checks() -> None:
    history = good()
    history.requests["GET /jobs done"] += 2
    tally = run_of(history, "kill a master", "kill a master", "flush scripts").tally()
    assert tally.faults == Counter({"kill a master": 2, "flush scripts": 1})
    assert tally.requests == Counter({"GET /jobs done": 2})
    assert tally.jobs == Counter({"q": 1})
    assert tally.states == Counter({"completed": 1})
    assert tally.checks["holder"] == 1
    assert not tally.violations
    assert "    kill a master 2, flush scripts 1" in tally.lines()


async def test_runs_are_added_up() -> None:
    bad = replace(good(), errors=["GET / 500"])
    total = Tally()
    total.add(run_of(good(), "kill a master").tally())
    total.add(run_of(bad, "kill a master").tally())
    assert total.faults == Counter({"kill a master": 2})
    assert total.violations == Counter({"error": 1})
    assert total.checks["holder"] == 2


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/ojs/v1/jobs/01a232b3-7eb0-7f42-9ede-0031d4d6ebbb/cancel", "/ojs/v1/jobs/*/cancel"),
        ("/ojs/v1/queues/chaos-paused/pause", "/ojs/v1/queues/*/pause"),
        ("/ojs/v1/events?limit=1000&after=x", "/ojs/v1/events"),
    ],
)
def test_requests_are_counted_by_route(path: str, route: str) -> None:
    assert route_of(path) == route


def test_faults_are_chosen_by_their_names() -> None:
    chosen = replace(VARIANTS[0], only=("kill a master", "import")).tracks
    assert {name for kinds in chosen.values() for name in kinds} == {"kill a master", "import jobs"}


def test_the_driver_names_an_unknown_variant(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["-k", "no such variant"])
    assert "no variant has the name no such variant" in capsys.readouterr().err
