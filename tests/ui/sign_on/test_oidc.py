"""Logins by OpenID Connect: who gets in, who does not, and what the pages and the audit say."""

from __future__ import annotations

import base64
import hmac
import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import count
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from playwright.sync_api import sync_playwright

from ojs_cluster.redis.errors import RedisReplyError
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.ui import access
from ojs_cluster.ui.session_secret import SessionSecret
from ojs_cluster.ui.settings import UiSettings
from ojs_cluster.ui.sign_on.failure import unusable
from ojs_cluster.ui.sign_on.oidc import OpenIdConnect
from ojs_cluster.ui.sign_on.oidc_settings import OidcSettings
from tests.support.servers import wait_until
from tests.ui.dashboard import OWN, Running, dashboard
from tests.ui.demo import Demo
from tests.ui.screenshots import ARGUMENTS, CHROMIUM
from tests.ui.sign_on.provider import (
    CLIENT_ID,
    CLIENT_SECRET,
    EC_KEY,
    OTHER_KEY,
    RSA_KEY,
    OpenIdProvider,
    open_id_provider,
)

REGISTERED = "http://127.0.0.1:1/ui/oidc/callback"
"""The address that the provider knows. The tests replace its port by that of the server."""
HOSTILE = "<script>alert(1)</script>"
_clients = count(1)


def oidc_settings(provider: OpenIdProvider, **changes: Any) -> OidcSettings:
    given: dict[str, Any] = {
        "issuer": provider.issuer,
        "client_id": CLIENT_ID,
        "secret_of_variable": CLIENT_SECRET,
        "redirect_url": REGISTERED,
        "roles": {"ops": "operator", "dev": "viewer"},
        **changes,
    }
    return OidcSettings(**given)


@pytest.fixture(scope="module")
def shared_provider() -> Iterator[OpenIdProvider]:
    with open_id_provider() as found:
        yield found


@pytest.fixture
def provider(shared_provider: OpenIdProvider) -> Iterator[OpenIdProvider]:
    yield shared_provider
    shared_provider.reset()


@pytest.fixture(scope="module")
def signed_on(ui_redis: Embedded, shared_provider: OpenIdProvider) -> Iterator[Running]:
    with dashboard(
        ui_redis,
        UiSettings(mode="full"),
        oidc=oidc_settings(shared_provider),
    ) as found:
        yield found


@pytest.fixture
def client(signed_on: Running) -> Iterator[httpx.Client]:
    with open_browser(signed_on) as found:
        yield found


def open_browser(running: Running) -> httpx.Client:
    """Open a browser of its own address: failed logins of one address have to wait."""
    transport = httpx.HTTPTransport(local_address=f"127.0.1.{next(_clients)}")
    return httpx.Client(base_url=running.url, headers=OWN, transport=transport, timeout=60)


def visit(url: str, **more: Any) -> httpx.Response:
    return httpx.get(url, timeout=60, **more)


def begin(client: httpx.Client, following: str = "queues") -> str:
    """Begin a login, log in at the provider, and return the path and the query of the way back."""
    begun = client.get("/ui/oidc/login", params={"next": following})
    assert begun.status_code == 303, begun.text
    back = visit(begun.headers["location"]).headers["location"]
    assert back.startswith(REGISTERED + "?")
    return str(httpx.URL(back).raw_path.decode())


def log_in(client: httpx.Client) -> httpx.Response:
    return client.get(begin(client))


def refuse(client: httpx.Client, answer: httpx.Response, status: int, part: str) -> None:
    """Check that a login has failed, with a page that says why and echoes nothing."""
    assert (answer.status_code, part in answer.text) == (status, True), answer.text
    assert 'role="alert"' in answer.text
    assert HOSTILE not in answer.text
    assert "ojs_ui_session" not in answer.headers.get("set-cookie", "")
    assert client.get("/ui/queues").status_code == 303


