"""The ledger reports violations, and nothing else."""

from __future__ import annotations

import httpx
import pytest
import trio
from trio.testing import MockClock

from tests.support.load import JSON, Ledger

OK = httpx.Response(200, text="{}")
CONFLICT = httpx.Response(409, text="{}")


def job(lease: str, attempt: int) -> JSON:
    return {"id": "j", "lease_id": lease, "attempt": attempt}


async def overtaken(ledger: Ledger) -> None:
    """Return a ledger in which worker 0 gets the first lease after worker 1 got the second."""
    await trio.sleep(4)
    ledger.take(job("second", 2), "worker-1", trio.current_time() + 3)
    ledger.take(job("first", 1), "worker-0", trio.current_time() - 1)


async def test_a_worker_with_a_late_response_may_be_refused(autojump_clock: MockClock) -> None:
    ledger = Ledger()
    await overtaken(ledger)
    ledger.acked(job("first", 1), "worker-0", CONFLICT)
    ledger.let_go(job("first", 1))

    assert ledger.violations == []
    assert ledger.hold_of(job("second", 2)) is not None, "the next holder's hold stays"


async def test_an_accepted_stale_ack_is_a_violation(autojump_clock: MockClock) -> None:
    ledger = Ledger()
    await overtaken(ledger)
    ledger.acked(job("first", 1), "worker-0", OK)

    assert ledger.violations == ["j: ack of worker-0 while worker-1 holds it"]


@pytest.mark.parametrize(("after_s", "found"), [(1, True), (4, False)])
async def test_a_refused_ack_during_the_lease_is_a_violation(
    autojump_clock: MockClock, after_s: float, found: bool
) -> None:
    ledger = Ledger()
    ledger.take(job("first", 1), "worker-0", trio.current_time() + 3)
    await trio.sleep(after_s)
    ledger.acked(job("first", 1), "worker-0", CONFLICT)

    assert bool(ledger.violations) == found
    assert ledger.hold_of(job("first", 1)) is None


async def test_a_confirmed_ack_completes_the_job(autojump_clock: MockClock) -> None:
    ledger = Ledger()
    ledger.take(job("first", 1), "worker-0", trio.current_time() + 3)
    ledger.acked(job("first", 1), "worker-0", OK)

    assert (ledger.violations, ledger.completed) == ([], {"j"})
