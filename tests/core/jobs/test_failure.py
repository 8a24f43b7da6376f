from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.jobs.failure import Failure, parse_failure
from tests.core import json_texts


def _error(failure: Failure) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(failure.json + b"}")
    return parsed


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (None, {"code": "handler_error", "type": "handler_error", "message": ""}),
        (b"null", {"code": "handler_error", "type": "handler_error", "message": ""}),
        (b"{}", {"code": "handler_error", "type": "handler_error", "message": ""}),
        (b'"boom"', {"code": "handler_error", "type": "handler_error", "message": "boom"}),
        (b'{"code":"c"}', {"code": "c", "type": "c", "message": ""}),
        (b'{"type":"T"}', {"code": "handler_error", "type": "T", "message": ""}),
        (
            b'{"details":{"error_class":"K"},"code":"c"}',
            {"code": "c", "type": "K", "message": "", "details": {"error_class": "K"}},
        ),
        (
            b'{"type":"T","message":"m","code":"c","x":[1]}',
            {"code": "c", "type": "T", "message": "m", "x": [1]},
        ),
        (b'{"code":503,"message":[1]}', {"code": "503", "type": "503", "message": "[1]"}),
        (b'{"code":[],"type":"","message":null}', _error(parse_failure(None))),
        (b'{"attempt":9,"occurred_at":"x"}', _error(parse_failure(None))),
        (b'{"retryable":"no"}', _error(parse_failure(None))),
    ],
)
def test_every_form_of_an_error_becomes_an_object_with_code_type_and_message(
    raw: bytes | None, expected: dict[str, Any]
) -> None:
    assert _error(parse_failure(raw)) == expected


@pytest.mark.parametrize("raw", [b"[]", b"1", b"true"])
def test_an_error_that_is_neither_object_nor_text_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_failure(raw)
    assert caught.value.field == "error"


@pytest.mark.parametrize(
    ("raw", "retryable", "action"),
    [
        (b"{}", True, None),
        (b'{"retryable":true}', True, None),
        (b'{"retryable":null}', True, None),
        (b'{"retryable":false}', False, None),
        (b'{"action":"RETRY"}', True, None),
        (b'{"action":"DISCARD"}', False, "discard"),
        (b'{"action":"FAIL"}', False, "discard"),
        (b'{"action":"DEAD_LETTER"}', False, "dead_letter"),
        (b'{"action":"SNOOZE"}', False, "snooze"),
        (b'{"code":"DEAD_LETTER","type":"T"}', False, "dead_letter"),
        (b'{"code":"DISCARD","action":"RETRY"}', True, None),
        (b'{"action":"unknown"}', True, None),
    ],
)
def test_a_handler_decides_about_the_next_attempt(
    raw: bytes, retryable: bool, action: str | None
) -> None:
    failure = parse_failure(raw)
    assert (failure.retryable, failure.action) == (retryable, action)


@pytest.mark.parametrize(
    ("delay", "expected"),
    [
        (b"0", 0),
        (b"1500", 1500),
        (b"999999999999", 365 * 86_400_000),
        (b"-1", None),
        (b"1.5", None),
        (b"9" * 20_000, 365 * 86_400_000),
        (b"1500.0", 1500),
        (b'"5"', None),
        (b"null", None),
    ],
)
def test_a_handler_chooses_the_delay_of_the_next_attempt(
    delay: bytes, expected: int | None
) -> None:
    assert parse_failure(b'{"retry_delay_ms":%b}' % delay).delay_ms == expected


@pytest.mark.parametrize(
    ("delay", "expected"), [(b"0", 1000), (b"-5", 1000), (b"null", 1000), (b"60000", 60_000)]
)
def test_a_snoozed_job_does_not_run_again_at_once(delay: bytes, expected: int) -> None:
    snooze = parse_failure(b'{"action":"SNOOZE","retry_delay_ms":%b}' % delay)
    assert snooze.delay_ms == expected


def test_an_error_is_matched_by_type_code_and_class() -> None:
    failure = parse_failure(b'{"code":"c","type":"T","details":{"error_class":"K"}}')
    assert failure.names == ("T", "c", "K")
    assert parse_failure(b'{"code":"c"}').names == ("c",)
    assert parse_failure(None).names == ("handler_error",)


@given(json_texts.values)
def test_details_and_unknown_attributes_keep_their_bytes(text: str) -> None:
    piece = text.encode()
    failure = parse_failure(b'{"code":"c", "x_a" : %b ,"details":%b }' % (piece, piece))
    assert b'"x_a":%b,"details":%b' % (piece, piece) in failure.json


def test_an_oversized_error_is_cut_down_instead_of_refused() -> None:
    raw = b'{"code":"c","type":"T","retryable":false,"message":"%b","backtrace":"%b"}' % (
        "é".encode() * 10_000,
        b"x" * 100_000,
    )
    failure = parse_failure(raw)
    error = _error(failure)
    assert len(failure.json) < 64 * 1024
    assert error == {
        "code": "c",
        "type": "T",
        "message": "é" * 4096,
        "retryable": False,
        "truncated": True,
    }
    assert not failure.retryable


def test_a_cut_message_stays_valid_json_with_escapes() -> None:
    raw = b'{"message":"%b","details":"%b"}' % (b"\\ud83d\\ude00" * 5000, b"x" * 65_536)
    assert _error(parse_failure(raw))["message"] == "😀" * 4096