def test_a_user_logs_in_and_acts_with_a_name_in_the_audit(
    client: httpx.Client, provider: OpenIdProvider, signed_on: Running, demo: Demo
) -> None:
    assert 'href="./oidc/login?next=queues"' in client.get("/ui/login?next=queues").text
    begun = client.get("/ui/oidc/login", params={"next": "queues?page=1"})
    given = begun.headers["set-cookie"]
    for part in ("HttpOnly", "SameSite=Lax", "Path=/ui/", "Max-Age=600"):
        assert part in given
    asked = httpx.URL(begun.headers["location"]).params
    assert asked["scope"] == "openid email profile"
    assert asked["redirect_uri"] == REGISTERED
    back = visit(begun.headers["location"]).headers["location"]
    answer = client.get(httpx.URL(back).raw_path.decode())
    assert answer.status_code == 200, answer.text
    assert 'content="0; url=../queues?page=1"' in answer.text
    session, cleared = answer.headers.get_list("set-cookie")
    assert session.startswith("ojs_ui_session=")
    for part in ("HttpOnly", "SameSite=Strict", "Path=/ui/", "Max-Age=43200"):
        assert part in session
    assert cleared.startswith("ojs_ui_sign_on=;")
    assert "user:ann@example.com" in client.get("/ui/queues").text
    assert client.post("/ui/queues/reports/pause").status_code == 303
    assert client.post("/ui/queues/reports/resume").status_code == 303
    with signed_on.api() as api:

        def is_recorded() -> bool:
            listed = api.get("/ojs/v1/admin/audit").json()["entries"]
            done = {
                each["action"] for each in listed if each["principal"] == "user:ann@example.com"
            }
            return {"ui.login", "queue.pause"} <= done

        wait_until(is_recorded, what="the audit names the user")
    assert client.post("/ui/logout").status_code == 303
    assert client.get("/ui/queues").status_code == 303


def test_a_code_is_good_for_one_login_in_one_browser(
    client: httpx.Client, provider: OpenIdProvider, signed_on: Running
) -> None:
    back = begin(client)
    with open_browser(signed_on) as thief:
        refuse(thief, thief.get(back), 401, "did not begin in this browser")
        thief.get("/ui/oidc/login")  # a login of its own does not help
        refuse(thief, thief.get(back), 401, "did not begin in this browser")
    begun = dict(client.cookies)
    assert client.get(back).status_code == 200
    client.cookies.clear()
    refuse(client, client.get(back), 401, "did not begin in this browser")
    client.cookies.update(begun)
    refuse(client, client.get(back), 401, "did not confirm your login")
    other = re.sub("state=[^&]*", "state=%ff%C3%A9", back)
    refuse(client, client.get(other), 401, "did not begin in this browser")


def _signed(key: Any, algorithm: str) -> Callable[[dict[str, Any]], str]:
    return lambda claims: jwt.encode(claims, key, algorithm, {"kid": "rsa"})


def _by_public_key(claims: dict[str, Any]) -> str:
    """Return a token whose HMAC needs nothing but the public key of the provider."""
    parts = ({"alg": "HS256", "kid": "rsa"}, claims)
    signed = b".".join(b64(json.dumps(part).encode()) for part in parts)
    return (signed + b"." + b64(hmac.digest(PUBLIC, signed, "sha256"))).decode()


def b64(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


PUBLIC = RSA_KEY.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)
TOKENS: dict[str, dict[str, Any] | Callable[[dict[str, Any]], str]] = {
    "another nonce": {"nonce": "another"},
    "no nonce": {"nonce": None},
    "a nonce that is no text": {"nonce": "\ud800"},
    "another client": {"aud": "another"},
    "several clients": {"aud": [CLIENT_ID, "another"]},
    "several clients, for another": {"aud": [CLIENT_ID, "another"], "azp": "another"},
    "asked by another client": {"azp": "another"},
    "another issuer": {"iss": "https://evil.example"},
    "expired": {"exp": 1_000_000_000},
    "without an end": {"exp": None},
    "of the future": {"iat": 9_000_000_000, "exp": 9_000_000_300},
    "without a time": {"iat": None},
    "no name": {"email": None},
    "a name with a line break": {"email": f"a\n{HOSTILE}"},
    "a name that is no text": {"email": ["ann@example.com"]},
    "an address of anybody": {"email_verified": False},
    "another key": _signed(OTHER_KEY, "RS256"),
    "another kind of key": _signed(EC_KEY, "ES256"),
    "no signature": _signed(None, "none"),
    "signed with the secret": _signed(CLIENT_SECRET.encode() * 2, "HS256"),
    "signed with the public key": _by_public_key,
    "no token": lambda _: HOSTILE,
}


