"""Lists: what sorts and filters them lies in their addresses, and who has left is not in them."""

from __future__ import annotations

import re
import time
from functools import partial

import httpx

from tests.support.servers import wait_until
from tests.ui.dashboard import Running
from tests.ui.demo import Demo
from tests.ui.html import parse
from tests.ui.test_pages import act, page
from tests.ui.test_queues import enqueue, page_of
from tests.ui.test_workers import BEAT


def queues(text: str) -> list[str]:
    """The names of the queues that a page lists."""
    return re.findall(r'<th scope="row" class="one-line"><a href="\./queues/([^"]+)"', text)


def test_queues_are_sorted_and_filtered_by_the_address(
    running: Running, admin: httpx.Client
) -> None:
    with running.api() as api:
        for name, count in (("srt-few", 1), ("srt-many", 3), ("srt-none", 1)):
            for _ in range(count):
                enqueue(api, name)
        fetched = api.post("/ojs/v1/workers/fetch", json={"queues": ["srt-none"]}).json()
        api.post("/ojs/v1/workers/ack", json={"job_id": fetched["jobs"][0]["id"]})

    def are_listed() -> bool:
        return set(queues(page(admin, "/ui/queues?find=srt-"))) == {
            "srt-few",
            "srt-many",
            "srt-none",
        }

    wait_until(are_listed, what="the numbers of all queues are read every five seconds")
    by_count = page(admin, "/ui/queues?find=srt-&sort=available")
    assert queues(by_count) == ["srt-many", "srt-few", "srt-none"]
    assert 'aria-sort="descending"><a href="./queues?find=srt-&amp;sort=available"' in by_count
    assert queues(page(admin, "/ui/queues?find=srt-&sort=name")) == [
        "srt-few",
        "srt-many",
        "srt-none",
    ]
    assert queues(page(admin, "/ui/queues?find=srt-"))[:2] == ["srt-few", "srt-many"], (
        "oldest job first"
    )
    assert queues(page(admin, "/ui/queues?find=srt-&state=waiting&sort=name")) == [
        "srt-few",
        "srt-many",
    ]
    assert "No queue matches" in page(admin, "/ui/queues?find=srt-&state=failing")
    assert queues(page(admin, "/ui/queues?find=srt-&sort=unknown")), "an unknown order is ignored"
    with running.browser("email-key") as team:
        assert queues(page(team, "/ui/queues")) == ["email"], "others stay hidden"


def test_chosen_queues_are_paused_and_resumed_together(
    running: Running, admin: httpx.Client
) -> None:
    with running.api() as api:
        for name in ("both-a", "both-b", "both-c"):
            enqueue(api, name)
        chosen = ["both-a", "both-b"]
        for action, paused, words in (
            ("pause", [True, True, False], "2 queues are paused"),
            ("resume", [False, False, False], "2 queues run again"),
        ):
            form = {"action": action, "id": chosen, "back": "queues?find=both-"}
            answer = admin.post("/ui/queues", data=form)
            assert answer.status_code == 303
            assert answer.headers["location"].endswith("queues?find=both-")
            assert words in page(admin, "/ui/queues")
            found = [
                api.get(f"/ojs/v1/admin/queues/{name}").json()["paused"]
                for name in (*chosen, "both-c")
            ]
            assert found == paused
        assert "No queue was chosen" in act(admin, "/ui/queues", "queues")
    with running.browser("viewer-key") as viewer:
        assert (
            viewer.post("/ui/queues", data={"action": "pause", "id": ["both-a"]}).status_code == 403
        )
        assert 'id="choose"' not in page(viewer, "/ui/queues")


def test_the_jobs_of_a_queue_come_before_its_settings(
    running: Running, admin: httpx.Client
) -> None:
    with running.api() as api:
        enqueue(api, "jobs-first")
    shown = page(admin, "/ui/queues/jobs-first")
    assert "Newest jobs" in shown
    assert "jobs-first/limits" not in shown
    settings = page(admin, "/ui/queues/jobs-first?tab=settings")
    assert "Newest jobs" not in settings
    assert settings.index("jobs-first/limits") < settings.index("jobs-first/defaults")
    assert settings.index("jobs-first/defaults") < settings.index('class="removal"')
    assert settings.index('class="removal"') < settings.index("jobs-first/delete")


def workers(text: str) -> list[str]:
    found = [each.attributes["href"] for each in parse(text).all("a")]
    return [link.rpartition("/")[2] for link in found if link.startswith("./workers/f-")]


