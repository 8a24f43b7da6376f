"""Single sign-on by a trusted proxy: who gets in, who does not, and what the audit says."""

from __future__ import annotations

import time
from collections.abc import Iterator
from ipaddress import ip_network

import httpx
import pytest

from ojs_cluster.core.access.client_address import TrustedProxies
from ojs_cluster.core.access.scopes import PRESETS, Principal
from ojs_cluster.core.errors import PermissionDenied, Unauthenticated
from ojs_cluster.http.access.keys_and_scopes import AccessControl
from ojs_cluster.server.config.load import ConfigError, load
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.ui.settings import UiSettings, header_name
from ojs_cluster.ui.sign_on.proxy_users import ProxyUsers
from ojs_cluster.ui.user_roles import group_roles
from tests.support.servers import wait_until
from tests.ui.dashboard import KEYRING, OWN, Running, dashboard
from tests.ui.demo import Demo

USER, GROUPS = "X-Forwarded-User", "X-Forwarded-Groups"
SSO = UiSettings(
    mode="full",
    proxy_user=USER,
    proxy_groups=GROUPS,
    proxy_roles={"ops": "operator", "dev": "viewer"},
)
PROXY = "10.0.0.7"
NOW_S = 1_900_000_000.0
USERS = ProxyUsers(SSO, TrustedProxies([ip_network("10.0.0.0/24")]))


def find(*headers: tuple[str, str], peer: str = PROXY) -> Principal | None:
    return USERS.find(peer, [(name.encode(), value.encode()) for name, value in headers], NOW_S)


def test_the_proxy_names_the_user_and_the_groups_give_the_scopes() -> None:
    found = find((USER, "ann@example.com"), (GROUPS, "dev, ops ,others"))
    assert found is not None
    assert found.name == "user:ann@example.com"
    assert found.scopes == PRESETS["operator"] | PRESETS["viewer"]
    assert found.queues is None
    found = find((USER.lower(), "J\u00f6rg"), (GROUPS.upper(), "dev"))
    assert found is not None
    assert (found.name, found.scopes) == ("user:J\u00f6rg", PRESETS["viewer"])


@pytest.mark.parametrize("peer", ["10.0.1.7", "192.0.2.1", "", "evil", "::ffff:10.0.1.7"])
def test_a_header_from_another_peer_is_ignored(peer: str) -> None:
    assert find((USER, "ann"), (GROUPS, "ops"), ("X-Forwarded-For", PROXY), peer=peer) is None


def test_a_proxy_that_names_nobody_lets_nobody_in() -> None:
    assert find() is None
    assert find((GROUPS, "ops")) is None
    assert find((USER, "  "), (GROUPS, "ops")) is None
    assert find(("X-Forwarded-Email", "ann"), (GROUPS, "ops")) is None


@pytest.mark.parametrize(
    "headers",
    [
        [(USER, "ann"), (USER, "ann")],
        [(USER, "ann"), (USER.lower(), "boss")],
        [(USER, ""), (USER, "boss")],
        [(USER, "ann"), (GROUPS, "dev"), (GROUPS, "ops")],
        [(USER, "ann, boss"), (GROUPS, "ops")],
        [(USER, "a" * 201), (GROUPS, "ops")],
        [(USER, "a\tb"), (GROUPS, "ops")],
    ],
)
def test_a_repeated_or_malformed_header_is_refused(headers: list[tuple[str, str]]) -> None:
    with pytest.raises(Unauthenticated):
        find(*headers)
    with pytest.raises(Unauthenticated):
        USERS.find(PROXY, [(USER.encode(), b"\xff"), (GROUPS.encode(), b"ops")], NOW_S)


@pytest.mark.parametrize("groups", ["", "others", "OPS", "ops;dev", "*", "o,ps"])
def test_a_user_of_no_known_group_sees_nothing(groups: str) -> None:
    with pytest.raises(PermissionDenied, match="no group"):
        find((USER, "ann"), (GROUPS, groups))


