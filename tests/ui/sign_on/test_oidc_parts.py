"""The parts of a login by OpenID Connect: settings, cookies, and requests to the provider."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest
import trio
import trio.testing

from ojs_cluster.core.access.scopes import PRESETS
from ojs_cluster.server.config.load import ConfigError, load, report
from ojs_cluster.ui.sign_on import attempts
from ojs_cluster.ui.sign_on.failure import SignOnFailed, unusable
from ojs_cluster.ui.sign_on.id_token import verified_claims
from ojs_cluster.ui.sign_on.oidc import OpenIdConnect
from ojs_cluster.ui.sign_on.oidc_settings import OidcSettings
from ojs_cluster.ui.sign_on.provider import Provider, SigningKeys
from ojs_cluster.ui.sign_on.signed_text import sign, signed_content
from tests.support.receiver import Received, Receiver, receiving, status
from tests.ui.sign_on.provider import RSA_KEY, public_key

KEY = b"k" * 32
BASE = {
    "OJS_API_KEY": "k" * 40,
    "OJS_UI_OIDC_ISSUER": "https://login.example.com/tenant",
    "OJS_UI_OIDC_CLIENT_ID": "ojs",
    "OJS_UI_OIDC_CLIENT_SECRET": "s3cret-of-the-client",
    "OJS_UI_OIDC_REDIRECT_URL": "https://jobs.example.com/ui/oidc/callback",
    "OJS_UI_OIDC_ROLES": "ops=operator,*=viewer",
}


def test_a_complete_configuration_is_accepted_and_shows_no_secret(tmp_path: Path) -> None:
    settings = load(BASE)
    assert settings.oidc.roles == {"ops": "operator", "*": "viewer"}
    assert settings.oidc.client_secret in settings.secrets
    file = tmp_path / "secret"
    file.write_text("s3cret-of-the-client\n")
    by_file = {**BASE, "OJS_UI_OIDC_CLIENT_SECRET": ""}
    by_file["OJS_UI_OIDC_CLIENT_SECRET_FILE"] = str(file)
    assert load(by_file).oidc.client_secret == settings.oidc.client_secret
    for environ in (BASE, by_file):
        assert "s3cret" not in report(environ) + repr(load(environ))
    assert load({"OJS_API_KEY": "k"}).oidc.issuer == ""


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"OJS_UI_OIDC_ISSUER": "http://login.example.com"}, "an https URL"),
        ({"OJS_UI_OIDC_ISSUER": "https://login.example.com/?a=b"}, "without a query"),
        ({"OJS_UI_OIDC_ISSUER": ""}, "only with OJS_UI_OIDC_ISSUER"),
        ({"OJS_UI_OIDC_CLIENT_SECRET": ""}, "only with OJS_UI_OIDC_CLIENT_SECRET"),
        ({"OJS_UI_OIDC_ROLES": ""}, "only with OJS_UI_OIDC_ROLES"),
        ({"OJS_UI_OIDC_ROLES": "ops=root"}, "group=role"),
        ({"OJS_UI_OIDC_REDIRECT_URL": "https://jobs.example.com/ui/"}, "/ui/oidc/callback"),
        ({"OJS_UI_BASE": "/jobs"}, "must be /jobs/ui/oidc/callback"),
        ({"OJS_UI_OIDC_SCOPES": "email"}, "with openid"),
        ({"OJS_UI_OIDC_CLIENT_SECRET_FILE": "/nowhere"}, "readable file"),
        ({"OJS_UI_OIDC_CLIENT_SECRET_FILE": __file__}, "printable"),
        ({"OJS_API_KEY": "", "OJS_ALLOW_INSECURE_NO_AUTH": "1"}, "lets everybody in"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused_by_one_line(
    changes: dict[str, str], part: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        load({**BASE, **changes})
    (problem,) = refused.value.problems
    assert part in problem
    assert "s3cret" not in problem


def test_a_login_has_to_end_in_ten_minutes_in_the_browser_that_began_it() -> None:
    attempt, cookie = attempts.begin(KEY, "jobs?state=active", 1000)
    assert attempts.find(KEY, cookie, 1599) == attempt
    assert attempts.find(KEY, cookie, 1600) is None
    assert attempts.find(b"x" * 32, cookie, 1000) is None
    other, _ = attempts.begin(KEY, "jobs?state=active", 1000)
    texts = [attempt.state, attempt.nonce, attempt.verifier]
    texts += [other.state, other.nonce, other.verifier]
    assert len(set(texts)) == len(texts)
    assert 43 <= len(attempt.verifier) <= 128  # RFC 7636 4.1
    assert not any(text in cookie for text in texts)


def test_only_an_own_text_has_a_content() -> None:
    text = sign(KEY, b"a b")
    assert signed_content(KEY, text) == b"a b"
    first, _, second = text.partition(".")
    other = sign(KEY, b"c").partition(".")
    forged = ["", ".", first, f"{first}.", f".{second}", f"{other[0]}.{second}", "é.é", text * 99]
    for each in forged:
        assert signed_content(KEY, each) is None, each


def test_a_session_has_the_scopes_of_its_roles_until_it_ends() -> None:
    settings = load(BASE).oidc
    oidc = OpenIdConnect(settings)
    session = sign(oidc._key(KEY, b"session"), b"2000 operator,viewer ann b")
    found = oidc.find(KEY, session, 1999)
    assert found is not None
    assert (found.name, found.expires_at_s, found.is_vouched) == ("user:ann b", 2000, True)
    assert found.scopes == PRESETS["operator"] | PRESETS["viewer"]
    early = oidc.find(KEY, session, 1000)
    assert early is not None
    assert early.expires_at_s == 1300, "an open event stream ends before the session"
    assert oidc.find(KEY, session, 2000) is None
    assert oidc.find(b"x" * 32, session, 0) is None
    login = sign(oidc._key(KEY, b"login"), b"2000 operator ann")
    assert oidc.find(KEY, login, 0) is None
    for changes in (
        {"secret_of_variable": "another"},
        {"issuer": "https://other.example"},
        {"roles": {"ops": "viewer"}},
    ):
        assert OpenIdConnect(replace(settings, **changes)).find(KEY, session, 0) is None
    assert oidc.is_secure


async def test_only_some_logins_wait_for_the_provider() -> None:
    oidc = OpenIdConnect(load(BASE).oidc)
    attempt, _ = attempts.begin(KEY, "", 1000)
    with trio.CancelScope() as others:
        async with trio.open_nursery() as nursery:
            for number in range(8):
                await oidc._limiter.acquire_on_behalf_of(number)
            for _ in range(50):
                nursery.start_soon(oidc.finish, KEY, attempt, {"code": "x"}, 1000)
            await trio.testing.wait_all_tasks_blocked()
            with trio.fail_after(20), pytest.raises(SignOnFailed, match="too many") as failed:
                await oidc.finish(KEY, attempt, {"code": "x"}, 1000)
            assert failed.value.status == 503
            others.cancel()


def of(receiver: Receiver) -> OidcSettings:
    return replace(load(BASE).oidc, issuer=receiver.url(path=""))


def found(**content: Any) -> bytes:
    body = json.dumps(content).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (status(302, "Location: http://127.0.0.1:1/"), "was answered 302"),
        (status(500), "was answered 500"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "is no JSON object"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", "is no JSON object"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 300_000, "is too large"),
        (b"SSH-2.0-x\r\n\r\n", "is not HTTP/1.1"),
        (found(issuer="https://evil.example"), "names another issuer"),
    ],
)
async def test_a_provider_that_answers_nonsense_ends_the_login(reply: bytes, reason: str) -> None:
    async def answer(_: Received) -> bytes:
        await trio.lowlevel.checkpoint()
        return reply

    async with receiving(Receiver(answer=answer)) as receiver:
        with pytest.raises(SignOnFailed, match=reason) as failed:
            await Provider(of(receiver)).endpoints()
    assert failed.value.status == 503
    assert receiver.connections == 1, "no redirect is followed"
    with pytest.raises(SignOnFailed, match="cannot be reached"):
        await Provider(of(receiver)).endpoints()


@pytest.mark.parametrize(
    ("endpoint", "reason"),
    [
        ({"token_endpoint": "http://evil.example/"}, "must begin with https"),
        ({"authorization_endpoint": "javascript:alert(1)"}, "must begin with https"),
        ({"authorization_endpoint": "https://login.example/\r\nX: y"}, "percent-encoded"),
        ({"jwks_uri": None}, "must begin with https"),
    ],
)
async def test_an_endpoint_without_tls_is_not_used(
    endpoint: Mapping[str, Any], reason: str
) -> None:
    async def answer(got: Received) -> bytes:
        await trio.lowlevel.checkpoint()
        names = ("authorization_endpoint", "token_endpoint", "jwks_uri")
        usual = dict.fromkeys(names, "https://login.example/x")
        return found(issuer=f"http://{got.headers['host']}", **{**usual, **endpoint})

    async with receiving(Receiver(answer=answer)) as receiver:
        with pytest.raises(SignOnFailed, match=reason):
            await Provider(of(receiver)).endpoints()


async def test_a_provider_that_never_answers_costs_the_deadline(autojump_clock: object) -> None:
    gone = trio.Event()

    async def never(_: Received) -> bytes:
        await gone.wait()
        return b""

    async with receiving(Receiver(answer=never)) as receiver:
        began = trio.current_time()
        with pytest.raises(SignOnFailed, match="did not answer in time"):
            await Provider(of(receiver)).endpoints()
        assert trio.current_time() - began == pytest.approx(10, abs=5)
        gone.set()


NOW = 1_900_000_000


async def claims_of(times: Mapping[str, Any]) -> dict[str, Any]:
    """Return the claims of a token with these times, as they are verified at ``NOW``."""
    settings = load(BASE).oidc
    claims: dict[str, Any] = {"iss": settings.issuer, "sub": "1", "aud": settings.client_id}
    claims |= {"nonce": "n", "iat": NOW, "exp": NOW + 300, **times}
    token = jwt.encode(claims, RSA_KEY, "RS256", {"kid": "a"})

    async def fetch() -> list[Mapping[str, Any]]:
        await trio.lowlevel.checkpoint()
        return [public_key(RSA_KEY, "a")]

    return await verified_claims(token, SigningKeys(fetch), settings, "n", NOW)


@pytest.mark.parametrize("times", [{}, {"exp": NOW - 59}, {"iat": NOW + 59}, {"nbf": NOW + 59.5}])
async def test_an_id_token_holds_by_the_given_time(times: Mapping[str, Any]) -> None:
    """Not by the wall clock of the process, which is years before."""
    assert (await claims_of(times))["sub"] == "1"


@pytest.mark.parametrize(
    "times",
    [
        *({"exp": NOW - 60}, {"iat": NOW + 61}, {"nbf": NOW + 61}),
        *({"exp": float("nan")}, {"exp": float("inf")}, {"exp": 10**400}, {"exp": "9"}),
        *({"exp": True}, {"iat": -1}, {"nbf": None}, {"nbf": []}),
    ],
)
async def test_an_id_token_of_another_time_is_refused(times: Mapping[str, Any]) -> None:
    with pytest.raises(SignOnFailed):
        await claims_of(times)


async def test_only_public_members_of_bounded_length_make_a_key() -> None:
    settings = load(BASE).oidc
    claims: dict[str, Any] = {
        "iss": settings.issuer,
        "sub": "1",
        "aud": settings.client_id,
        "nonce": "n",
    }
    claims |= {"iat": int(time.time()), "exp": int(time.time()) + 300}
    token = jwt.encode(claims, RSA_KEY, "RS256", {"kid": "a"})
    key = public_key(RSA_KEY, "a")

    async def verify(**members: Any) -> dict[str, Any]:
        async def fetch() -> list[Mapping[str, Any]]:
            await trio.lowlevel.checkpoint()
            return [{**key, **members}]

        return await verified_claims(token, SigningKeys(fetch), settings, "n", time.time())

    assert (await verify(d="AQAB"))["sub"] == "1"
    for members in ({"n": key["n"] * 9}, {"e": "A" * 3000}, {"n": 65537}):
        with pytest.raises(SignOnFailed, match="too long, or no text"):
            await verify(**members)


async def test_an_unknown_key_is_requested_once_a_minute(autojump_clock: object) -> None:
    keys: list[Mapping[str, Any]] = [{"kid": "a"}, {"kid": "e", "use": "enc"}]
    requests = 0

    async def fetch() -> list[Mapping[str, Any]]:
        nonlocal requests
        requests += 1
        await trio.lowlevel.checkpoint()
        return list(keys)

    known = SigningKeys(fetch)
    assert await known.find("a") == await known.find(None) == {"kid": "a"}
    assert requests == 1
    for key_id in ("b", "b", "e"):
        with pytest.raises(SignOnFailed, match="does not list"):
            await known.find(key_id)
    assert requests == 2
    keys.append({"kid": "b"})
    await trio.sleep(60)
    assert await known.find("b") == {"kid": "b"}
    with pytest.raises(SignOnFailed):
        await known.find(None)  # two keys may be meant
    assert requests == 3
    await trio.sleep(3600)
    await known.find("a")
    assert requests == 4


async def test_keys_are_used_for_a_day_while_the_provider_is_down(autojump_clock: object) -> None:
    is_down, requests = False, 0

    async def fetch() -> list[Mapping[str, Any]]:
        nonlocal requests
        requests += 1
        await trio.sleep(2)
        if is_down:
            raise unusable("it is down")
        return [{"kid": "a"}]

    known = SigningKeys(fetch)
    await known.find("a")
    is_down = True
    await trio.sleep(3600)
    for expected in (2, 2, 3):
        assert await known.find("a") == {"kid": "a"}
        assert requests == expected
        await trio.sleep(30)
    with pytest.raises(SignOnFailed, match="it is down"):
        await known.find("b")  # the provider may have it
    await trio.sleep(24 * 3600)
    requests, failures = 0, []

    async def fail() -> None:
        with pytest.raises(SignOnFailed, match="it is down") as failed:
            await known.find("a")
        failures.append(failed.value.is_repeated)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(fail)
    await fail()
    assert (requests, failures) == (1, [False, True, True, True])
    is_down = False
    await trio.sleep(5)
    assert await known.find("a") == {"kid": "a"}
