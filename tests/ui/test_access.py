"""Sessions, the origin of forms, the prefix of a proxy, and the modes of the dashboard."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
from collections.abc import Iterator
from functools import partial
from ipaddress import ip_network
from typing import Any

import httpx
import pytest
import trio

from ojs_cluster.core.access.client_address import TrustedProxies
from ojs_cluster.core.access.scopes import PRESETS, Keyring, Principal, digest
from ojs_cluster.http.access.keys_and_scopes import AccessControl
from ojs_cluster.http.hypercorn.quart_app import create_quart_app
from ojs_cluster.http.messages import Request
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.ui import access, snapshots
from ojs_cluster.ui.access import SESSION_S, FailedLogins, Sessions, is_own_form
from ojs_cluster.ui.browser import respond
from ojs_cluster.ui.quart_views import add_dashboard
from ojs_cluster.ui.settings import UiSettings, base_path
from ojs_cluster.ui.snapshots import Snapshots
from ojs_cluster.ui.visit import Visit, local_target
from tests.http.api import open_app, serving
from tests.support.certificates import Certificates
from tests.support.servers import wait_until
from tests.ui.dashboard import KEYRING, KEYS, OWN, Running, dashboard
from tests.ui.demo import Demo

BOSS = KEYS["admin-key"]
SECRET = b"s" * 32


def cookie(now: float = 0.0) -> str:
    return Sessions().issue(SECRET, "admin-key", BOSS, now)


def test_a_session_names_its_user_for_twelve_hours() -> None:
    sessions = Sessions()
    assert sessions.find(SECRET, cookie(), KEYRING, SESSION_S - 1) == BOSS
    assert sessions.find(SECRET, cookie(), KEYRING, SESSION_S) is None


def test_a_session_ends_with_its_api_key() -> None:
    replaced = Keyring({digest("another-key"): BOSS}, {})
    expired = Keyring({digest("admin-key"): dataclasses.replace(BOSS, expires_at_s=5)}, {})
    assert Sessions().find(SECRET, cookie(), replaced, 0) is None
    assert Sessions().find(SECRET, cookie(), expired, 4) is not None
    assert Sessions().find(SECRET, cookie(), expired, 5) is None


def test_a_forged_session_is_refused() -> None:
    content, _, signature = cookie().partition(".")
    viewer = Sessions().issue(SECRET, "viewer-key", KEYS["viewer-key"], 0).partition(".")
    forged = ["", ".", "x.y", f"{content}.", f".{signature}", f"{content}.{viewer[2]}", "é.é"]
    forged += [
        f"{viewer[0]}.{signature}",
        cookie()[:-2],
        "a" * 5000,
        f"{content}=.{signature[:-1]}",
    ]
    for value in forged:
        assert Sessions().find(SECRET, value, KEYRING, 0) is None, value
    assert Sessions().find(b"t" * 32, cookie(), KEYRING, 0) is None


@pytest.mark.parametrize(
    ("headers", "own"),
    [
        ({"sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "same-site"}, False),
        ({"sec-fetch-site": "cross-site", "origin": "http://host:1"}, False),
        ({"sec-fetch-site": "none"}, False),
        ({"origin": "http://HOST:1"}, True),
        ({"origin": "http://host:2"}, False),
        ({"origin": "http://host"}, False),
        ({"origin": "null"}, False),
        ({}, False),
    ],
)
def test_a_form_of_another_site_is_recognized(headers: dict[str, str], own: bool) -> None:
    assert is_own_form(headers, ("host:1",)) is own


def test_failed_logins_of_one_address_have_to_wait() -> None:
    failed = FailedLogins()
    for _ in range(10):
        assert failed.wait_s("a", 0) == 0
        failed.count("a", 0)
    assert 0 < failed.wait_s("a", 0) <= 6
    assert failed.wait_s("b", 0) == 0
    assert failed.wait_s("a", 60) == 0
    failed.forgive("a")
    failed.forgive("b")
    assert (failed.wait_s("a", 0), failed.wait_s("b", 0)) == (0, 0)
    failed.count("a", 0)
    assert failed.wait_s("a", 0) > 0
    for last in range(10):
        failed.count(f"2001:db8::{last}", 0)
    assert failed.wait_s("2001:db8::99", 0) > 0
    assert failed.wait_s("2001:db8:0:1::99", 0) == 0
    for number in range(3000):
        failed.count(str(number), 0)
    assert len(failed._free_at) <= 1000


@pytest.mark.parametrize(
    "text",
    [
        *("//evil", "/x", "http://evil", "javascript:x", "\\\\evil", "a\nb", "\u65e5"),
        *("../../grafana/x", "..", "jobs/..", "jobs/./x", "a/%2e%2E/x", "a/.%2e;b/x", "a/..;/x"),
        *("a\\..\\..\\x", "a/..%2fx"),
    ],
)
def test_a_login_leads_to_no_other_site(text: str) -> None:
    assert local_target(text) == ""
    for local in ("jobs?query=a:b&x=//", "jobs?back=../x", "queues/a..b", "queues/...", "a/.b;c"):
        assert local_target(local) == local


@pytest.mark.parametrize("text", ["jobs", "/", "//x", "/a b", "/a/../b", '/"', "/a;b"])
def test_a_wrong_base_path_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a path such as"):
        base_path(text)


def test_without_a_session_the_login_page_comes_first(running: Running, demo: Demo) -> None:
    with running.browser(None) as client:
        answer = client.get("/ui/jobs?state=active")
        assert answer.status_code == 303
        assert answer.headers["location"] == "./login?next=jobs%3Fstate%3Dactive"
        answer = client.get(f"/ui/jobs/{demo.jobs['active']}")
        assert answer.headers["location"].startswith("../login?")
        assert client.get("/ui/jobs", headers={"HX-Request": "true"}).status_code == 401
        form = {"key": "admin-key", "next": "jobs?state=active"}
        answer = client.post("/ui/login", data=form)
        assert answer.headers["location"] == "./jobs?state=active"
        given = answer.headers["set-cookie"]
        assert all(part in given for part in ("HttpOnly", "SameSite=Strict", "Path=/ui/"))
        assert "Max-Age=43200" in given
        assert "Secure" not in given
        assert client.get("/ui/jobs").status_code == 200
        client.post("/ui/logout")
        assert client.get("/ui/jobs").status_code == 303


def test_a_session_works_on_every_process(running: Running, read_only: Running) -> None:
    with running.browser() as client:
        (session,) = client.cookies.values()
    with read_only.browser(None) as client:
        headers = {"Cookie": f"ojs_ui_session={session}"}
        assert client.get("/ui/queues").status_code == 303
        assert client.get("/ui/queues", headers=headers).status_code == 200


def test_an_action_of_another_site_is_refused(running: Running, admin: httpx.Client) -> None:
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://evil"}):
        sent = dict(admin.headers) | headers
        if "Origin" in headers:
            del sent["sec-fetch-site"]
        request = admin.build_request("POST", "/ui/queues/email/pause")
        request.headers = httpx.Headers({**request.headers, **sent})
        if "Origin" in headers:
            del request.headers["sec-fetch-site"]
        assert admin.send(request).status_code == 403
    assert "queues/email/pause" in admin.get("/ui/queues").text


def test_logins_and_actions_are_in_the_audit(running: Running, admin: httpx.Client) -> None:
    with running.browser(None) as client:
        assert client.post("/ui/login", data={"key": "wrong"}).status_code == 401
    admin.post("/ui/queues/email/pause")
    admin.post("/ui/queues/email/resume")
    with running.api() as api:
        for action in ("queue.resume", "ui.login", "authenticate"):

            def is_recorded(action: str = action) -> bool:
                listed = api.get("/ojs/v1/admin/audit", params={"action": action}).json()
                return any(entry["address"] == "127.0.0.1" for entry in listed["entries"])

            wait_until(is_recorded, what=f"{action} is in the audit")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("OPTIONS", "/ui/jobs", 200),
        ("PUT", "/ui/jobs", 401),
        ("GET", "/ui//jobs", 401),
        ("GET", "/ui//evil.example/", 401),
        ("GET", "/ui/login", 200),
        ("GET", "/ui/jobs", 303),
        ("GET", "/ui/static/..%2f..%2fapp.py", 404),
    ],
)
def test_every_response_has_the_security_headers(
    running: Running, method: str, path: str, status: int
) -> None:
    answer = httpx.request(method, running.url + path, timeout=60)
    assert answer.status_code == status
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["cache-control"] == "no-store"
    assert "//" not in answer.headers.get("location", "")


@pytest.fixture(scope="module")
def read_only(ui_redis: Embedded) -> Iterator[Running]:
    settings = UiSettings(mode="read", base="/jobs", redact=frozenset({"password"}))
    with dashboard(ui_redis, settings, trusted="127.0.0.0/8") as found:
        yield found


def test_a_read_only_dashboard_has_no_actions(read_only: Running, demo: Demo) -> None:
    with read_only.browser(base="/jobs") as client:
        assert "queues/media/resume" not in client.get("/ui/queues").text
        assert client.post("/ui/queues/media/resume").status_code == 403
        times = client.post("/ui/times", data={"times": "UTC"})
        assert times.status_code == 303, "it changes what this browser shows"
        assert "Path=/jobs/ui/" in times.headers["set-cookie"]
        assert client.post("/ui/logout").status_code == 303


def test_a_proxy_may_publish_the_dashboard_under_a_path(read_only: Running, demo: Demo) -> None:
    with read_only.browser(base="/jobs") as client:  # the proxy keeps the path
        assert client.get("/ui/queues").status_code == 200
    with read_only.browser(None) as client:  # the proxy removes it, and says so
        headers = {
            "X-Forwarded-Prefix": "/other/",
            "X-Forwarded-Proto": "https",
            "X-Forwarded-Host": "jobs.example.com",
            "Origin": "https://jobs.example.com",
        }
        del client.headers["sec-fetch-site"]
        answer = client.post("/ui/login", data={"key": "admin-key"}, headers=headers)
        assert answer.status_code == 303
        assert "Path=/other/ui/" in answer.headers["set-cookie"]
        assert "Secure" in answer.headers["set-cookie"]
        session = answer.headers["set-cookie"].partition(";")[0]
        shown = client.get("/ui/queues", headers={**headers, "Cookie": session})
        assert "https://jobs.example.com/other/ojs" not in shown.text  # it has queues
        assert 'href="./jobs' in shown.text


def test_headers_of_an_unknown_proxy_are_ignored(running: Running, demo: Demo) -> None:
    with running.browser(None) as client:
        headers = {"X-Forwarded-Prefix": "/evil", "X-Forwarded-Proto": "https"}
        answer = client.post("/ui/login", data={"key": "admin-key"}, headers=headers)
        assert "Path=/ui/;" in answer.headers["set-cookie"] + ";"
        assert "Secure" not in answer.headers["set-cookie"]


def test_hidden_members_are_on_no_page(read_only: Running, running: Running) -> None:
    with running.api() as api:
        args = [{"password": {"x": "hunter2"}, "user": "ann"}]
        body = {"type": "a.b", "args": args, "options": {"queue": "secrets"}}
        job_id = api.post("/ojs/v1/jobs", json=body).json()["job"]["id"]
    with read_only.browser(base="/jobs") as client:
        for path in ("/ui/jobs?queue=secrets", f"/ui/jobs/{job_id}"):
            text = client.get(path).text
            assert "ann" in text
            assert "hunter2" not in text
        assert client.get(f"/ui/jobs/{job_id}.json").status_code == 403


def test_a_server_without_keys_needs_no_login(ui_redis: Embedded, demo: Demo) -> None:
    with (
        dashboard(ui_redis, UiSettings(mode="full"), keyring=None) as open_server,
        open_server.browser(None) as client,
    ):
        assert client.get("/ui/queues").status_code == 200
        assert client.get("/ui/login").status_code == 303
        assert (
            client.post(
                "/ui/queues/email/resume", headers={"Sec-Fetch-Site": "cross-site"}
            ).status_code
            == 403
        )
        assert client.get("/ojs/admin/").headers["location"] == "../../ui/"
        assert client.get("/ui").headers["location"] == "ui/"
        browser = client.get("/", headers={"Accept": "text/html,*/*;q=0.8"})
        assert (browser.status_code, browser.headers["location"]) == (302, "ui/")
        other = client.get("/", headers={"Accept": "*/*"})
        assert (other.status_code, other.json()["error"]["code"]) == (404, "not_found")


def test_without_the_dashboard_there_are_no_pages(ui_redis: Embedded) -> None:
    with (
        dashboard(ui_redis, UiSettings()) as without,
        httpx.Client(base_url=without.url, headers=OWN, timeout=60) as client,
    ):
        assert client.get("/ui/").status_code == 401
        key = {"Authorization": "Bearer admin-key"}
        assert client.get("/ui/", headers=key).status_code == 404
        assert client.get("/", headers=key | {"Accept": "text/html"}).status_code == 404


@pytest.fixture
def slow_forgiveness(monkeypatch: pytest.MonkeyPatch) -> None:
    """No failed login is forgotten while a test runs, however slow the machine is."""
    monkeypatch.setattr(access, "_FAILURE_S", 600.0)


@pytest.mark.usefixtures("slow_forgiveness")
def test_an_expired_key_cannot_log_in(ui_redis: Embedded) -> None:
    old = Principal("old", PRESETS["admin"], expires_at_s=1)
    with (
        dashboard(ui_redis, UiSettings(mode="read"), keyring=Keyring({digest("k"): old}, {})) as it,
        it.browser(None) as client,
    ):
        answer = client.post("/ui/login", data={"key": "k"})
        assert answer.status_code == 401
        assert "has expired" in answer.text
        for _ in range(9):
            client.post("/ui/login", data={"key": "wrong"})
        assert client.post("/ui/login", data={"key": "wrong"}).status_code == 429


def test_a_key_of_a_tenant_cannot_use_the_dashboard(ui_redis: Embedded) -> None:
    bound = Principal("acme", PRESETS["admin"], tenant="acme")
    keyring = Keyring({digest("k"): bound}, {})
    with (
        dashboard(ui_redis, UiSettings(mode="full"), keyring=keyring) as it,
        it.browser(None) as client,
    ):
        answer = client.post("/ui/login", data={"key": "k"})
        assert answer.status_code == 403
        assert "bound to a tenant" in answer.text
        for page in ("/ui/", "/ui/jobs", "/ui/queues"):
            assert client.get(page, headers={"Authorization": "Bearer k"}).status_code == 403


_READ_TOGETHER = (
    *("", "queues", "cluster", "types", "pools", "tenants"),
    "cron/_preview?expression=@daily",
)


def test_pages_of_shared_replies_count_against_the_request_rate(ui_redis: Embedded) -> None:
    slow = [
        Principal(f"slow-{number}", PRESETS["viewer"], requests_per_second=0.001)
        for number in range(len(_READ_TOGETHER))
    ]
    keyring = Keyring({**KEYRING.by_digest, **{digest(who.name): who for who in slow}}, {})
    with dashboard(ui_redis, UiSettings(mode="read"), keyring=keyring) as it:

        def status(path: str, key: str) -> int:
            headers = {"Authorization": f"Bearer {key}"}
            return httpx.get(f"{it.url}/ui/{path}", headers=headers, timeout=60).status_code

        for who, path in zip(slow, _READ_TOGETHER, strict=True):
            refresh = {"Authorization": f"Bearer {who.name}", "HX-Request": "true"}
            first = httpx.get(f"{it.url}/ui/{path}", headers=refresh, timeout=60)
            assert (path, first.status_code) == (path, 200)
            assert status(path, "admin-key") == 200, "the reply is shared now"
            assert status(path, who.name) == 429


def test_a_shared_reply_is_not_read_with_the_rate_of_its_first_viewer(ui_redis: Embedded) -> None:
    slow = Principal("slow", PRESETS["viewer"], requests_per_second=0.001)
    keyring = Keyring({**KEYRING.by_digest, digest("slow"): slow}, {})
    with dashboard(ui_redis, UiSettings(mode="read"), keyring=keyring) as it:
        statuses = []
        for key in ("slow", "admin-key"):
            headers = {"Authorization": f"Bearer {key}"}
            page = httpx.get(f"{it.url}/ui/queues", headers=headers, timeout=60)
            statuses.append(page.status_code)
            it.run(partial(trio.sleep, snapshots.KEPT_S))  # the next viewer reads it again
        assert statuses == [200, 200]


async def test_the_reply_that_was_not_used_for_longest_is_replaced() -> None:
    kept, calls = Snapshots[str](), list[str]()

    async def read(name: str) -> str:
        calls.append(name)
        return name

    for number in range(150):
        for name in ("each time", str(number)):
            assert await kept.get(name, partial(read, name), kept_s=3600) == name
    assert calls.count("each time") == 1
    assert kept.last("0") is None


def test_what_viewers_share_is_read_without_the_headers_of_the_first() -> None:
    headers = {"cookie": "ojs_ui_session=x", "authorization": "Bearer x", "hx-request": "true"}
    head = Request("GET", "/ui/", "", headers, b"", tls_subject="CN=boss")
    given: list[Any] = [None, UiSettings(mode="read"), None, None, head, BOSS, "./", "", "", {}]
    shared = Visit(*given).as_any_viewer()
    assert (shared.head.headers, shared.head.tls_subject) == ({"hx-request": "true"}, "")


def test_no_header_of_a_page_has_a_line_break() -> None:
    with pytest.raises(ValueError, match="Location"):
        respond(303, b"", location="./x\r\nSet-Cookie: a=b")
    with pytest.raises(ValueError, match="ETag"):
        respond(200, b"", more=(("ETag", "a\nb"),))


@pytest.mark.usefixtures("slow_forgiveness")
def test_guesses_are_recorded_and_counted_one_by_one(running: Running, ui_redis: Embedded) -> None:
    guest = Principal("guest", PRESETS["admin"], expires_at_s=1)
    keyring = Keyring({digest("k"): guest}, {})
    with dashboard(ui_redis, UiSettings(mode="read"), keyring=keyring) as it:
        guess = {"Authorization": "Bearer k"}
        answer = httpx.get(f"{it.url}/ui/queues", headers=guess, timeout=60)
        assert answer.status_code == 303
        with running.api() as api:

            def is_recorded() -> bool:
                params = {"action": "authenticate"}
                listed = api.get("/ojs/v1/admin/audit", params=params).json()
                return any(entry["principal"] == "guest" for entry in listed["entries"])

            wait_until(is_recorded, what="the guess is in the audit")
        assert sorted(_logins_at_once(it.url, 12)) == [401] * 10 + [429] * 2


def _logins_at_once(url: str, count: int) -> list[int]:
    """Send the heads of all logins before the first body, and return the statuses."""
    address = httpx.URL(url)
    head = (
        "POST /ui/login HTTP/1.1\r\nHost: x\r\nSec-Fetch-Site: same-origin\r\n"
        "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 9\r\n\r\n"
    )
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection((address.host, address.port), 60))
            for _ in range(count)
        ]
        for client in clients:
            client.sendall(head.encode())
        answer = httpx.get(f"{url}/ui/login", timeout=60)
        assert answer.status_code == 200  # the server has read the heads
        for client in clients:
            client.sendall(b"key=wrong")
        return [int(client.recv(12).split()[1]) for client in clients]


@pytest.mark.parametrize("lane", [False, True], ids=["hypercorn", "lane"])
def test_without_api_keys_a_page_that_has_rebound_its_name_sees_no_page(
    ui_redis: Embedded, lane: bool
) -> None:
    """Its requests come from the dashboard's own origin, as far as the browser knows."""
    with dashboard(ui_redis, UiSettings(mode="full"), keyring=None, lane=lane) as it:
        port = httpx.URL(it.url).port
        for name, served in (("evil.example", False), ("localhost", True)):
            own = {**OWN, "Host": f"{name}:{port}", "Origin": f"http://{name}:{port}"}
            with httpx.Client(base_url=it.url, headers=own, timeout=60) as browser:
                for path in ("/ui/", "/ui/queues", "/ui/jobs/values.json?field=queue", "/ui/none"):
                    assert (browser.get(path).status_code != 403) is served, path
                refresh = browser.get("/ui/queues", headers={"HX-Request": "true"})
                assert refresh.status_code == (200 if served else 403)
                form = browser.post(f"/ui/queues/rebound-{lane}/pause")
                assert form.status_code == (303 if served else 403)
                refresh = browser.get("/ui/queues", headers={"HX-Request": "true"})
                assert refresh.status_code == (200 if served else 403)
                if not served:
                    assert "OJS_ALLOWED_HOSTS" in browser.get("/ui/").text
                    assert browser.get("/ui/events/stream").status_code == 403
                    listed = httpx.get(f"{it.url}/ojs/v1/queues", timeout=60)
                    assert listed.status_code == 200
                    assert f"rebound-{lane}" not in listed.text


