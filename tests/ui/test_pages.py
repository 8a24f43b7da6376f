"""The pages over plain HTTP: what they show, and that every action works without JavaScript."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from urllib.parse import quote

import httpx
import pytest
from werkzeug.routing import Map, Rule

from ojs_cluster.core.cron.zones import find_zone
from ojs_cluster.ui.navigation import MENU
from ojs_cluster.ui.pages import jobs as jobs_page
from ojs_cluster.ui.pages.shared.times import typed_time
from ojs_cluster.ui.routes import PAGES
from tests.support.servers import wait_until
from tests.ui.conftest import write_history
from tests.ui.dashboard import Running
from tests.ui.demo import BIG, Demo
from tests.ui.every_page import every_page
from tests.ui.html import parse


def page(client: httpx.Client, path: str, status: int = 200) -> str:
    answer = client.get(path)
    assert answer.status_code == status, answer.text[:500]
    return answer.text


def act(client: httpx.Client, path: str, back: str = "") -> str:
    """Send the form of an action, and return the page that the browser then shows."""
    answer = client.post(path, data={"back": back})
    assert answer.status_code == 303, answer.text
    return client.send(answer.next_request).text if answer.next_request else ""


def test_every_link_leads_to_a_page(admin: httpx.Client) -> None:
    start = str(admin.base_url.join("/ui/"))
    found, seen = {start}, set[str]()
    while found and len(seen) < 60:
        url = min(found)
        answer = admin.get(url)
        # A group of errors names its newest job, which may have been deleted. So may be what the
        # audit names.
        assert answer.status_code == 200 or "/jobs/" in url, url
        seen.add(url)
        if "text/html" in answer.headers["content-type"] and "/ui/audit" not in url:
            links = parse(answer.text).links(url)
            assert all(link.startswith(start) for link in links), links
            # One job stands for all of them.
            jobs = {link for link in links if "/jobs/" in link}
            found |= (links - jobs) | set(sorted(jobs)[:1])
        found -= seen
    assert len(seen) > 20


def test_every_page_is_opened_by_the_tests_with_a_browser(demo: Demo) -> None:
    shown = [page for page in PAGES if page.method == "GET"]
    places = Map([Rule(page.rule, endpoint=page.rule) for page in shown]).bind("localhost")
    known = {name: path for name, path in every_page(demo).items() if name != "unknown"}
    opened = {places.match("/" + path.partition("?")[0])[0] for path in known.values()}
    no_pages = {"/jobs/values.json", "/jobs/<job_id>.json", "/events/stream", "/cron/_preview"}
    assert {page.rule for page in shown} - opened == no_pages


def test_the_menu_has_groups_of_the_pages_that_a_user_may_see(
    running: Running, admin: httpx.Client
) -> None:
    def groups(client: httpx.Client, path: str) -> dict[str, list[str]]:
        menu = page(client, path).partition('aria-label="Pages"')[2].partition("</nav>")[0]
        found = {}
        for id_, name, entries in re.findall(
            r'<span id="([a-z-]+)">(\w+)</span><ul aria-labelledby="\1">(.*?)</ul>', menu, re.DOTALL
        ):
            assert id_ == f"menu-{name.lower()}"
            found[name] = re.findall(r">([^<]+)</a>", entries)
        assert menu.count('aria-current="page"') == 1
        return found

    seen = groups(admin, "/ui/queues")
    assert list(seen) == ["Work", "Failures", "Capacity", "Activity", "System"]
    assert seen["Failures"] == ["Errors", "Dead letters"]
    listed = [entry.label for entry in MENU if entry.group]
    assert [label for labels in seen.values() for label in labels] == listed
    with running.browser("email-key") as team:
        seen = groups(team, "/ui/")
    assert "System" not in seen, "a group without a page is not listed"
    assert seen["Capacity"] == ["Worker pools"]


def test_a_viewer_may_have_times_in_a_zone_and_others_keep_relative_ones(
    running: Running, admin: httpx.Client, demo: Demo
) -> None:
    relative = re.compile(r'<time datetime="[^"]*" title=')
    refresh = {"HX-Request": "true"}
    with running.browser() as client:
        form = {"times": " asia/tokyo", "back": "workers?page=1"}
        sent = client.post("/ui/times", data=form)
        assert (sent.status_code, sent.headers["location"]) == (303, "./workers?page=1")
        cookie = sent.headers["set-cookie"].lower()
        for part in ("httponly", "samesite=strict", "path=/ui/", "max-age=31536000"):
            assert part in cookie
        shown = 0
        for path in every_page(demo).values():
            text = client.get(f"/ui/{path}").text
            assert not relative.search(text), path
            # Texts of the server about what an operation chooses, and schedules, keep their zone.
            assert not re.search(r">[^<]*\d\d:\d\d:\d\d.UTC</(time|li)>", text), path
            shown += text.count('<time class="exact"')
        assert shown > 20
        in_zone = client.get("/ui/workers", headers=refresh).text
        exact = (
            r'datetime="([^"]*)" title="[^"]* ago">(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)\xa0JST</time>'
        )
        found = re.search(exact, in_zone)
        assert found is not None
        at, local = (datetime.fromisoformat(each).replace(tzinfo=None) for each in found.groups())
        assert local - at.replace(microsecond=0) == timedelta(hours=9)
        assert relative.search(admin.get("/ui/workers", headers=refresh).text)
        assert relative.search(page(admin, "/ui/workers"))
        numbers = page(client, "/ui/?range=6h")
        assert "times in Asia/Tokyo" in numbers
        minute = re.search(
            r'<time datetime="[^T]*T(\d\d):(\d\d)[^"]*">\d\d-\d\d (\d\d:\d\d)<', numbers
        )
        assert minute is not None
        assert minute[3] == f"{(int(minute[1]) + 9) % 24:02}:{minute[2]}"
        client.post("/ui/times", data={"times": "Asia/Nowhere"})
        assert "no time zone &#39;Asia/Nowhere&#39;" in page(client, "/ui/workers")
        assert "JST</time>" in page(client, "/ui/workers"), "the choice stays"
        client.post("/ui/times", data={"times": "", "back": "//example.com"})
        assert relative.search(page(client, "/ui/workers"))
        client.cookies.set("ojs_ui_times", "../etc/passwd")
        assert relative.search(page(client, "/ui/workers")), "an unknown zone is no choice"


@pytest.mark.parametrize(
    ("typed", "zone", "sent"),
    [
        ("2030-07-31 08:00", "Europe/Berlin", "2030-07-31T06:00:00Z"),
        (" 2030-01-31T08:00:05 ", "Europe/Berlin", "2030-01-31T07:00:05Z"),
        ("2030-01-31", "America/St_Johns", "2030-01-31T03:30:00Z"),
        ("2030-01-31 08:00", None, "2030-01-31T08:00:00Z"),
        ("2030-01-31T08:00:00Z", "Europe/Berlin", "2030-01-31T08:00:00Z"),
        ("0001-01-01", "Asia/Tokyo", "0001-01-01"),
        ("2030-02-31 08:00", None, "2030-02-31 08:00"),
        ("+PT5M", "Asia/Tokyo", "+PT5M"),
    ],
)
def test_a_typed_time_is_in_the_chosen_zone(typed: str, zone: str | None, sent: str) -> None:
    assert typed_time(typed, find_zone(zone) if zone else None) == sent


def test_the_overview_shows_numbers_problems_and_history(
    running: Running, admin: httpx.Client
) -> None:
    running.run(lambda: write_history(running))  # the hour of the demo may be over

    def is_complete() -> bool:
        text = page(admin, "/ui/")  # of a busy machine it says that something was not read in time
        return len(parse(text).all("tr")) > 50 and "Queue media is paused" in text

    wait_until(is_complete, what="the hour of statistics as a table, and the paused queue")
    text = page(admin, "/ui/")
    document = parse(text)
    assert 'href="./queues/media"' in text  # the way to the paused queue
    assert "retryable" in document.text


def test_the_table_of_a_chart_has_whole_numbers_without_decimals(
    admin: httpx.Client, demo: Demo
) -> None:
    rows = page(admin, "/ui/").partition('id="series"')[2].partition("<tbody>")[2].split("</tr>")
    numbers = [value for row in rows for value in re.findall(r"<td>([^<]*)</td>", row)]
    assert len(numbers) > 100
    assert not [value for value in numbers if not re.fullmatch(r"([0-9]+(\.[0-9]?[1-9])?)?", value)]


def test_a_queue_is_paused_and_resumed_by_forms(admin: httpx.Client) -> None:
    assert "queues/email/pause" in page(admin, "/ui/queues")  # what viewers share from now on
    paused = act(admin, "/ui/queues/email/pause", "queues")
    assert "The queue email is paused" in paused
    assert "queues/email/resume" in paused
    what_it_means = "takes new jobs and its active jobs finish, but no job starts."
    assert f"This queue is paused: it {what_it_means}" in page(admin, "/ui/queues/email")
    assert "The queue email is paused" not in page(admin, "/ui/queues"), "a note is shown once"
    assert "queues/email/resume" in page(admin, "/ui/queues/email")
    assert "The queue email runs again" in act(admin, "/ui/queues/email/resume", "queues/email")


def test_jobs_are_listed_by_state_and_search_with_a_cursor(admin: httpx.Client, demo: Demo) -> None:
    first = parse(page(admin, "/ui/jobs?state=available&queue=media"))
    rows = [row.attributes["data-id"] for row in first.all("tr") if "data-id" in row.attributes]
    older = next(each for each in first.all("a") if "cursor=" in each.attributes["href"])
    second = parse(page(admin, "/ui/" + older.attributes["href"]))
    more = [row.attributes["data-id"] for row in second.all("tr") if "data-id" in row.attributes]
    assert (len(rows), len(more)) == (50, 20)
    assert not set(rows) & set(more)

    found = page(
        admin, "/ui/jobs?query=" + quote('error:"Connection unexpectedly"* state:discarded')
    )
    assert demo.jobs["discarded"] in found
    assert demo.jobs["completed"] not in found


def test_active_jobs_have_their_worker_and_the_longest_running_come_first(
    running: Running, admin: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running.api() as api:
        queue = {"queue": "long-runs"}
        jobs = [{"type": "a.b", "args": [], "options": queue} for _ in range(52)]
        api.post("/ojs/v1/jobs/batch", json={"jobs": jobs}).raise_for_status()
        started: list[str] = []
        for number in range(52):
            body = {"queues": ["long-runs"], "worker_id": f"host:{number}/a", "count": 1}
            (job,) = api.post("/ojs/v1/workers/fetch", json=body).json()["jobs"]
            started.append(f"{job['started_at']} {job['id']}")
        oldest = [each.partition(" ")[2] for each in sorted(started)]

        def rows(text: str) -> list[str]:
            found = parse(text).all("tr")
            return [row.attributes["data-id"] for row in found if "data-id" in row.attributes]

        path = "/ui/jobs?state=active&queue=long-runs"
        first = page(admin, path)
        more = next(e for e in parse(first).all("a") if "cursor=" in e.attributes["href"])
        second = page(admin, "/ui/" + more.attributes["href"])
        assert rows(first) + rows(second) == oldest
        assert "the longest running first" in first
        assert 'href="./workers/host%3A0%2Fa"' in first + second
        monkeypatch.setattr(jobs_page, "MAX_SORTED", 51)
        unsorted = page(admin, path)
        assert "in no order because there are many" in unsorted
        assert len(rows(unsorted)) == 50
        for job_id in oldest:
            api.post("/ojs/v1/workers/ack", json={"job_id": job_id})


def test_a_search_for_an_id_opens_the_job(admin: httpx.Client, demo: Demo) -> None:
    job_id = demo.jobs["discarded"]
    for text in (job_id, f"  {job_id.upper()} ", f"id:{job_id}", f'id:"{job_id}"'):
        answer = admin.get("/ui/jobs", params={"query": text})
        assert answer.status_code == 303, text
        assert answer.headers["location"] == f"./jobs/{job_id}"
    assert admin.get("/ui/jobs", params={"type": job_id}).status_code == 303
    assert "/workflows/" in str(
        admin.get("/ui/jobs", params={"query": demo.workflow}).headers["location"]
    )
    for text in (f"id:{job_id} state:active", f"id:{job_id}*", f"id:{job_id},{demo.workflow}"):
        assert admin.get("/ui/jobs", params={"query": text}).status_code == 200, text
    unknown = f"{'0' * 8}-0000-7000-8000-{'0' * 12}"
    shown = page(admin, f"/ui/jobs?query={unknown}")
    assert "No job has this id" in shown
    for path in ("/ui/", "/ui/jobs"):
        assert "A job id, a word" in next(
            each.attributes["placeholder"]
            for each in parse(page(admin, path)).all("input")
            if each.attributes.get("type") == "search"
        )


def test_a_key_for_some_queues_opens_no_other_job(running: Running, demo: Demo) -> None:
    with running.browser("email-key") as client:
        assert "No job has this id" in page(client, f"/ui/jobs?query={demo.jobs['active']}")


def test_a_completion_offers_only_what_the_key_may_see(
    admin: httpx.Client, running: Running, demo: Demo
) -> None:
    def has_types() -> bool:  # each process counts its types every few seconds
        return {"email.send", "image.resize"} <= set(
            admin.get("/ui/jobs/values.json").json()["type"]
        )

    wait_until(has_types, what="the types are known")
    found = admin.get("/ui/jobs/values.json").json()
    assert {"id:", "args.", "since:"} <= set(found["fields"])
    assert "discarded" in found["state"]
    assert {"email", "media"} <= set(found["queue"])
    assert "SMTPServerDisconnected" in found["error"]
    with running.browser("email-key") as client:
        few = client.get("/ui/jobs/values.json").json()
    assert "media" not in few["queue"]
    assert "image.resize" not in few["type"]
    with running.browser("producer-key") as client:
        assert client.get("/ui/jobs/values.json").status_code == 403


def test_the_states_say_why_they_have_no_numbers(admin: httpx.Client) -> None:
    why = "The states have no numbers while a search"
    listed = page(admin, "/ui/jobs?query=state:active")
    assert why in listed
    assert "To count, choose" in listed
    assert "To count, choose" not in page(admin, "/ui/jobs?query=state:pending"), "no job is below"
    assert why not in page(admin, "/ui/jobs?queue=email")


@pytest.mark.parametrize(
    "query",
    [
        "unexpectedly",
        '"CONNECTION UNEXPECTEDLY"',
        "smtpserver state:discarded",
        "email unexpectedly",
    ],
)
def test_a_word_finds_jobs_by_their_error(admin: httpx.Client, demo: Demo, query: str) -> None:
    found = page(admin, f"/ui/jobs?query={quote(query)}")
    assert f'data-id="{demo.jobs["discarded"]}"' in found
    assert f'data-id="{demo.jobs["completed"]}"' not in found


def test_a_word_finds_jobs_by_type_queue_and_part_of_the_id(
    admin: httpx.Client, demo: Demo
) -> None:
    assert f'data-id="{demo.jobs["active"]}"' in page(admin, "/ui/jobs?query=BUILD")
    assert f'data-id="{demo.jobs["active"]}"' in page(admin, "/ui/jobs?query=reports")
    assert "No job matches" in page(admin, "/ui/jobs?query=no-such-word")
    one = page(admin, f"/ui/jobs?query={demo.jobs['active'][:30]}")
    assert f'data-id="{demo.jobs["active"]}"' in one


def test_a_mistake_in_a_search_is_explained_beside_it(admin: httpx.Client) -> None:
    text = page(admin, "/ui/jobs?query=colour:red", 400)
    assert 'id="refusal"' in text
    assert 'value="colour:red"' in text


def test_a_job_shows_numbers_of_any_size_and_its_error(admin: httpx.Client, demo: Demo) -> None:
    assert str(BIG) in page(admin, f"/ui/jobs/{demo.jobs['completed']}")
    failed = page(admin, f"/ui/jobs/{demo.jobs['discarded']}")
    assert "Connection unexpectedly closed" in failed
    assert "smtp.login(user, password)" in failed
    assert "reporter-1" in page(admin, f"/ui/jobs/{demo.jobs['active']}")
    assert admin.get(f"/ui/jobs/{demo.jobs['completed']}.json").json()["result"]["n"] == BIG


def test_a_job_is_retried_cancelled_and_copied(admin: httpx.Client, running: Running) -> None:
    with running.api() as api:
        once = {"queue": "acts", "retry": {"max_attempts": 1}, "priority": 7}
        body = {"type": "a.b", "args": [BIG], "meta": {"k": "v"}, "options": once}
        api.post("/ojs/v1/jobs", json=body)
        fetched = api.post("/ojs/v1/workers/fetch", json={"queues": ["acts"], "worker_id": "w"})
        job_id = fetched.json()["jobs"][0]["id"]
        api.post("/ojs/v1/workers/nack", json={"job_id": job_id, "error": {"message": "no"}})

        back = f"jobs/{job_id}"
        assert "The job is available again" in act(admin, f"/ui/jobs/{job_id}/retry", back)
        assert "The job is cancelled" in act(admin, f"/ui/jobs/{job_id}/cancel", back)
        refused = act(admin, f"/ui/jobs/{job_id}/retry", back)
        assert 'role="alert"' in refused
        copied = admin.post(f"/ui/jobs/{job_id}/copy")
        new = api.get("/ojs/v1/jobs/" + copied.headers["location"].rpartition("/")[2]).json()
    assert new["id"] != job_id
    assert (new["args"], new["meta"], new["queue"], new["priority"]) == (
        *([BIG], {"k": "v"}),
        *("acts", 7),
    )


def test_what_does_not_exist_is_explained(admin: httpx.Client) -> None:
    for path in (
        "/ui/nothing",
        "/ui/queues/nothing",
        f"/ui/jobs/{'0' * 8}-0000-7000-8000-{'0' * 12}",
    ):
        text = page(admin, path, 404)
        assert "To the overview" in text


@pytest.mark.parametrize("path", ["queues", "workers", "limits"])
def test_a_page_number_is_read_safely(admin: httpx.Client, path: str) -> None:
    for number in ("0", "-1", "x", "²", "1" + "0" * 5000):
        page(admin, f"/ui/{path}?page={number}")
    assert admin.get(f"/ui/{path}?page=9999").status_code in (200, 400)


def test_empty_lists_give_the_next_command(admin: httpx.Client) -> None:
    assert "No job matches" in page(admin, "/ui/jobs?queue=reports&state=completed")


def test_a_key_without_the_scope_is_told_which_one_it_needs(running: Running, demo: Demo) -> None:
    with running.browser("producer-key") as client:
        assert "ojs:admin:read" in page(client, "/ui/", 403)
    with running.browser("viewer-key") as client:
        assert "queues/media/resume" not in page(client, "/ui/queues")
        answer = client.post("/ui/queues/media/resume")
        assert answer.status_code == 403
        assert "ojs:admin:write" in answer.text


def test_a_key_for_some_queues_sees_only_these(running: Running, demo: Demo) -> None:
    with running.browser("email-key") as client:
        assert "media" not in page(client, "/ui/")
        listed = page(client, "/ui/queues")
        assert "email" in listed
        assert "media" not in listed
        assert "image.resize" not in page(client, "/ui/jobs")
        page(client, f"/ui/jobs/{demo.jobs['available']}", 404)
        page(client, "/ui/queues/media", 403)


@pytest.mark.parametrize(
    "path", ["/ui/", "/ui/queues", "/ui/jobs", "/ui/login", "/ui/static/app.js"]
)
def test_every_response_has_the_headers_that_keep_others_out(
    admin: httpx.Client, path: str
) -> None:
    headers = admin.get(path).headers
    assert "script-src 'self';" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"


def test_pages_have_no_inline_script_style_or_handler(admin: httpx.Client, demo: Demo) -> None:
    for path in ("/ui/", "/ui/queues", "/ui/jobs", f"/ui/jobs/{demo.jobs['discarded']}"):
        for element in parse(page(admin, path)).elements:
            assert element.tag != "style"
            assert element.tag != "script" or element.attributes.get("src")
            assert not [name for name in element.attributes if name.startswith("on")]
            assert "style" not in element.attributes
