"""The file of API keys."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

import pytest

from ojs_cluster.core.access.key_file import KeyFileError, parse_key_file
from ojs_cluster.core.access.scopes import (
    ALL_SCOPES,
    PRESETS,
    Keyring,
    Principal,
    Scope,
    digest,
    principals_from_variables,
)

SECRET = "a-secret-that-must-not-be-shown-anywhere"
HASH = sha256(SECRET.encode()).hexdigest()


def key(**members: str) -> str:
    """One table; values are TOML text, and an empty one leaves the member out."""
    members = {"name": '"ci"', "sha256": f'"{HASH}"', "preset": '"producer"', **members}
    lines = "".join(f"{name} = {value}\n" for name, value in members.items() if value)
    return f"[[key]]\n{lines}"


def parsed(
    text: str, environ: Mapping[str, str] | None = None, *, shortest_secret: int = 0
) -> Keyring:
    return parse_key_file(text.encode(), environ or {}, {}, shortest_secret=shortest_secret)


def problems(text: str, environ: Mapping[str, str] | None = None, **options: int) -> list[str]:
    with pytest.raises(KeyFileError) as refused:
        parsed(text, environ, **options)
    assert SECRET not in str(refused.value)
    assert HASH not in str(refused.value)
    assert all("\n" not in problem for problem in refused.value.problems)
    return refused.value.problems


def test_a_key_is_found_by_its_secret_alone() -> None:
    keyring = parsed(key(queues='["mail-*"]', requests_per_second="2.5"))
    found = keyring.find(SECRET)
    assert found is not None
    assert (found.name, found.scopes, found.requests_per_second) == (
        "ci",
        PRESETS["producer"],
        2.5,
    )
    assert found.queues is not None
    assert found.queues.admits("mail-1")
    for wrong in ("", HASH, SECRET + "x", SECRET[:-1], "\udcff"):
        assert keyring.find(wrong) is None


def test_a_key_has_the_scopes_of_its_preset_and_its_own() -> None:
    found = parsed(key(preset='"worker"', scopes='["ojs:admin:read"]')).find(SECRET)
    assert found is not None
    assert found.scopes == PRESETS["worker"] | {Scope.ADMIN_READ}


@pytest.mark.parametrize("text", ["2027-01-31T00:00:00Z", '"2027-01-31T01:00:00+01:00"'])
def test_expiry_is_a_time_with_its_zone(text: str) -> None:
    found = parsed(key(expires_at=text)).find(SECRET)
    assert found is not None
    assert found.expires_at_s == 1801353600.0


def test_a_secret_may_be_in_the_environment() -> None:
    given_ = key(sha256="", secret_env='"CI_KEY"')
    assert parsed(given_, {"CI_KEY": SECRET}).find(SECRET) is not None
    (problem,) = problems(given_)
    assert problem == "key 1 ('ci'): secret_env: no environment variable of this name is set"
    (problem,) = problems(given_, {"CI_KEY": SECRET}, shortest_secret=100)
    assert problem == "key 1 ('ci'): secret_env: the secret has fewer than 100 characters"


def test_a_key_may_be_for_a_certificate_alone() -> None:
    keyring = parsed(key(sha256="", tls_subject='"CN=ci,O=Example"'))
    assert not keyring.by_digest
    assert keyring.by_subject["CN=ci,O=Example"].name == "ci"


def test_keys_of_variables_have_all_scopes_and_stay_beside_the_file() -> None:
    known = principals_from_variables("first", ["second", "first"])
    assert {principal.name for principal in known.values()} == {
        "OJS_API_KEY",
        "OJS_API_KEYS (key 1)",
    }
    assert all(p.scopes == ALL_SCOPES and p.queues is None for p in known.values())
    keyring = parse_key_file(key().encode(), {}, known)
    assert keyring.find("second") == Principal("OJS_API_KEYS (key 1)")
    with pytest.raises(KeyFileError, match="has the same secret as 'OJS_API_KEY'"):
        parse_key_file(key().encode(), {}, {digest(SECRET): Principal("OJS_API_KEY")})


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ({"name": ""}, "key 1: name: expected 1 to 64 letters"),
        ({"name": '"a b"'}, "key 1: name: expected 1 to 64 letters"),
        (
            {"name": '"OJS_API_KEY"'},
            "name: names that start with OJS_API_KEY are those of keys from the environment",
        ),
        ({"sha256": f'"{SECRET}"'}, "sha256: expected the 64 hexadecimal digits"),
        ({"sha256": "5"}, "sha256: expected the 64 hexadecimal digits"),
        ({"sha256": ""}, "sha256, secret_env or tls_subject is required"),
        ({"secret_env": '"X"'}, "sha256, secret_env: set one of them"),
        ({"sha256": "", "secret_env": "5"}, "secret_env: expected the name"),
        ({"preset": ""}, "preset or scopes is required"),
        ({"preset": '"root"'}, "preset: expected one of producer, worker"),
        ({"preset": "[1]"}, "preset: expected one of producer, worker"),
        ({"scopes": "[]"}, "scopes: expected a list of"),
        ({"scopes": '["ojs:all"]'}, "not 'ojs:all'"),
        ({"scopes": "[5]"}, "not 5"),
        ({"queues": "[]"}, "queues: expected a list of queue names"),
        ({"queues": '"mail"'}, "queues: expected a list of queue names"),
        ({"queues": '["Mail"]'}, "not 'Mail'"),
        ({"queues": "[5]"}, "not 5"),
        ({"tenant": '"-a"'}, "tenant: expected 1 to 128 letters"),
        ({"tenant": "[5]"}, "tenant: expected 1 to 128 letters"),
        ({"expires_at": "2027-01-31"}, "expires_at: expected a time with its zone"),
        ({"expires_at": "2027-01-31T00:00:00"}, "expires_at: expected a time with its zone"),
        ({"expires_at": '"soon"'}, "expires_at: expected a time with its zone"),
        ({"requests_per_second": "0"}, "requests_per_second: expected a number above 0"),
        ({"requests_per_second": "true"}, "requests_per_second: expected a number above 0"),
        ({"requests_per_second": "nan"}, "requests_per_second: expected a number above 0"),
        ({"requests_per_second": '"9"'}, "requests_per_second: expected a number above 0"),
        ({"tls_subject": '"ci"'}, "tls_subject: expected the subject"),
        ({"tls_subject": "5"}, "tls_subject: expected the subject"),
        ({"scope": '"x"'}, "'scope' is not known; expected expires_at, name"),
    ],
)
def test_a_wrong_value_is_named_in_one_line(members: dict[str, str], problem: str) -> None:
    (line,) = problems(key(**members))
    assert problem in line


def test_all_problems_are_reported_at_once() -> None:
    text = key(preset='"root"', queues="[]") + key(name='"other"', sha256='"x"')
    assert [line.partition(":")[0] for line in problems(text)] == [
        "key 1 ('ci')",
        "key 1 ('ci')",
        "key 2 ('other')",
    ]


def test_no_two_keys_share_a_name_a_secret_or_a_certificate() -> None:
    subject = '"CN=ci"'
    other = sha256(b"other").hexdigest()
    assert problems(key() + key(sha256=f'"{other}"')) == [
        "key 2 ('ci'): name: another key has the same name"
    ]
    assert problems(key() + key(name='"cd"')) == ["key 2 ('cd'): has the same secret as 'ci'"]
    two = key(tls_subject=subject) + key(name='"cd"', sha256="", tls_subject=subject)
    assert problems(two) == ["key 2 ('cd'): has the same tls_subject as 'ci'"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the file must have 1 to 10000 [[key]] tables"),
        ("key = 5", "the file must have 1 to 10000 [[key]] tables"),
        ("key = [5]", "key 1: must be a [[key]] table"),
        ("[keys]\n", "'keys' is not known: use [[key]] tables"),
        (f'[[key]]\nsha256 = "{SECRET}\n', "the file is not TOML (at line 2, column"),
        (f"{SECRET}\n", "the file is not TOML (at line 1, column"),
    ],
)
def test_an_invalid_key_file_is_refused_without_quoting_it(text: str, problem: str) -> None:
    assert any(line.startswith(problem) for line in problems(text))


def test_a_binary_file_is_refused() -> None:
    with pytest.raises(KeyFileError, match="the file is not UTF-8"):
        parse_key_file(b"\xff", {}, {})