@pytest.mark.parametrize("lane", [False, True], ids=["hypercorn", "lane"])
async def test_a_trusted_proxy_decides_whether_its_host_keeps_to_tls(
    standalone: Embedded, certificates: Certificates, lane: bool
) -> None:
    tls = {name[4:].lower(): path for name, path in certificates.env.items()}
    async with open_app(standalone, access=AccessControl(KEYRING)) as app:
        quart = create_quart_app(app)
        add_dashboard(
            quart, app, UiSettings(mode="full"), TrustedProxies([ip_network("127.0.0.1")])
        )
        async with (
            serving(app, quart=quart, lane=lane, listening=tls) as port,
            httpx.AsyncClient(
                base_url=f"https://127.0.0.1:{port}", verify=certificates.client(), timeout=60
            ) as browser,
        ):
            for path in ("/ui", "/ui/login", "/ui/static/app.js"):
                page = await browser.get(path)
                assert page.status_code in {200, 308}, path
                assert "strict-transport-security" not in page.headers, path


@pytest.mark.parametrize("lane", [False, True], ids=["hypercorn", "lane"])
async def test_over_own_tls_no_other_host_can_choose_the_session(
    standalone: Embedded, certificates: Certificates, lane: bool
) -> None:
    tls = {name[4:].lower(): path for name, path in certificates.env.items()}
    async with open_app(standalone, access=AccessControl(KEYRING)) as app:
        quart = create_quart_app(app)
        add_dashboard(quart, app, UiSettings(mode="full"))
        async with (
            serving(app, quart=quart, lane=lane, listening=tls) as port,
            httpx.AsyncClient(
                base_url=f"https://127.0.0.1:{port}", verify=certificates.client(), timeout=60
            ) as browser,
        ):
            login = await browser.post("/ui/login", data={"key": "admin-key"}, headers=OWN)
            assert login.status_code == 303
            session = login.headers["set-cookie"]
            assert session.startswith("__Host-ojs_ui_session=")
            attributes = set(session.split("; ")[1:])
            assert {"Secure", "HttpOnly", "Path=/", "SameSite=Strict"} <= attributes
            assert "Domain" not in session
            refresh = {"HX-Request": "true"}
            for path, headers in (("/ui/", {}), ("/ui/queues", refresh), ("/ui/static/app.js", {})):
                page = await browser.get(path, headers=headers)
                assert page.status_code == 200, path
                kept = page.headers.get_list("strict-transport-security")
                assert kept == ["max-age=31536000"], path
            moved = await browser.get("/ui")
            assert (moved.status_code, moved.headers["strict-transport-security"]) == (308, kept[0])
            # A name without the prefix may come from another host of the domain.
            value = browser.cookies["__Host-ojs_ui_session"]
            browser.cookies.clear()
            plain = await browser.get("/ui/", headers={"Cookie": f"ojs_ui_session={value}"})
            assert plain.status_code == 303
            browser.cookies.set("__Host-ojs_ui_session", value)
            ended = await browser.post("/ui/logout", headers=OWN)
            assert ended.headers.get_list("set-cookie")[-1].startswith("__Host-ojs_ui_session=;")


def test_without_own_tls_a_session_has_the_path_of_the_dashboard(running: Running) -> None:
    with httpx.Client(base_url=running.url, timeout=60, headers=OWN) as browser:
        login = browser.post("/ui/login", data={"key": "admin-key"})
        assert login.headers["set-cookie"].startswith("ojs_ui_session=")
        assert "Path=/ui/" in login.headers["set-cookie"]
        assert "strict-transport-security" not in browser.get("/ui/").headers
