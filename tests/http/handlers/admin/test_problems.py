"""The problems of the cluster for programs: their names, times and pages, in English."""

from __future__ import annotations

from typing import Any

import trio

from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.ui.languages.language import Language, speak
from tests.http.api import Api, open_app

PATH = "/ojs/v1/admin/problems"
SHARED_S = 120


async def problem(api: Api, rule: str) -> dict[str, Any]:
    """Wait for the problem of a rule: what they are found by is shared for some seconds."""
    with trio.fail_after(SHARED_S):
        while True:
            reply = await api.get(PATH)
            assert reply.status == 200, reply.body
            found = [each for each in reply.json["items"] if each["rule"] == rule]
            if found:
                assert reply.json["total"] == len(reply.json["items"])
                return dict(found[0])
            await trio.sleep(0.1)


async def test_problems_have_stable_names_times_and_pages(any_api: Api) -> None:
    await any_api.enqueue(options={"queue": "p.q"})
    await any_api.post("/ojs/v1/queues/p.q/pause")
    started = await any_api.post(
        "/ojs/v1/admin/system/maintenance", {"enabled": True, "reason": "work"}
    )
    speak(Language("xx", "Other", "ltr", ".", ","))

    maintenance, paused = (
        await problem(any_api, "maintenance"),
        await problem(any_api, "queue_paused"),
    )

    assert maintenance == {
        "id": "maintenance",
        "rule": "maintenance",
        "severity": "critical",
        "text": "Maintenance mode is on: fetch requests are refused",
        "action": "Switch it off when the work is done.",
        "since": started.json["started_at"],
        "link": "ui/operations",
    }
    assert (paused["id"], paused["severity"]) == ("queue_paused", "warning")
    assert (paused["text"], paused["link"]) == ("Queue p.q is paused", "ui/queues/p.q")
    severities = [each["severity"] for each in (await any_api.get(PATH)).json["items"]]
    assert severities == sorted(severities), "critical ones come first"


async def test_problems_of_all_queues_need_a_key_for_all_queues(standalone: Embedded) -> None:
    async with open_app(standalone, api_keys=("one",)) as app:
        api = Api(app)
        assert (await api.get(PATH)).status == 401
        assert (await api.get(PATH, headers={"Authorization": "Bearer one"})).status == 200


async def test_a_process_that_does_not_look_for_problems_says_so(api: Api) -> None:
    object.__setattr__(api.app, "find_problems", None)
    reply = await api.get(PATH)
    assert reply.status >= 400
    assert "does not look for problems" in reply.error["message"]