def test_a_role_for_everybody_needs_no_groups() -> None:
    settings = UiSettings(mode="read", proxy_user=USER, proxy_roles={"*": "viewer"})
    users = ProxyUsers(settings, TrustedProxies([ip_network("10.0.0.0/24")]))
    found = users.find(PROXY, [(USER.encode(), b"ann")], NOW_S)
    assert found is not None
    assert found.scopes == PRESETS["viewer"]
    assert (
        ProxyUsers(UiSettings(mode="read"), TrustedProxies([ip_network("10.0.0.0/24")])).find(
            PROXY, [(b"", b"ann"), (USER.encode(), b"ann")], NOW_S
        )
        is None
    ), "single sign-on is off"


def test_an_open_stream_of_a_user_ends_after_some_minutes() -> None:
    access = AccessControl(KEYRING)
    found = find((USER, "ann"), (GROUPS, "dev"))
    assert found is not None
    assert access.is_current(found)
    assert not access.is_current(
        Principal(found.name, found.scopes, expires_at_s=time.time() - 1, is_vouched=True)
    )
    assert not access.is_current(Principal(found.name, found.scopes))


@pytest.mark.parametrize("path", ["/%75i/queues", "/ui%2Fqueues", "/%6fjs/admin/"])
def test_no_page_is_reached_by_an_escaped_spelling_of_its_prefix(
    running: Running, path: str
) -> None:
    # A proxy that compares bytes would pass such a path on with the headers of its client.
    with running.api() as api:
        answer = api.get(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


BASE = {
    "OJS_API_KEY": "k" * 40,
    "OJS_TRUSTED_PROXIES": "10.0.0.0/24",
    "OJS_UI_PROXY_USER": USER,
    "OJS_UI_PROXY_GROUPS": GROUPS,
    "OJS_UI_PROXY_ROLES": "ops=operator,*=viewer",
}


def test_a_complete_configuration_is_accepted() -> None:
    settings = load(BASE).ui
    assert settings.proxy_user == USER
    assert settings.proxy_roles == {"ops": "operator", "*": "viewer"}
    assert load({"OJS_API_KEY": "k"}).ui.proxy_roles == {}


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"OJS_TRUSTED_PROXIES": ""}, "anybody could send the header"),
        ({"OJS_UI_PROXY_ROLES": ""}, "no user could do anything"),
        ({"OJS_UI_PROXY_GROUPS": ""}, "names of groups only with"),
        ({"OJS_UI_PROXY_GROUPS": USER.lower()}, "two different headers"),
        ({"OJS_UI_PROXY_USER": ""}, "only with OJS_UI_PROXY_USER"),
        ({"OJS_API_KEY": "", "OJS_ALLOW_INSECURE_NO_AUTH": "1"}, "lets everybody in"),
        ({"OJS_UI_PROXY_USER": "Authorization"}, "only the proxy sets"),
        ({"OJS_UI_PROXY_USER": "X User"}, "only the proxy sets"),
        ({"OJS_UI_PROXY_ROLES": "ops=root"}, "group=role"),
        ({"OJS_UI_PROXY_ROLES": "ops=admin,ops=viewer"}, "group=role"),
    ],
)
def test_a_configuration_that_lets_the_wrong_people_in_is_refused(
    changes: dict[str, str], part: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        load({**BASE, **changes})
    assert any(part in problem for problem in refused.value.problems), refused.value.problems


def test_names_of_headers_and_groups_are_checked() -> None:
    assert header_name("X-Auth-Request-User") == "X-Auth-Request-User"
    assert group_roles("a=b=viewer") == {"a=b": "viewer"}
    for wrong in ("=viewer", "ops", "ops=", ","):
        with pytest.raises(ValueError, match="group=role"):
            group_roles(wrong)


@pytest.fixture(scope="module")
def behind_proxy(ui_redis: Embedded) -> Iterator[Running]:
    with dashboard(ui_redis, SSO, trusted="127.0.0.0/8") as found:
        yield found


@pytest.fixture(scope="module")
def without_proxy(ui_redis: Embedded) -> Iterator[Running]:
    """Serve the same, but this client is no trusted proxy."""
    with dashboard(ui_redis, SSO, trusted="10.0.0.0/24") as found:
        yield found


def get(running: Running, path: str, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.get(running.url + path, headers=named, timeout=60)


def test_a_user_of_the_proxy_sees_pages_and_acts_with_a_name_in_the_audit(
    behind_proxy: Running, demo: Demo
) -> None:
    ann = {USER: "ann@example.com", GROUPS: "ops"}
    with httpx.Client(base_url=behind_proxy.url, headers={**OWN, **ann}, timeout=60) as client:
        shown = client.get("/ui/queues")
        assert shown.status_code == 200
        assert "user:ann@example.com" in shown.text
        assert client.post("/ui/queues/reports/pause").status_code == 303
        assert client.post("/ui/queues/reports/resume").status_code == 303
        forged = client.post("/ui/queues/reports/pause", headers={"Sec-Fetch-Site": "cross-site"})
        assert forged.status_code == 403, "the session of the proxy is a cookie, too"
    with behind_proxy.api() as api:

        def is_recorded() -> bool:
            listed = api.get("/ojs/v1/admin/audit", params={"action": "queue.pause"}).json()
            return any(each["principal"] == "user:ann@example.com" for each in listed["entries"])

        wait_until(is_recorded, what="the audit names the user")


def test_a_viewer_of_the_proxy_changes_nothing(behind_proxy: Running, demo: Demo) -> None:
    bob = {USER: "bob", GROUPS: "dev"}
    with httpx.Client(base_url=behind_proxy.url, headers={**OWN, **bob}, timeout=60) as client:
        assert "queues/media/resume" not in client.get("/ui/queues").text
        assert client.post("/ui/queues/media/resume").status_code == 403


def test_the_api_ignores_the_proxy(behind_proxy: Running) -> None:
    answer = get(
        behind_proxy, "/ojs/v1/admin/queues", X_Forwarded_User="a", X_Forwarded_Groups="ops"
    )
    assert answer.status_code == 401


def test_a_client_that_is_no_proxy_has_to_log_in(without_proxy: Running) -> None:
    answer = get(without_proxy, "/ui/queues", X_Forwarded_User="a", X_Forwarded_Groups="ops")
    assert answer.status_code == 303
    assert "login" in answer.headers["location"]


def test_refusals_are_pages_and_are_recorded(behind_proxy: Running) -> None:
    unknown = get(behind_proxy, "/ui/queues", X_Forwarded_User="eve", X_Forwarded_Groups="x")
    assert unknown.status_code == 403
    assert "in no group that may use the dashboard" in unknown.text
    twice = httpx.get(
        f"{behind_proxy.url}/ui/queues",
        headers=[(USER, "a"), (USER, "boss"), (GROUPS, "ops")],
        timeout=60,
    )
    assert twice.status_code == 401
    assert "more than once" in twice.text
    with behind_proxy.api() as api:

        def is_recorded() -> bool:
            listed = api.get("/ojs/v1/admin/audit").json()["entries"]
            return any(each["principal"] == "user:eve" for each in listed)

        wait_until(is_recorded, what="the refusal is in the audit")


def test_the_proxy_comes_before_the_session_and_the_token_of_a_request(
    behind_proxy: Running, demo: Demo
) -> None:
    with behind_proxy.browser("admin-key") as client:
        assert "boss" in client.get("/ui/queues").text, "without the proxy's header the session"
        bob = {USER: "bob", GROUPS: "dev", "Authorization": "Bearer an-id-token"}
        text = client.get("/ui/queues", headers=bob).text
        assert "user:bob" in text
        assert ">boss<" not in text