def test_workers_are_filtered_and_those_that_left_are_gone(
    running: Running, admin: httpx.Client
) -> None:
    store = running.app.store
    with running.api() as api:
        for name, host, queue in (
            ("f-1", "host-one", "q-one"),
            ("f-2", "host-two", "q-two"),
            ("f-gone", "host-one", "q-one"),
        ):
            beat = {**BEAT, "worker_id": name, "hostname": host, "queues": [queue]}
            api.post("/ojs/v1/workers/heartbeat", json=beat).raise_for_status()
        admin.post("/ui/workers/f-2/direct/quiet")

    async def silence(seconds: float) -> None:
        shard, at_ms = store.keys.shard_of_worker("f-gone"), int(1000 * (time.time() - seconds))
        for name in ("last_seen", "last_heartbeat"):
            await store.redis.call(shard.slot, "HSET", shard.worker("f-gone"), name, at_ms)

    assert workers(page(admin, "/ui/workers?host=host-one")) == ["f-1", "f-gone"]
    running.run(partial(silence, 45.0))
    shown = page(admin, "/ui/workers?host=host-one")
    assert workers(shown) == ["f-1", "f-gone"], "it is stale, and may come back"
    running.run(partial(silence, 70.0))
    shown = page(admin, "/ui/workers?host=host-one")
    assert workers(shown) == ["f-1"]
    assert "have left without a goodbye" in shown
    row = shown.partition(">f-1</a>")[2].partition("</tr>")[0]
    assert '<td class="num"><span class="zero">0</span></td>' not in row, "a restart of its host"
    assert workers(page(admin, "/ui/workers?queue=q-two")) == ["f-2"]
    assert workers(page(admin, "/ui/workers?host=f-&state=quiet")) == ["f-2"]
    assert "No worker matches" in page(admin, "/ui/workers?host=no-such-host")


def test_a_failing_webhook_says_since_when_and_why(running: Running, admin: httpx.Client) -> None:
    store = running.app.store
    with running.api() as api:
        body = {"url": "https://example.com/failing", "events": ["job.failed"]}
        made = api.post("/ojs/v1/webhooks/subscriptions", json=body).json()
        subscription = made["subscription"]["id"]

        async def fail(shard_number: int, outcome: str, error: str) -> None:
            shard = list(store.keys)[shard_number]
            now = int(1000 * time.time())
            status = 200 if outcome == "delivered" else 0
            counts = {f"last:{subscription}": f"{now} {status}", f"error:{subscription}": error}
            counts[f"{outcome}:{subscription}"] = "3"
            since = "success" if outcome == "delivered" else "since"
            counts[f"{since}:{subscription}"] = str(now)
            pairs = [part for pair in counts.items() for part in pair]
            await store.redis.call(shard.slot, "HSET", shard.webhook_counts, *pairs)

        running.run(partial(fail, 1, "failed", "connection refused"))
        shown = page(admin, "/ui/webhooks?show=failing")
        row = shown.partition("example.com/failing")[2].partition("</tr>")[0]
        assert "failing since" in row
        assert "no response: connection refused" in row
        running.run(partial(fail, 2, "delivered", ""))
        assert "example.com/failing" not in page(admin, "/ui/webhooks?show=failing")
        assert "example.com/failing" in page(admin, "/ui/webhooks"), "the receiver answers again"
        api.delete(f"/ojs/v1/webhooks/subscriptions/{subscription}").raise_for_status()


def test_a_part_of_the_history_has_an_address(admin: httpx.Client, demo: Demo) -> None:
    now = int(time.time()) // 60 * 60
    shown = page(admin, f"/ui/?from={now - 1800}&to={now - 600}")
    rows = shown.partition('id="series"')[2].partition("</table>")[0].count("<tr>")
    assert 15 <= rows <= 25, "a point for each minute"
    assert "Zoom out" in shown
    assert "jobs?query=since%3A" in shown
    for wrong in ("from=5&to=1", "from=x&to=9", "from=1", "from=99999999999&to=999999999999"):
        assert "Zoom out" not in page(admin, f"/ui/?{wrong}")
    assert "Zoom out" in page_of(admin.get("/ui/?from=1&to=9999999999")), "any time is answered"


def heads(text: str, name: str) -> list[str]:
    """The names that the first column of a list shows, of those that contain ``name``."""
    rows = re.findall(r'<th scope="row"[^>]*>\s*<a [^>]*>([^<]*)</a>', text)
    return [each for each in rows if name in each]