@pytest.mark.parametrize("change", TOKENS.values(), ids=TOKENS.keys())
def test_an_id_token_that_proves_nothing_is_refused(
    client: httpx.Client,
    provider: OpenIdProvider,
    change: dict[str, Any] | Callable[[dict[str, Any]], str],
) -> None:
    if callable(change):
        provider.sign = change
    else:
        provider.claims = change
    refuse(client, log_in(client), 401, "did not confirm your login")


@pytest.mark.parametrize("groups", [["others", 1, {"ops": "ops"}, "*"], None, HOSTILE, {"ops": 1}])
def test_a_user_of_no_known_group_gets_a_page_that_says_so(
    client: httpx.Client, provider: OpenIdProvider, groups: Any, caplog: pytest.LogCaptureFixture
) -> None:
    provider.claims = {"groups": groups, "email": HOSTILE}
    refuse(client, log_in(client), 403, "is in no group that may use the dashboard")
    assert "Connect failed: the user '<script>alert(1)</script>' is in no group" in caplog.text


def test_a_viewer_changes_nothing_and_a_hostile_name_is_text(
    client: httpx.Client, provider: OpenIdProvider, demo: Demo
) -> None:
    provider.claims = {"groups": "dev", "email": HOSTILE}
    assert log_in(client).status_code == 200
    shown = client.get("/ui/queues").text
    assert "user:&lt;script&gt;" in shown
    assert HOSTILE not in shown
    assert client.post("/ui/queues/media/resume").status_code == 403


def test_a_new_key_of_the_provider_is_found(client: httpx.Client, provider: OpenIdProvider) -> None:
    assert log_in(client).status_code == 200
    provider.keys["new"] = EC_KEY
    assert log_in(client).status_code == 200
    del provider.keys["new"]
    assert log_in(client).status_code == 200
    assert provider.requests.count("/.well-known/openid-configuration") == 1


def test_an_error_of_the_provider_is_not_echoed(
    client: httpx.Client, provider: OpenIdProvider, caplog: pytest.LogCaptureFixture
) -> None:
    for error, logged in (("access_denied", "access_denied"), (HOSTILE, "unknown code")):
        begun = client.get("/ui/oidc/login")
        brought = {"error": error, "state": httpx.URL(begun.headers["location"]).params["state"]}
        refuse(client, client.get("/ui/oidc/callback", params=brought), 401, "did not confirm")
        assert f"reports an error: {logged}" in caplog.text
    assert HOSTILE not in caplog.text
    brought = {"code": "x", "state": brought["state"], "iss": "https://evil.example"}
    refuse(client, client.get("/ui/oidc/callback", params=brought), 401, "did not confirm")


