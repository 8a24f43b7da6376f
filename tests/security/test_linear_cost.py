"""The cost of parsing a client's input grows at most linearly, for every parser.

Costs are compared with each other, never with a clock: eight times the input may cost three times
as much per byte, which leaves room for a busy machine. Quadratic work costs eight times as much.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_network
from random import Random
from typing import Any

import pytest

from ojs_cluster.core import raw_json
from ojs_cluster.core.access.client_address import TrustedProxies
from ojs_cluster.core.cron.cron_job import parse_cron
from ojs_cluster.core.cron.schedule import parse_schedule
from ojs_cluster.core.durations import parse_duration_ms
from ojs_cluster.core.jobs.envelope import parse_job
from ojs_cluster.core.jobs.failure import parse_failure
from ojs_cluster.core.jobs.fingerprint import fingerprint
from ojs_cluster.core.jobs.unique import UniquePolicy
from ojs_cluster.core.json_scan import scan
from ojs_cluster.core.payload_limits import DEFAULT_LIMITS
from ojs_cluster.core.timestamps import parse_timestamp
from ojs_cluster.core.workflow_request import parse_workflow
from ojs_cluster.http import query
from ojs_cluster.http.fast_lane.parser import read_head
from ojs_cluster.http.routes.all_routes import ROUTES
from ojs_cluster.http.routing.router import HttpRouter
from ojs_cluster.store.ground.off_loop import LARGE

TIMES = 8
SMALL = raw_json.MAX_SMALL_BYTES - 512
"""Bytes of JSON that is read in one piece; what is larger is read in steps, at another price."""
_MOST_PER_BYTE = 3
_LEAST_S = 0.0005
"""CPU time below which one measurement says little: the call is repeated until then."""
_LONGEST_TURN_S = 0.05

JSON = (
    *(b"[]", b"[", b"{", b'{"a":', b"1", b"-", b"1e", b"0.1", b"1e308,", b'"', b"\\", b'\\"', b" "),
    *(b'"a",', b'"\\u0000",', b'{"a":1},', "\u0301".encode(), "e\u0301".encode(), b",", b":"),
    *(b"\xff", b"null,", b'{"":{"":[', b'"k":1,', b"\xf0\x9f\x98\x80"),
)
TEXTS = (
    *("a", "0", "1", "-", "/", ".", ",", ":", ";", "=", "&", "%", "%41", "%2F", "%E2%82%AC", "%zz"),
    *(
        " ",
        "*",
        "*,",
        "1-2,",
        "*/2 ",
        "L,",
        "1#1,",
        "MON,",
        "@",
        "P",
        "PT1H",
        "1D",
        "T",
        "+",
        "../",
    ),
    *("a=1&", "a/", "\u0301", "::1,", "10.0.0.1,", "[::1]:1, ", "9" * 50 + ",", "\t"),
    *("\x00", "~"),
)
_TEXTS = tuple(text.encode() for text in TEXTS)

_router = HttpRouter(ROUTES)
_proxies = TrustedProxies([ip_network("10.0.0.0/8"), ip_network("::1")])
_policy = UniquePolicy(keys=("type", "args"))


def _around(before: bytes, after: bytes, read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    return lambda raw: read(before + raw + after)


def _fingerprint_of(args: bytes) -> str:
    raw_json.check_text(args)  # as for each request: what nests deeper never gets further
    return fingerprint(_policy, job_type="t", queue="q", args=args, meta=b"{}")


def _text(read: Callable[[str], Any], before: str = "", after: str = "") -> Callable[[bytes], Any]:
    return lambda raw: read(before + raw.decode() + after)


PARSERS: dict[str, tuple[int, tuple[bytes, ...], Callable[[bytes], Any]]] = {
    "job": (SMALL, JSON, parse_job),
    "large job": (DEFAULT_LIMITS.envelope_bytes, JSON, parse_job),
    "args": (SMALL, JSON, _around(b'{"type":"t","args":[', b"1]}", parse_job)),
    "string in args": (SMALL, JSON, _around(b'{"type":"t","args":["', b'"]}', parse_job)),
    "options": (
        SMALL,
        JSON,
        _around(b'{"type":"t","args":[],"options":{"retry":{', b'"z":1}}}', parse_job),
    ),
    "meta": (SMALL, JSON, _around(b'{"type":"t","args":[],"meta":{"a":"', b'"}}', parse_job)),
    "workflow": (
        SMALL,
        JSON,
        _around(b'{"type":"chain","name":"n","steps":[', b"1]}", parse_workflow),
    ),
    "cron job": (
        SMALL,
        JSON,
        _around(b'{"name":"n","cron":"@daily","type":"t","args":[', b"1]}", parse_cron),
    ),
    "failure": (SMALL, JSON, _around(b'{"message":"', b'"}', parse_failure)),
    "fingerprint": (
        SMALL,
        JSON,
        _around(
            b'["',
            b'"]',
            _fingerprint_of,
        ),
    ),
    "fingerprint of numbers": (
        SMALL,
        JSON,
        _around(
            b"[",
            b"1]",
            _fingerprint_of,
        ),
    ),
    "head": (
        16_384,
        (*_TEXTS, b"\r\n", b"a: b\r\n", b"\r"),
        _around(b"GET /live HTTP/1.1\r\nHost: x\r\nX: ", b"\r\n\r\n", read_head),
    ),
    "target": (
        16_384,
        _TEXTS,
        _around(b"GET /", b" HTTP/1.1\r\nHost: x\r\n\r\n", read_head),
    ),
    "path": (
        16_384,
        _TEXTS,
        _text(lambda path: _router.match("GET", path), "/ojs/v1/jobs/"),
    ),
    "query": (16_384, _TEXTS, _text(query.parameters)),
    "expression": (4096, _TEXTS, _text(parse_schedule)),
    "field of an expression": (
        4096,
        _TEXTS,
        _text(parse_schedule, "1 ", "1 * * *"),
    ),
    "zone": (
        4096,
        _TEXTS,
        _text(lambda zone: parse_schedule("@daily", zone), "Europe/"),
    ),
    "duration": (4096, _TEXTS, _text(parse_duration_ms)),
    "timestamp": (
        4096,
        _TEXTS,
        _text(parse_timestamp, "2026-01-01T00:00:00."),
    ),
    "forwarded for": (
        16_384,
        _TEXTS,
        _text(lambda value: _proxies.client_of("10.0.0.1", value)),
    ),
}
"""The largest input that is measured in bytes, what it is made of, and how it is read."""


def _cost(read: Callable[[bytes], Any], raw: bytes, *, tries: int = 3) -> float:
    """CPU seconds of one reading: the least of some tries."""

    def spend(times: int) -> float:
        began = time.thread_time()
        for _ in range(times):
            with suppress(Exception):  # a refusal costs, too
                read(raw)
        return time.thread_time() - began

    times = 1
    while (spent := spend(times)) < _LEAST_S:
        times *= 4
    return min([spent, *(spend(times) for _ in range(tries - 1))]) / times


def _filled(pieces: tuple[bytes, ...], size: int) -> bytes:
    block = b"".join(pieces)
    return block * (size // len(block) // 2 * 2)  # even: pairs of backslashes are whole


def _superlinear(
    read: Callable[[bytes], Any], pieces: tuple[bytes, ...], size: int
) -> tuple[float, float] | None:
    """Return both costs when the larger input costs more than it may, in each of three rounds."""
    for tries in (1, 3, 9):
        small = _cost(read, _filled(pieces, size // TIMES), tries=tries)
        large = _cost(read, _filled(pieces, size), tries=tries)
        if large <= TIMES * _MOST_PER_BYTE * small:
            return None
    return small, large


@pytest.mark.parametrize("name", PARSERS)
def test_cost_grows_no_faster_than_the_input(name: str) -> None:
    size, pieces, read = PARSERS[name]
    slow = {
        piece: costs
        for piece in pieces
        if (costs := _superlinear(read, (piece,), size)) is not None
    }
    assert not slow


@pytest.mark.parametrize("tail", [b"-", b"+.", b"e"])
def test_numbers_cost_no_more_when_they_may_have_more_digits(tail: bytes) -> None:
    """A run that no number is, before something else: it was searched again from each byte."""
    raw = ((tail * 32_766)[:32_766] + b",") * 4  # the comma is next to the end of each chunk

    def read(digits: int) -> Callable[[bytes], Any]:
        return lambda text: scan(text, depth=64, digits=digits)

    for tries in (1, 3, 9):
        few, many = (
            _cost(read(4300 // TIMES), raw, tries=tries),
            _cost(read(4300), raw, tries=tries),
        )
        if many <= _MOST_PER_BYTE * few:
            return
    pytest.fail(f"{few} s, and {many} s with {TIMES} times the digits")


@pytest.mark.soak
def test_no_mixture_costs_more_than_its_size_or_holds_the_event_loop() -> None:
    """Random mixtures of two or three pieces, each parser's for a minute. Prints the longest."""
    random = Random(20_261_126)
    longest: dict[str, tuple[float, tuple[bytes, ...]]] = {}
    for name, (size, pieces, read) in PARSERS.items():
        end = time.monotonic() + 60
        while time.monotonic() < end:
            mixture = tuple(random.choices(pieces, k=random.choice((2, 3))))
            assert _superlinear(read, mixture, size) is None, (name, mixture)
            cost = _cost(read, _filled(mixture, size), tries=2)
            if cost >= _LONGEST_TURN_S:
                cost = _cost(read, _filled(mixture, size), tries=20)
            if size > LARGE:
                continue  # read in a thread, in small steps
            longest[name] = max(longest.get(name, (0.0, ())), (cost, mixture))
    for name, (cost, mixture) in sorted(longest.items(), key=lambda item: -item[1][0]):
        print(f"{cost * 1000:8.2f} ms  {name}  {mixture!r}")
    assert {name: found for name, found in longest.items() if found[0] >= _LONGEST_TURN_S} == {}


def test_every_piece_is_used_once() -> None:
    for pieces in (JSON, TEXTS):
        assert not [a for a, b in itertools.combinations(pieces, 2) if a == b]