def test_types_and_workers_are_sorted_by_the_address(running: Running, admin: httpx.Client) -> None:
    with running.api() as api:
        for name, count in (("srt.few", 1), ("srt.many", 3), ("srt.last", 2)):
            for _ in range(count):
                body = {"type": name, "args": [], "options": {"queue": "srt-types"}}
                api.post("/ojs/v1/jobs", json=body).raise_for_status()
        for name, host, jobs in (("s-1", "b", 1), ("s-2", "a", 3), ("s-3", "c", 2)):
            beat = {**BEAT, "worker_id": name, "hostname": f"sorted-{host}", "active_jobs": jobs}
            api.post("/ojs/v1/workers/heartbeat", json=beat).raise_for_status()

    def listed(query: str) -> list[str]:
        return heads(page(admin, f"/ui/types?{query}"), "srt.")

    by_count = ["srt.many", "srt.last", "srt.few"]
    wait_until(
        lambda: listed("find=SRT.&sort=enqueued") == by_count,
        what="processes write the counts of types",
    )
    by_name = page(admin, "/ui/types?find=srt.&sort=name")
    assert heads(by_name, "srt.") == sorted(by_count)
    assert 'aria-sort="ascending"><a href="./types?range=1h&amp;find=srt.&amp;sort=name"' in by_name
    assert 'href="./types?range=24h&amp;find=srt.&amp;sort=name"' in by_name, "tabs keep the order"
    assert listed("find=srt.f&sort=unknown") == ["srt.few"]
    assert "No type matches" in page(admin, "/ui/types?find=no-such-type")

    def of_host(query: str) -> list[str]:
        return heads(page(admin, f"/ui/workers?host=sorted-&{query}"), "s-")

    assert of_host("") == ["s-1", "s-2", "s-3"]
    assert of_host("sort=host") == ["s-2", "s-1", "s-3"]
    assert of_host("sort=active_jobs") == ["s-2", "s-3", "s-1"]
    assert of_host("sort=started_at") == ["s-3", "s-2", "s-1"]


def test_cron_jobs_and_keys_and_webhooks_are_sorted_and_found(
    running: Running, admin: httpx.Client
) -> None:
    with running.api() as api:
        for name, expression in (("srt-new-year", "0 0 1 1 *"), ("srt-soon", "* * * * *")):
            cron = {"name": name, "cron": expression, "type": f"{name}.job", "args": []}
            api.post("/ojs/v1/cron", json=cron).raise_for_status()
        api.post("/ojs/v1/cron/srt-new-year/pause").raise_for_status()
        for key in ("srt:z", "srt:a"):
            limit = {"queue": "srt-limits", "rate_limit": {"key": key, "concurrency": 1}}
            body = {"type": "a.b", "args": [], "options": limit}
            for _ in range(1 if key == "srt:a" else 2):
                api.post("/ojs/v1/jobs", json=body).raise_for_status()
        for _ in range(2):
            api.post("/ojs/v1/workers/fetch", json={"queues": ["srt-limits"], "count": 5})
        subscriptions = []
        for url, event in (("srt-b", "job.failed"), ("srt-a", "job.completed")):
            hook = {"url": f"https://example.com/{url}", "events": [event]}
            made = api.post("/ojs/v1/webhooks/subscriptions", json=hook).json()
            subscriptions.append(made["subscription"]["id"])

        crons = partial(heads, name="srt-")
        assert crons(page(admin, "/ui/cron?find=srt-&sort=name")) == ["srt-new-year", "srt-soon"]
        assert crons(page(admin, "/ui/cron?find=srt-&sort=next_run_at"))[0] == "srt-soon"
        assert crons(page(admin, "/ui/cron?find=new-year.job")) == ["srt-new-year"], "by its type"
        assert crons(page(admin, "/ui/cron?find=srt-&state=paused")) == ["srt-new-year"]
        assert "No cron job matches" in page(admin, "/ui/cron?find=no-such-cron")

        keys = partial(heads, name="srt:")
        by_name = page(admin, "/ui/limits?find=srt:&sort=key")
        assert keys(by_name) == ["srt:a", "srt:z"]
        assert keys(page(admin, "/ui/limits?find=srt:&sort=waiting")) == ["srt:z", "srt:a"]
        assert "No key matches" in page(admin, "/ui/limits?find=no-such-key")

        hooks = partial(heads, name="/srt-")
        a, b = "https://example.com/srt-a", "https://example.com/srt-b"
        assert hooks(page(admin, "/ui/webhooks?find=srt-&sort=url")) == [a, b]
        assert hooks(page(admin, "/ui/webhooks?find=job.failed&sort=url")) == [b], "by its event"
        assert "No webhook matches" in page(admin, "/ui/webhooks?find=no-such-hook")

        for name in ("srt-new-year", "srt-soon"):
            api.delete(f"/ojs/v1/cron/{name}").raise_for_status()
        for subscription in subscriptions:
            api.delete(f"/ojs/v1/webhooks/subscriptions/{subscription}").raise_for_status()