def test_a_failure_that_is_remembered_is_logged_once(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = unusable("the provider is down")
    failures = [first, first.repeated(), first.repeated()]

    async def fail(*_: object) -> None:
        raise failures.pop(0)

    monkeypatch.setattr(OpenIdConnect, "begin", fail)
    for _ in range(3):
        assert client.get("/ui/oidc/login").status_code == 503
    assert caplog.text.count("the provider is down") == 1


@pytest.mark.parametrize(
    "following", ["//evil.example", "https://evil.example", "\\evil", "a" * 3000]
)
def test_a_login_leads_to_no_other_site(
    client: httpx.Client, provider: OpenIdProvider, following: str
) -> None:
    answer = client.get(begin(client, following))
    assert 'content="0; url=../"' in answer.text


def test_refusals_of_the_provider_have_to_wait_and_nothing_else(
    client: httpx.Client,
    provider: OpenIdProvider,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(access, "_FAILURE_S", 600.0)  # however slow the machine is
    provider.claims = {"groups": []}
    for _ in range(11):
        assert client.get("/ui/oidc/callback", params={"state": "x"}).status_code == 401
        assert log_in(client).status_code == 403
    assert caplog.text.count("does not belong to a login") == 10, "a flood does not fill the log"
    begun = client.get("/ui/oidc/login")
    brought = {"code": "guess", "state": httpx.URL(begun.headers["location"]).params["state"]}
    provider.answers.clear()
    with ThreadPoolExecutor(11) as threads:
        back = [threads.submit(client.get, "/ui/oidc/callback", params=brought) for _ in range(11)]
        refused = next(as_completed(back, timeout=60)).result()
        provider.answers.set()
        assert (refused.status_code, "Too many failed logins" in refused.text) == (429, True)
        assert sorted(each.result().status_code for each in back) == [401] * 10 + [429]
    assert client.get("/ui/oidc/callback", params=brought).status_code == 429
    assert client.post("/ui/login", data={"key": "admin-key"}).status_code == 303


def test_an_error_of_redis_is_a_page_that_offers_an_api_key(
    client: httpx.Client, signed_on: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: SessionSecret) -> bytes:
        raise RedisReplyError("WRONGTYPE of the secret")

    back = begin(client)
    monkeypatch.setattr(SessionSecret, "get", fail)
    for path in ("/ui/oidc/login", back):
        answer = client.get(path)
        assert answer.status_code == 503, answer.text
        assert "or use an API key" in answer.text
        assert "WRONGTYPE" not in answer.text
    by_key = client.post("/ui/login", data={"key": "admin-key"})
    assert (by_key.status_code, "The log names the cause." in by_key.text) == (500, True)


def test_every_process_ends_the_login_of_another_until_who_gets_in_changes(
    client: httpx.Client, provider: OpenIdProvider, ui_redis: Embedded
) -> None:
    settings = UiSettings(mode="full")
    back = begin(client)
    given = dict(client.cookies)
    with (
        dashboard(ui_redis, settings, oidc=oidc_settings(provider)) as other,
        httpx.Client(base_url=other.url, cookies=given, timeout=60) as moved,
    ):
        assert moved.get(back).status_code == 200
        session = {"ojs_ui_session": moved.cookies["ojs_ui_session"]}
    assert visit(f"{client.base_url}/ui/queues", cookies=session).status_code == 200
    https = REGISTERED.replace("http:", "https:")
    changed = oidc_settings(provider, roles={"ops": "viewer"}, redirect_url=https)
    with dashboard(ui_redis, settings, oidc=changed) as other:
        begun = visit(f"{other.url}/ui/oidc/login")
        assert "; Secure;" in begun.headers["set-cookie"]
        assert visit(f"{other.url}/ui/queues", cookies=session).status_code == 303
    with dashboard(ui_redis, settings) as without:
        assert visit(f"{without.url}/ui/queues", cookies=session).status_code == 303
        key = {"Authorization": "Bearer admin-key"}
        for path in ("/ui/oidc/login", "/ui/oidc/callback"):
            assert visit(without.url + path, headers=key).status_code == 404
        assert "single sign-on" not in visit(f"{without.url}/ui/login").text


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_browser_brings_the_strict_cookie_after_a_login_at_another_site(
    ui_redis: Embedded, demo: Demo
) -> None:
    with (
        open_id_provider("localhost") as elsewhere,  # another site than 127.0.0.1
        dashboard(ui_redis, UiSettings(mode="full"), oidc=oidc_settings(elsewhere)) as found,
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS) as browser,
    ):
        elsewhere.sends_to = found.url
        page = browser.new_page(java_script_enabled=False)
        page.goto(f"{found.url}/ui/queues")
        page.get_by_role("link", name="Log in with single sign-on").click()
        page.get_by_role("link", name="Yes, it is me").click()  # so the other site begins the rest
        page.wait_for_url(f"{found.url}/ui/queues", timeout=60_000)
        assert page.locator(".who").inner_text() == "user:ann@example.com"
