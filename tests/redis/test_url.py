"""REDIS_URL and settings."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from redis.connection import parse_url

from ojs_cluster.redis import Address, ClientSettings
from ojs_cluster.redis.url import _parse_one, parse_redis_url


def test_single_node_with_everything() -> None:
    settings = ClientSettings.from_url("redis://ann:s%2Cc%40t@db.example:7001/3?client_name=me")

    assert settings.nodes == (Address("db.example", 7001),)
    assert (settings.username, settings.password) == ("ann", "s,c@t")
    assert settings.db == 3
    assert settings.client_name == "me"
    assert settings.tls is None


def test_port_defaults_per_node() -> None:
    assert parse_redis_url("redis://a,b:7001,[::1]:7002").nodes == (
        ("a", 6379),
        ("b", 7001),
        ("::1", 7002),
    )


def test_several_nodes_share_credentials_and_options() -> None:
    settings = ClientSettings.from_url("rediss://:pw@a:1,b:2/?ssl_ca_certs=/ca.pem")

    assert settings.nodes == (Address("a", 1), Address("b", 2))
    assert settings.password == "pw"
    assert settings.tls is not None
    assert settings.tls.ca_file == "/ca.pem"
    assert settings.tls.check_hostname


def test_nodes_may_be_written_as_whole_urls() -> None:
    parsed = parse_redis_url("redis://u:p@a:1,redis://b:2,redis://u:p@c:3/0")

    assert parsed.nodes == (("a", 1), ("b", 2), ("c", 3))
    assert (parsed.username, parsed.password) == ("u", "p")


def test_password_with_a_raw_comma_is_not_a_node() -> None:
    parsed = parse_redis_url("redis://:a,b@host:1,other:2")

    assert parsed.password == "a,b"
    assert parsed.nodes == (("host", 1), ("other", 2))


def test_client_certificate_and_verification_come_from_the_query() -> None:
    tls = ClientSettings.from_url(
        "rediss://h/?ssl_certfile=/c&ssl_keyfile=/k&ssl_check_hostname=false&ssl_cert_reqs=none"
    ).tls

    assert tls is not None
    assert (tls.cert_file, tls.key_file) == ("/c", "/k")
    assert not tls.check_hostname
    assert not tls.verify


@pytest.mark.parametrize(
    "url",
    [
        "",
        "host:6379",
        "http://secret@host",
        "unix:///secret.sock",
        "redis://",
        "redis://a,,b",
        "redis://:secret@host:port",
        "redis://:secret@host:99999",
        "redis://:secret@host/not-a-number",
        "redis://:secret@host/1/2",
        "redis://:secret@host?socket_timeouts=secret",
        "redis://:secret@a,rediss://:secret@b",
        "redis://:secret@a,redis://:other@b",
        "redis://:secret@host?ssl_ca_certs=/ca.pem",
        "rediss://:secret@host?ssl_cert_reqs=secret",
    ],
)
def test_malformed_url_is_refused_without_quoting_it(url: str) -> None:
    with pytest.raises(ValueError, match="Redis") as caught:
        ClientSettings.from_url(url)

    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_sentinel_is_refused_with_what_to_use_instead() -> None:
    with pytest.raises(ValueError, match="Sentinel is not supported") as caught:
        ClientSettings.from_url("redis+sentinel://:secret@a,b:26379/mymaster/0")

    assert "secret" not in str(caught.value)


@given(st.text(min_size=1, max_size=30))
def test_no_text_makes_the_parser_fail_otherwise(text: str) -> None:
    try:
        ClientSettings.from_url("redis://" + text)
    except ValueError as error:
        assert "Redis" in str(error)  # noqa: PT017 - most texts are accepted or refused, both fine


_PART = st.text("ab1%2F 0@:é", max_size=6)


@given(_PART, _PART, _PART, st.text("0123 _", max_size=4), st.sampled_from(["db", "client_name"]))
@example("ann", "s%2Cc%40t", "db.example:7001", "3", "client_name")
@example("", "p%2520+", "[::1]:7001", "", "db")
@example("", "", "%68:0", "1", "db")
def test_one_node_means_what_it_means_to_redis_py(
    user: str, password: str, host: str, number: str, name: str
) -> None:
    url = f"redis://{user}:{password}@{host}/{number}?{name}=7&ssl_check_hostname={user}"
    try:
        ours = _parse_one(url)
    except ValueError:
        ours = None
    try:
        theirs = parse_url(url)  # type: ignore[no-untyped-call] # redis-py leaves it untyped
        defaults = {"host": "localhost", "port": 6379, "db": 0}
        assert ours is None or ours == defaults | theirs
        assert ours is not None or not number.isdecimal()
    except ValueError:
        assert ours is None


def test_password_is_in_no_repr() -> None:
    url = "rediss://ann:hunter2@h/?ssl_password=hunter2"

    assert "hunter2" not in repr(parse_redis_url(url))
    assert "hunter2" not in repr(ClientSettings.from_url(url))


@pytest.mark.parametrize(
    "overrides",
    [
        {"nodes": ()},
        {"call_timeout_s": 0},
        {"reply_timeout_s": -1},
        {"max_in_flight": 0},
        {"max_reply_bytes": 10},
    ],
)
def test_senseless_settings_are_refused(overrides: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"node|positive|at least"):
        ClientSettings.from_url("redis://h", **overrides)
