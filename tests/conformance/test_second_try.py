"""Which failed cases are repeated, and how the run reports that."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from trio.testing import MockClock

from tests.conformance.dsl.case import Case, parse
from tests.conformance.dsl.runner import CaseFailed
from tests.conformance.run import LATE_S, run_fresh
from tests.support.second_tries import NAME

pytest_plugins = "pytester"

ROOT = Path(__file__).parents[2]
LATE = {"action": "GET", "path": "/late", "delay_ms": 1, "assertions": {"status": 200}}
EARLY = {"action": "GET", "path": "/early", "assertions": {"status": 200}}
LIMITED = {"action": "POST", "path": "/limited", "assertions": {"status": 200}}
LIMITED |= {"body": {"options": {"rate_limit": {"max_per_second": 1}}}}


def case(*steps: dict[str, Any]) -> Case:
    numbered = [{"id": f"step-{n}", **step} for n, step in enumerate(steps, start=1)]
    head = {"test_id": "T-1", "level": 0, "category": "c", "name": "n", "spec_ref": "s"}
    return parse("t.json", {**head, "description": "d", "tags": [], "steps": numbered})


async def run(
    case: Case, statuses: Iterable[int], *, slow: Collection[int] = ()
) -> tuple[list[str], list[str]]:
    """Run against an application with these responses; return the requested paths and the notes.

    Each response with a status among ``slow`` takes longer than on an idle machine.
    """
    answers, paths, notes = iter(statuses), [], []

    async def handler(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.path)
        reset = request.url.path.endswith("/reset")
        status = 200 if reset else next(answers)
        if status in slow:
            await trio.sleep(2 * LATE_S)
        return httpx.Response(status, json={})

    def note(name: str, value: object) -> None:
        assert name == NAME
        notes.append(str(value))

    transport = httpx.MockTransport(handler)
    async with httpx.AsyncClient(base_url="http://test", transport=transport) as client:
        await run_fresh(case, client, note)
    return paths, notes


async def test_a_failure_after_a_delay_is_tried_once_more_from_the_start_and_noted(
    autojump_clock: MockClock,
) -> None:
    paths, notes = await run(case(EARLY, LATE), [200, 404, 200, 200])

    assert paths == ["/ojs/v1/admin/reset", "/early", "/late"] * 2
    assert len(notes) == 1
    assert "step-2" in notes[0]


async def test_the_second_failure_counts(autojump_clock: MockClock) -> None:
    with pytest.raises(CaseFailed):
        await run(case(LATE), [404, 404])


@pytest.mark.parametrize("steps", [(EARLY,), (EARLY, LATE)])
async def test_what_fails_before_any_delay_has_one_try(
    steps: tuple[dict[str, Any], ...], autojump_clock: MockClock
) -> None:
    with pytest.raises(CaseFailed):
        await run(case(*steps), [404, 200, 200])


@pytest.mark.parametrize("step", [LATE, LIMITED], ids=["after a delay", "with a limit"])
async def test_a_timed_case_is_repeated_while_it_is_run_late(
    step: dict[str, Any], autojump_clock: MockClock
) -> None:
    _, notes = await run(case(step), [404, 404, 404, 404, 200], slow=[404])
    assert len(notes) == 4
    with pytest.raises(CaseFailed):
        await run(case(step), [404] * 5, slow=[404])


async def test_a_case_without_times_has_one_try_however_late(autojump_clock: MockClock) -> None:
    with pytest.raises(CaseFailed):
        await run(case(EARLY), [404, 200], slow=[404])


async def test_a_limit_by_the_second_that_does_not_hold_in_time_has_one_try(
    autojump_clock: MockClock,
) -> None:
    with pytest.raises(CaseFailed):
        await run(case(LIMITED), [404, 200])


def test_the_run_names_who_was_given_a_second_try(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeconftest("from tests.support.second_tries import pytest_terminal_summary")
    pytester.makepyfile(
        f"""
        def test_noted(record_property):
            record_property({json.dumps(NAME)}, "too late")

        def test_usual():
            pass
        """
    )
    pytester.syspathinsert(ROOT)
    lines = pytester.runpytest("-p", "no:cacheprovider").stdout.lines

    assert any("SECOND TRY" in line for line in lines)
    assert any("test_noted: a try failed" in line for line in lines)
    assert not any("test_usual: a try failed" in line for line in lines)
