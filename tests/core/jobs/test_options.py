"""Every accepted spelling of an option, its precedence, and what is refused, through parse_job."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from ojs_cluster.core.errors import InvalidRequest, OJSError, ValidationFailed
from ojs_cluster.core.jobs.envelope import NewJob, parse_job
from ojs_cluster.core.jobs.retry import RetryPolicy
from ojs_cluster.core.timestamps import TimePoint


def _parse(options: object = None, **beside: Any) -> NewJob:
    body: dict[str, Any] = {"type": "t", "args": [], **beside}
    if options is not None:
        body["options"] = options
    return parse_job(json.dumps(body).encode())


def _body(job: NewJob) -> dict[str, Any]:
    members: dict[str, Any] = json.loads(b"{" + job.body + b"}")
    return members


ABSOLUTE = TimePoint(4_102_444_799_000, False, "2099-12-31T23:59:59Z")


@pytest.mark.parametrize(
    ("options", "beside", "expected"),
    [
        ({}, {}, {"queue": "default", "priority": 0, "pending": False, "scheduled": None}),
        ({"queue": "a.b-1"}, {}, {"queue": "a.b-1"}),
        (None, {"queue": "q"}, {"queue": "q"}),
        ({"queue": "o"}, {"queue": "t"}, {"queue": "o"}),
        ({"queue": None}, {"queue": "t"}, {"queue": "t"}),
        ({"priority": -100}, {}, {"priority": -100}),
        (None, {"priority": 100}, {"priority": 100}),
        ({"priority": 0}, {"priority": 100}, {"priority": 0}),
        ({"retry": {"max_attempts": 5}}, {}, {"retry": RetryPolicy(max_attempts=5)}),
        ({"retry_policy": {"max_attempts": 5}}, {}, {"retry": RetryPolicy(max_attempts=5)}),
        (
            {"retry": {"jitter": False}, "retry_policy": {"max_attempts": 5}},
            {},
            {"retry": RetryPolicy(jitter=False)},
        ),
        ({"max_attempts": 4}, {}, {"retry": RetryPolicy(max_attempts=4)}),
        (
            {"max_attempts": 4, "retry": {"max_attempts": 5}},
            {},
            {"retry": RetryPolicy(max_attempts=5)},
        ),
        (None, {"retry": {"max_attempts": 5}}, {"retry": RetryPolicy(max_attempts=5)}),
        ({"timeout_ms": 1500}, {}, {"timeout_ms": 1500}),
        ({"timeout_ms": 0}, {}, {"timeout_ms": 0}),
        (None, {"timeout": 30}, {"timeout_ms": 30_000}),
        (None, {"timeout": 30, "timeout_ms": 5}, {"timeout_ms": 5}),
        ({"timeout_ms": 7}, {"timeout": 30}, {"timeout_ms": 7}),
        ({"visibility_timeout_ms": 3000}, {}, {"visibility_timeout_ms": 3000}),
        ({"visibility_timeout_ms": 0}, {}, {"visibility_timeout_ms": 0}),
        ({"visibility_timeout": "PT3S"}, {}, {"visibility_timeout_ms": 3000}),
        (
            {"visibility_timeout": "PT3S", "visibility_timeout_ms": 4},
            {},
            {"visibility_timeout_ms": 4},
        ),
        (None, {"visibility_timeout_ms": 9}, {"visibility_timeout_ms": 9}),
        ({"scheduled_at": "2099-12-31T23:59:59Z"}, {}, {"scheduled": ABSOLUTE}),
        ({"delay_until": "2099-12-31T23:59:59Z"}, {}, {"scheduled": ABSOLUTE}),
        (None, {"scheduled_at": "2099-12-31T23:59:59Z"}, {"scheduled": ABSOLUTE}),
        (
            {"scheduled_at": "2099-12-31T23:59:59Z", "delay_until": "+PT1S"},
            {},
            {"scheduled": ABSOLUTE},
        ),
        ({"delay_until": "+PT5S"}, {}, {"scheduled": TimePoint(5_000, True, None)}),
        ({"expires_at": "2099-12-31T23:59:59Z", "ttl": 1}, {}, {"expires": ABSOLUTE}),
        (None, {"expires_at": "2099-12-31T23:59:59Z"}, {"expires": ABSOLUTE}),
        ({"expires_at": "+PT2S"}, {}, {"expires": TimePoint(2_000, True, None)}),
        ({"ttl": 60}, {}, {"expires": TimePoint(60_000, True, None)}),
        ({"ttl": "PT1M"}, {}, {"expires": TimePoint(60_000, True, None)}),
        ({"ttl": "+PT1M"}, {}, {"expires": TimePoint(60_000, True, None)}),
        ({"enqueue_ttl": 60}, {}, {"expires": TimePoint(60_000, True, None)}),
        ({"ttl": 1, "enqueue_ttl": 60}, {}, {"expires": TimePoint(1_000, True, None)}),
        (None, {"enqueue_ttl": 60}, {"expires": TimePoint(60_000, True, None)}),
        ({"pending": True}, {}, {"pending": True}),
        ({"unknown": {"x": 1}, "queue": "mail"}, {}, {"queue": "mail"}),
        ({"retry": {"max_attempts": 2, "unknown": 1}}, {}, {"retry": RetryPolicy(max_attempts=2)}),
    ],
    ids=str,
)
def test_every_spelling_of_an_option_is_understood_and_the_canonical_one_wins(
    options: object, beside: dict[str, Any], expected: dict[str, Any]
) -> None:
    job = _parse(options, **beside)
    assert {name: getattr(job, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("options", "beside", "unknown"),
    [
        (None, {}, []),
        ({"queue": "mail", "unique": None}, {}, []),
        ({"prioritty": 5, "queue": "mail", "\u00fc": [1e300]}, {}, ["prioritty", "\u00fc"]),
        ({"retry": {"max_atempts": 5}}, {}, ["retry.max_atempts"]),
        ({"retry_policy": {"a": 1}, "unique": {"b": 1}}, {}, ["retry_policy.a", "unique.b"]),
        ({"rate_limit": {"key": "k", "concurrency": 1, "c": 1}}, {}, ["rate_limit.c"]),
        ({"x" * 500: 1}, {}, ["x" * 92]),
        ({f"x{n}": None for n in range(20)}, {}, [f"x{n}" for n in range(10)]),
    ],
)
def test_members_that_are_not_known_are_ignored_with_a_warning(
    options: object, beside: dict[str, Any], unknown: list[str]
) -> None:
    found = _parse(options, **beside).warnings
    assert found == tuple(f"options.{name} is not known, so it is ignored" for name in unknown)


def test_attributes_that_are_not_known_are_kept_without_a_warning() -> None:
    job = _parse(None, unknown=1, retry={"max_atempts": 5})
    assert _body(job)["unknown"] == 1
    assert job.warnings == ("retry.max_atempts is not known, so it is ignored",)


@pytest.mark.parametrize("number", [b"1e400", b"-1e999"])
def test_a_number_out_of_range_in_an_ignored_member_does_not_matter(number: bytes) -> None:
    job = parse_job(b'{"type":"t","args":[],"options":{"priority":5,"x":%b}}' % number)
    assert (job.priority, len(job.warnings)) == (5, 1)


@pytest.mark.parametrize(
    ("options", "beside", "echoed"),
    [
        ({"queue": "q", "priority": 3}, {}, {}),
        ({"timeout_ms": 1500}, {}, {"timeout_ms": 1500}),
        (None, {"timeout": 2}, {"timeout_ms": 2000}),
        ({"visibility_timeout": "PT3S"}, {}, {"visibility_timeout_ms": 3000}),
        (
            {"retry": {"max_attempts": 1, "strategy": "none"}},
            {},
            {
                "retry": {
                    "max_attempts": 1,
                    "initial_interval": "PT1S",
                    "backoff_coefficient": 2.0,
                    "max_interval": "PT5M",
                    "jitter": True,
                    "non_retryable_errors": [],
                    "backoff_strategy": "constant",
                }
            },
        ),
        (
            {"unique": {"key": ["args"], "within": "1h"}},
            {},
            {
                "unique": {
                    "keys": ["type", "args"],
                    "period": "PT1H",
                    "states": ["available", "active", "scheduled", "retryable", "pending"],
                    "on_conflict": "reject",
                }
            },
        ),
        ({"tags": ["a", "b"]}, {"tags": ["c"]}, {"tags": ["a", "b"]}),
        ({}, {"tags": ["c"]}, {"tags": ["c"]}),
        (
            {"scheduled_at": "2099-12-31T23:59:59Z", "expires_at": "2100-01-01T00:00:00+01:00"},
            {},
            {
                "scheduled_at": "2099-12-31T23:59:59Z",
                "expires_at": "2100-01-01T00:00:00+01:00",
            },
        ),
        ({"scheduled_at": "+PT1S", "expires_at": "+PT2S"}, {}, {}),
    ],
    ids=str,
)
def test_the_envelope_repeats_options_in_their_canonical_spelling(
    options: object, beside: dict[str, Any], echoed: dict[str, Any]
) -> None:
    assert _body(_parse(options, **beside)) == {"args": [], "meta": {}, **echoed}


def test_metadata_is_merged_into_meta_which_wins() -> None:
    raw = (
        b'{"type":"t","args":[],"meta":{"b": 2.0, "c":[1e400]},'
        b'"options":{"metadata":{"a" : 1 ,"b":"x"}}}'
    )
    assert parse_job(raw).body == b'"args":[],"meta":{"a":1,"b":2.0,"c":[1e400]}'


def test_metadata_alone_becomes_meta() -> None:
    assert _body(_parse({"metadata": {"a": 1}}))["meta"] == {"a": 1}


@pytest.mark.parametrize(
    ("options", "field", "kind"),
    [
        ([], "options", InvalidRequest),
        ("x", "options", InvalidRequest),
        ({"queue": "Default"}, "options.queue", InvalidRequest),
        ({"queue": "my_queue!"}, "options.queue", InvalidRequest),
        ({"queue": "my_queue"}, "options.queue", InvalidRequest),
        ({"queue": "-invalid"}, "options.queue", InvalidRequest),
        ({"queue": "my queue"}, "options.queue", InvalidRequest),
        ({"queue": "queue\n"}, "options.queue", InvalidRequest),
        ({"queue": ""}, "options.queue", InvalidRequest),
        ({"queue": "q" * 129}, "options.queue", InvalidRequest),
        ({"queue": 1}, "options.queue", InvalidRequest),
        ({"queue": "kö"}, "options.queue", InvalidRequest),
        ({"priority": 101}, "options.priority", InvalidRequest),
        ({"priority": -101}, "options.priority", InvalidRequest),
        ({"priority": 999999}, "options.priority", InvalidRequest),
        ({"priority": 10**400}, "options.priority", InvalidRequest),
        ({"priority": 1.0}, "options.priority", InvalidRequest),
        ({"priority": True}, "options.priority", InvalidRequest),
        ({"priority": "1"}, "options.priority", InvalidRequest),
        ({"retry": 3}, "options.retry", ValidationFailed),
        ({"retry": {"max_attempts": -1}}, "options.retry.max_attempts", ValidationFailed),
        (
            {"retry_policy": {"backoff_coefficient": 0.5}},
            "options.retry_policy.backoff_coefficient",
            ValidationFailed,
        ),
        ({"max_attempts": 1.5}, "options.max_attempts", ValidationFailed),
        ({"timeout_ms": -1}, "options.timeout_ms", ValidationFailed),
        ({"timeout_ms": 1.5}, "options.timeout_ms", ValidationFailed),
        ({"timeout_ms": True}, "options.timeout_ms", ValidationFailed),
        ({"timeout_ms": 10**18}, "options.timeout_ms", ValidationFailed),
        ({"visibility_timeout_ms": -1}, "options.visibility_timeout_ms", ValidationFailed),
        ({"visibility_timeout": 3}, "options.visibility_timeout", ValidationFailed),
        ({"visibility_timeout": "3s"}, "options.visibility_timeout", ValidationFailed),
        ({"scheduled_at": "2026-03-01T09:00:00"}, "options.scheduled_at", InvalidRequest),
        ({"scheduled_at": 1772355600}, "options.scheduled_at", InvalidRequest),
        ({"delay_until": "soon"}, "options.delay_until", InvalidRequest),
        ({"expires_at": "+PT0S"}, "options.expires_at", InvalidRequest),
        ({"ttl": -1}, "options.ttl", ValidationFailed),
        ({"enqueue_ttl": "1m"}, "options.enqueue_ttl", ValidationFailed),
        ({"pending": 1}, "options.pending", InvalidRequest),
        ({"metadata": []}, "options.metadata", InvalidRequest),
        ({"tags": "a"}, "options.tags", InvalidRequest),
        ({"tags": [""]}, "options.tags", InvalidRequest),
        ({"tags": [1]}, "options.tags", InvalidRequest),
        ({"unique": True}, "options.unique", ValidationFailed),
        ({"unique": {"on_conflict": "error"}}, "options.unique.on_conflict", ValidationFailed),
        ({"rate_limit": {"key": "k"}}, "options.rate_limit.concurrency", ValidationFailed),
        (
            {"rate_limit": {"max_per_second": 0}},
            "options.rate_limit.max_per_second",
            ValidationFailed,
        ),
        ({"rate_limit": 1}, "options.rate_limit", ValidationFailed),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_bad_option_is_refused_with_its_place(
    options: object, field: str, kind: type[OJSError]
) -> None:
    with pytest.raises(OJSError) as caught:
        _parse(options)
    assert type(caught.value) is kind
    assert caught.value.field == field
    assert field.rpartition(".")[2] in caught.value.message.replace(" ", "_")


@pytest.mark.parametrize(
    ("beside", "field", "kind"),
    [
        ({"queue": "Q"}, "queue", InvalidRequest),
        ({"priority": 101}, "priority", InvalidRequest),
        ({"timeout": -30}, "timeout", ValidationFailed),
        ({"timeout": 10**400}, "timeout", ValidationFailed),
        ({"retry": {"backoff_coefficient": 0.5}}, "retry.backoff_coefficient", ValidationFailed),
        ({"unique": {"keys": ["meta"]}}, "unique.meta_keys", ValidationFailed),
        ({"scheduled_at": "x"}, "scheduled_at", InvalidRequest),
        ({"tags": [None]}, "tags", InvalidRequest),
    ],
    ids=str,
)
def test_a_bad_option_beside_the_job_is_refused_with_its_place(
    beside: dict[str, Any], field: str, kind: type[OJSError]
) -> None:
    with pytest.raises(kind) as caught:
        _parse(**beside)
    assert caught.value.field == field


@pytest.mark.parametrize("number", [b"1e400", b"-1e400"])
def test_a_number_out_of_range_is_refused_where_it_would_be_used(number: bytes) -> None:
    with pytest.raises(InvalidRequest, match="out of range") as caught:
        parse_job(b'{"type":"t","args":[],"options":{"priority":%b}}' % number)
    assert caught.value.field == "options"
    with pytest.raises(InvalidRequest, match="out of range") as caught:
        parse_job(b'{"type":"t","args":[],"priority":%b}' % number)
    assert caught.value.field == "priority"


def test_null_options_count_as_absent() -> None:
    assert (
        _parse(dict.fromkeys(["queue", "retry", "tags", "metadata", "ttl", "unique"])) == _parse()
    )
    assert parse_job(b'{"type":"t","args":[],"options":null}') == _parse()


def test_large_options_are_understood_like_small_ones() -> None:
    large = {"queue": "q", "padding": "x" * 5000}
    assert msgspec.structs.replace(_parse(large), warnings=()) == _parse({"queue": "q"})
