"""An independent count of jobs: what the API lists, beside what clients were told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import httpx

from tests.support.load import Ledger

_PAGE = 200
_TIMEOUT_S = 60


def count(url: str, headers: Mapping[str, str], queues: Iterable[str]) -> dict[str, str]:
    """Return the state of every job of some queues, by listing them page by page.

    Raises AssertionError when a job is listed twice.
    """
    found: dict[str, str] = {}
    with httpx.Client(base_url=url, headers=headers, timeout=_TIMEOUT_S) as client:
        for queue in queues:
            asked = {"queue": queue, "limit": str(_PAGE)}
            while True:
                answer = client.get("/ojs/v1/jobs", params=asked)
                answer.raise_for_status()
                page = answer.json()
                for job in page["jobs"]:
                    assert job["id"] not in found, f"{job['id']} is listed twice"
                    found[job["id"]] = job["state"]
                cursor = page["pagination"].get("next_cursor")
                if not cursor:
                    break
                asked["cursor"] = cursor
    return found


def verdict(ledger: Ledger, found: Mapping[str, str]) -> list[str]:
    """Return what was lost, left over or done twice, a line each; empty when nothing was."""
    said = list(ledger.violations)
    for id_ in sorted(ledger.acknowledged):
        if id_ not in found:
            said.append(f"{id_}: acknowledged, and lost")
        elif found[id_] != "completed":
            said.append(f"{id_}: acknowledged, and {found[id_]}")
    # An enqueue without an answer may have been stored, and its repetition once more.
    doubtful = sum(call.startswith("/ojs/v1/jobs:") for call in ledger.retried)
    unknown = sorted(found.keys() - ledger.acknowledged)
    if len(unknown) > doubtful:
        said.append(f"{len(unknown)} jobs that no client was told of, {doubtful} were in doubt")
    return said
