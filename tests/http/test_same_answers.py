"""The fast lane and hypercorn alone give the same answers to the same bytes.

Whatever is malformed, ambiguous or merely unusual is refused, or served, by both alike.
"""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.http.two_entry_points import (
    LAST,
    MAX_BODY,
    End,
    TwoEntryPoints,
    ends_in,
    masked,
    two_entry_points,
)

ID = "01962222-bbbb-7ccc-8ddd-eeeeeeeeeeee"
# Slow is the machine, not the code: hypothesis must not judge by the clock.
CASES = settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[*HealthCheck],
    derandomize=True,
    database=None,
)


@pytest.fixture(scope="module")
def entry_points(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoEntryPoints]:
    with two_entry_points(tmp_path_factory.mktemp("entry_points")) as running:
        yield running


def check(entry_points: TwoEntryPoints, *pieces: bytes) -> bytes:
    """Check that both entry points send the same response, and return it."""
    first, second = entry_points.answers(*pieces)
    assert first == second, pieces
    return first


def post(path: str, body: Any, *headers: str) -> bytes:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(raw)}", *headers]
    if not any(header.lower().startswith("content-type") for header in headers):
        lines.append("Content-Type: application/json")
    return "\r\n".join([*lines, "", ""]).encode() + raw


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


ENQUEUE = post("/ojs/v1/jobs", {"type": "t", "args": [1, "é"]}, "Content-Type: application/json")
FETCH = post("/ojs/v1/workers/fetch", {"queues": ["default"], "worker_id": "w"})
ACK = post("/ojs/v1/workers/ack", {"job_id": ID})
NACK = post("/ojs/v1/workers/nack", {"job_id": ID, "error": {"message": "no"}})
BEAT = post("/ojs/v1/workers/heartbeat", {"worker_id": "w", "active_jobs": [ID]})
BATCH = post("/ojs/v1/jobs/batch", {"jobs": [{"type": "t", "args": []}] * 3})
GET = get(f"/ojs/v1/jobs/{ID}")
CHUNKED = (
    b"POST /ojs/v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
    b'9\r\n{"type":"\r\ne\r\nt","args":[1]}\r\n0\r\n\r\n'
)
PLAIN = {
    "enqueue": ENQUEUE,
    "fetch": FETCH,
    "ack": ACK,
    "nack": NACK,
    "beat": BEAT,
    "batch": BATCH,
    "get": GET,
}


def test_the_lifecycle_of_a_job_is_the_same_at_both_entry_points(
    entry_points: TwoEntryPoints,
) -> None:
    answer = check(entry_points, ENQUEUE + FETCH + GET + FETCH + ACK + NACK + BEAT + BATCH + LAST)
    assert answer.count(b"HTTP/1.1 ") == 9
    assert answer.startswith(b"HTTP/1.1 201 ")


@pytest.mark.parametrize("name", PLAIN)
def test_a_request_split_at_any_byte(entry_points: TwoEntryPoints, name: str) -> None:
    """One connection, on which each request is cut one byte later than the one before."""
    request = PLAIN[name]
    cuts = range(1, len(request))
    pieces = [request[cut - 1 :] + request[:cut] for cut in cuts]
    pieces[0] = request[:1]
    answer = check(entry_points, *pieces, request[cuts[-1] :] + LAST)
    assert answer.count(b"HTTP/1.1 ") == len(cuts) + 1


@pytest.mark.parametrize("request_", [ENQUEUE, GET, CHUNKED], ids=["enqueue", "get", "chunked"])
def test_slow_bytes(entry_points: TwoEntryPoints, request_: bytes) -> None:
    answer = check(entry_points, *(bytes([byte]) for byte in request_ + LAST))
    assert b"the-last" in answer


def test_pipelined_requests_are_answered_in_order(entry_points: TwoEntryPoints) -> None:
    asked = [get(f"/ojs/v1/jobs/{ID}", f"X-Request-Id: number-{n}") for n in range(40)]
    answer = check(entry_points, b"".join(asked) + LAST)
    told = [line for line in answer.split(b"\r\n") if line.startswith(b"x-request-id: number")]
    assert told == [b"x-request-id: number-%d" % n for n in range(40)]


def test_a_list_of_more_than_a_page(entry_points: TwoEntryPoints) -> None:
    """Its cursor tells of the moment at which a lease ends, which differs, and is masked."""
    job = {"type": "t", "args": [], "options": {"queue": "listed"}}
    stored = post("/ojs/v1/jobs/batch", {"jobs": [job] * 15}) * 4
    taken = post("/ojs/v1/workers/fetch", {"queues": ["listed"], "count": 60}) * 2
    pages = [get(f"/ojs/v1/jobs?queue=listed&state={state}") for state in ("available", "active")]
    answer = check(entry_points, stored + pages[0] + taken + pages[1] + get("/ojs/v1/jobs") + LAST)
    assert answer.count(b'"next_cursor":"<cursor ') == 3


def head(*lines: str | bytes, body: bytes = b"") -> bytes:
    raw = [line.encode("latin-1") if isinstance(line, str) else line for line in lines]
    return b"\r\n".join([*raw, b"", b""]) + body


JOB = b'{"type":"t","args":[]}'
HIDDEN = b"GET /ojs/v1/jobs/hidden HTTP/1.1\r\nHost: x\r\n\r\n"
UNTYPED = ("POST /ojs/v1/jobs HTTP/1.1", "Host: x")
TO_JOBS = (*UNTYPED, "Content-Type: application/json")
TO_JOB = f"GET /ojs/v1/jobs/{ID} HTTP/1.1"

CORPUS: dict[str, bytes] = {
    # lengths that two parsers could read differently
    "two lengths": head(*TO_JOBS, "Content-Length: 22", "Content-Length: 0", body=JOB),
    "same length twice": head(*TO_JOBS, "Content-Length: 22", "Content-Length: 22", body=JOB),
    "lengths in a list": head(*TO_JOBS, "Content-Length: 22, 22", body=JOB),
    "different in a list": head(*TO_JOBS, "Content-Length: 22, 0", body=JOB),
    "plus": head(*TO_JOBS, "Content-Length: +22", body=JOB),
    "minus": head(*TO_JOBS, "Content-Length: -22", body=JOB),
    "hexadecimal": head(*TO_JOBS, "Content-Length: 0x16", body=JOB),
    "leading zeros": head(*TO_JOBS, "Content-Length: 00022", body=JOB),
    "a word": head(*TO_JOBS, "Content-Length: many", body=JOB),
    "no digits": head(*TO_JOBS, "Content-Length: ", body=JOB),
    "an enormous length": head(*TO_JOBS, "Content-Length: " + "9" * 30, body=JOB),
    "a large length": head(*TO_JOBS, "Content-Length: 999999999999999", body=JOB),
    "spaced length": head(*TO_JOBS, "Content-Length:   22  ", body=JOB),
    "tabbed length": head(*TO_JOBS, "Content-Length:\t22\t", body=JOB),
    "digits of Unicode": head(*TO_JOBS, "Content-Length: ²²", body=JOB),
    "too long a length": head(*TO_JOBS, f"Content-Length: {MAX_BODY + 1}", body=JOB),
    "too long a body": head(
        *TO_JOBS, f"Content-Length: {MAX_BODY + 1}", body=b" " * (MAX_BODY + 1)
    ),
    "as long as may be": head(*TO_JOBS, f"Content-Length: {MAX_BODY}", body=JOB.ljust(MAX_BODY)),
    "no length": head(*TO_JOBS, body=HIDDEN),
    "get with a body": head(TO_JOB, "Host: x", f"Content-Length: {len(HIDDEN)}", body=HIDDEN),
    # transfer codings
    "chunked": CHUNKED,
    "chunked and a length": head(
        *TO_JOBS, "Transfer-Encoding: chunked", "Content-Length: 5", body=b"0\r\n\r\n" + HIDDEN
    ),
    "length and chunked": head(
        *TO_JOBS, "Content-Length: 5", "Transfer-Encoding: chunked", body=b"0\r\n\r\n" + HIDDEN
    ),
    "identity": head(*TO_JOBS, "Transfer-Encoding: identity", "Content-Length: 22", body=JOB),
    "chunked in capitals": head(*TO_JOBS, "Transfer-Encoding: CHUNKED", body=b"0\r\n\r\n"),
    "chunked twice": head(
        *TO_JOBS, "Transfer-Encoding: chunked", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"
    ),
    "gzip, chunked": head(*TO_JOBS, "Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
    "hidden coding": head(*TO_JOBS, "Transfer-Encoding: xchunked", "Content-Length: 5", body=JOB),
    "coding with a tab": head(*TO_JOBS, "Transfer-Encoding:\tchunked", body=b"0\r\n\r\n"),
    "coding with a blank before the colon": head(
        *TO_JOBS, "Transfer-Encoding : chunked", "Content-Length: 5", body=b"0\r\n\r\n"
    ),
    "coding after a form feed": head(
        *TO_JOBS, "Transfer-Encoding: \x0cchunked", "Content-Length: 5", body=b"0\r\n\r\n"
    ),
    "bad chunk": head(*TO_JOBS, "Transfer-Encoding: chunked", body=b"zz\r\n\r\n"),
    "chunk with an extension": head(
        *TO_JOBS, "Transfer-Encoding: chunked", body=b"16;a=b\r\n" + JOB + b"\r\n0\r\n\r\n"
    ),
    # lines and blanks
    "folded": head(TO_JOB, "Host: x", "X-A: 1", " Content-Length: 5"),
    "folded with a tab": head(TO_JOB, "Host: x", "X-A: 1", "\tmore"),
    "folded at the start": head(TO_JOB, " Host: x"),
    "bare line feeds": f"{TO_JOB}\nHost: x\n\n".encode(),
    "one bare line feed": f"{TO_JOB}\r\nHost: x\nX-A: 1\r\n\r\n".encode(),
    "end by bare line feeds": f"{TO_JOB}\r\nHost: x\n\n".encode(),
    "bare carriage return": f"{TO_JOB}\r\nHost: x\rX-A: 1\r\n\r\n".encode(),
    "carriage return at the end": f"{TO_JOB}\r\nHost: x\r\r\n\r\n".encode(),
    "only carriage returns": f"{TO_JOB}\rHost: x\r\r".encode(),
    "empty lines first": b"\r\n\r\n" + GET,
    "line feed first": b"\n" + GET,
    "blank first": b" " + GET,
    "two blanks": head(f"GET  /ojs/v1/jobs/{ID} HTTP/1.1", "Host: x"),
    "blank at the end": head(TO_JOB + " ", "Host: x"),
    "tab for a blank": head(TO_JOB.replace(" ", "\t"), "Host: x"),
    "blank in the target": head(f"GET /ojs/v1/jobs/{ID} x HTTP/1.1", "Host: x"),
    "blank before the colon": head(TO_JOB, "Host : x"),
    "no colon": head(TO_JOB, "Host: x", "X-A"),
    "no name": head(TO_JOB, "Host: x", ": 1"),
    "a name with a bracket": head(TO_JOB, "Host: x", "X[A]: 1"),
    "a name with an umlaut": head(TO_JOB, "Host: x", "X-Ä: 1"),
    "a value with an umlaut": head(TO_JOB, "Host: x", "X-A: Ä"),
    "no value": head(TO_JOB, "Host: x", "X-A:"),
    "blank value": head(TO_JOB, "Host: x", "X-A:    "),
    "NUL in a value": head(TO_JOB, "Host: x", "X-A: \x00"),
    "NUL in a name": head(TO_JOB, "Host: x", "X\x00A: 1"),
    "NUL in the target": head(f"GET /ojs/v1/jobs/{ID}\x00 HTTP/1.1", "Host: x"),
    "NUL at the start": b"\x00" + GET,
    "DEL in a value": head(TO_JOB, "Host: x", "X-A: \x7f"),
    "tab in a value": head(TO_JOB, "Host: x", "X-A: a\tb"),
    "vertical tab in a value": head(TO_JOB, "Host: x", "X-A: a\x0bb"),
    # hosts
    "no host": head(TO_JOB, "X-A: 1"),
    "no header at all": head(TO_JOB),
    "two hosts": head(TO_JOB, "Host: x", "Host: y"),
    "the same host twice": head(TO_JOB, "Host: x", "Host: x"),
    "empty host": head(TO_JOB, "Host:"),
    "odd host": head(TO_JOB, "Host: a b, c@d"),
    # request lines
    "lower-case method": head(f"get /ojs/v1/jobs/{ID} HTTP/1.1", "Host: x"),
    "unknown method": head(f"FROB /ojs/v1/jobs/{ID} HTTP/1.1", "Host: x"),
    "head": head(f"HEAD /ojs/v1/jobs/{ID} HTTP/1.1", "Host: x"),
    "options": head("OPTIONS /ojs/v1/jobs HTTP/1.1", "Host: x"),
    "delete": head(f"DELETE /ojs/v1/jobs/{ID} HTTP/1.1", "Host: x"),
    "put": head("PUT /ojs/v1/jobs HTTP/1.1", "Host: x", "Content-Length: 22", body=JOB),
    "star": head("GET * HTTP/1.1", "Host: x"),
    "absolute form": head(f"GET http://y/ojs/v1/jobs/{ID} HTTP/1.1", "Host: x"),
    "absolute form of https": head(f"GET https://y/ojs/v1/jobs/{ID} HTTP/1.1", "Host: x"),
    "authority form": head("CONNECT x:80 HTTP/1.1", "Host: x"),
    "relative form": head(f"GET ojs/v1/jobs/{ID} HTTP/1.1", "Host: x"),
    "two slashes": head(f"GET //ojs/v1/jobs/{ID} HTTP/1.1", "Host: x"),
    "slash at the end": head("POST /ojs/v1/jobs/ HTTP/1.1", "Host: x"),
    "dots": head(f"GET /ojs/../ojs/v1/jobs/{ID} HTTP/1.1", "Host: x"),
    "encoded": head(f"GET /ojs/v1/%6aobs/{ID} HTTP/1.1", "Host: x"),
    "encoded slash": head("GET /ojs/v1/jobs/a%2Fb HTTP/1.1", "Host: x"),
    "not UTF-8": head("GET /ojs/v1/jobs/%ff HTTP/1.1", "Host: x"),
    "encoded NUL": head("GET /ojs/v1/jobs/%00 HTTP/1.1", "Host: x"),
    "half an escape": head("GET /ojs/v1/jobs/%4 HTTP/1.1", "Host: x"),
    "query": head(f"GET /ojs/v1/jobs/{ID}?a=b?c HTTP/1.1", "Host: x"),
    "fragment": head(f"GET /ojs/v1/jobs/{ID}#a HTTP/1.1", "Host: x"),
    "quotes": head('GET /ojs/v1/jobs/"<>\\^`{|} HTTP/1.1', "Host: x"),
    "umlaut in the target": head("GET /ojs/v1/jobs/\xe4 HTTP/1.1", "Host: x"),
    "no target": head("GET HTTP/1.1", "Host: x"),
    "no version": head(f"GET /ojs/v1/jobs/{ID}", "Host: x"),
    "version 1.0": head(f"GET /ojs/v1/jobs/{ID} HTTP/1.0", "Host: x"),
    "version 1.0 that stays": head(
        f"GET /ojs/v1/jobs/{ID} HTTP/1.0", "Host: x", "Connection: keep-alive"
    ),
    "version 1.2": head(f"GET /ojs/v1/jobs/{ID} HTTP/1.2", "Host: x"),
    "version 2.0": head(f"GET /ojs/v1/jobs/{ID} HTTP/2.0", "Host: x"),
    "version 0.9": head(f"GET /ojs/v1/jobs/{ID} HTTP/0.9", "Host: x"),
    "version in small letters": head(f"GET /ojs/v1/jobs/{ID} http/1.1", "Host: x"),
    "long version": head(f"GET /ojs/v1/jobs/{ID} HTTP/1.10", "Host: x"),
    # headers that change the connection
    "close": head(TO_JOB, "Host: x", "Connection: close"),
    "close in capitals": head(TO_JOB, "Host: x", "Connection: CLOSE"),
    "keep": head(TO_JOB, "Host: x", "Connection: Keep-Alive"),
    "close in a list": head(TO_JOB, "Host: x", "Connection: te, close"),
    "two connections": head(TO_JOB, "Host: x", "Connection: keep-alive", "Connection: close"),
    "upgrade without a connection": head(TO_JOB, "Host: x", "Upgrade: foo"),
    "connection without an upgrade": head(TO_JOB, "Host: x", "Connection: upgrade"),
    "upgrade to something": head(TO_JOB, "Host: x", "Connection: upgrade", "Upgrade: foo"),
    "expect": head(*TO_JOBS, "Expect: 100-continue", "Content-Length: 22", body=JOB),
    "expect much": head(*TO_JOBS, "Expect: 200-ok", "Content-Length: 22", body=JOB),
    # ours
    "long header": head(TO_JOB, "Host: x", "X-A: " + "a" * 20_000),
    "many headers": head(TO_JOB, "Host: x", *(f"X-{n}: {n}" for n in range(1000))),
    "one header often": head(TO_JOB, "Host: x", *(f"X-A: {n}" for n in range(500))),
    "long target": head(f"GET /ojs/v1/jobs/{'a' * 20_000} HTTP/1.1", "Host: x"),
    "a type twice": head(
        *UNTYPED,
        "Content-Type: application/json",
        "Content-Type: text/plain",
        "Content-Length: 22",
        body=JOB,
    ),
    "not JSON": head(*UNTYPED, "Content-Type: text/plain", "Content-Length: 22", body=JOB),
    # what web pages of other sites send
    "no type": head(*UNTYPED, "Content-Length: 22", body=JOB),
    "no type in chunks": head(
        *UNTYPED, "Transfer-Encoding: chunked", body=b"16\r\n" + JOB + b"\r\n0\r\n\r\n"
    ),
    "no type and no body": head(*UNTYPED, "Content-Length: 0"),
    "a type without a body": head(*UNTYPED, "Content-Type: text/plain", "Content-Length: 0"),
    "another origin": head(*TO_JOBS, "Origin: http://y", "Content-Length: 22", body=JOB),
    "its own origin": head(*TO_JOBS, "Origin: http://x", "Content-Length: 22", body=JOB),
    "another site": head(*TO_JOBS, "Sec-Fetch-Site: same-site", "Content-Length: 22", body=JOB),
    "another origin that asks": head(TO_JOB, "Host: x", "Origin: http://y"),
    "a host that a page may have": head(TO_JOB, "Host: y.example"),
    "a host that no page may have": head(TO_JOB, "Host: y.localhost:8080"),
    "a version": head(TO_JOB, "Host: x", "OJS-Version: 1.0"),
    "an unknown version": head(TO_JOB, "Host: x", "OJS-Version: 2.0"),
    "an id": head(TO_JOB, "Host: x", "X-Request-Id: mine"),
    "an odd id": head(TO_JOB, "Host: x", "X-Request-Id: a\tb"),
    "a long id": head(TO_JOB, "Host: x", "X-Request-Id: " + "a" * 300),
    "wrong method": head("POST /ojs/v1/health HTTP/1.1", "Host: x"),
    "any type": head(TO_JOB, "Host: x", "Accept: */*"),
    "the manifest": head("GET /ojs/manifest HTTP/1.1", "Host: x"),
    "nowhere": head("GET /nowhere HTTP/1.1", "Host: x"),
    # other protocols
    "TLS": bytes.fromhex("16030100a5010000a10303") + b"\x00" * 40,
    "SSH": b"SSH-2.0-x\r\n",
    "only a method": b"GET ",
    "half a head": GET[:60],
    "half a body": ENQUEUE[:-5],
}


@pytest.mark.parametrize("name", CORPUS)
def test_unusual_requests(entry_points: TwoEntryPoints, name: str) -> None:
    request = CORPUS[name]
    check(entry_points, request + LAST)
    if ends_in(request) is End.MIDDLE:
        check(entry_points, request)
    check(entry_points, GET + request + LAST)
    middle = len(request) // 2
    check(entry_points, request[:middle], request[middle:] + LAST)


def test_health_has_the_same_headers(entry_points: TwoEntryPoints) -> None:
    for path in ("/health", "/ready", "/ojs/v1/health"):
        one, two = (
            answer.partition(b"content-length")[0]
            for answer in entry_points.answers(get(path, "X-Request-Id: a", "Connection: close"))
        )
        assert one == two
        assert one.startswith(b"HTTP/1.1 200 ")


# -- generated -------------------------------------------------------------------------------

NASTY = [bytes([byte]) for byte in b'\x00\t\n\r\x0b\x0c "%,/:;?\\\x7f\x80\xff09Aa']
NASTY += [b"\r\n", b"\r\n\r\n", b"\r\n ", b"\n\n", b"Content-Length: 3\r\n", b"chunked", b"  "]


@st.composite
def spoilt(draw: st.DrawFn) -> bytes:
    """One or two good requests with a few bytes replaced, put in or taken out."""
    good = st.sampled_from([*PLAIN.values(), CHUNKED, get("/ojs/v1/jobs"), CORPUS["close"]])
    data = b"".join(draw(st.lists(good, min_size=1, max_size=2)))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        taken = draw(st.integers(0, 2))
        data = data[:at] + draw(st.sampled_from([b"", *NASTY])) + data[at + taken :]
    return data


@CASES
@given(spoilt(), st.booleans())
def test_damaged_requests(entry_points: TwoEntryPoints, data: bytes, followed: bool) -> None:
    sent = data + LAST if followed else data
    assume(sent)
    assume(ends_in(sent) is not End.BETWEEN)
    check(entry_points, sent)


METHODS = ["GET", "POST", "PUT", "DELETE", "get", "HEAD", "PATCH", "OPTIONS"]
TARGETS = [
    *("/ojs/v1/jobs", "/ojs/v1/workers/fetch", "/ojs/v1/workers/ack", "/ojs/v1/jobs/batch"),
    *(f"/ojs/v1/jobs/{ID}", f"/ojs/v1/jobs/{ID}/ack", "/ojs/v1/workers/heartbeat"),
    *("/ojs/v1/queues", "/ojs/v1/jobs/x/y/z", "/", "*", "http://x/ojs/v1/jobs", "/ojs/v1/jobs?x"),
]
VERSIONS = ["HTTP/1.1"] * 8 + ["HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "HTTP/1.1 "]
HEADERS = [
    *("Host: x", "Host: x", "Host: y", "host:x", "Accept: */*", "X-A: 1", "X-A: 2", "X-B:"),
    *("Content-Type: application/json", "Content-Type: text/plain", "Connection: keep-alive"),
    *("Connection: close", "Connection: te", "Transfer-Encoding: chunked", "Expect: 100-continue"),
    *("Upgrade: foo", "TE: trailers", "Trailer: X-A", "OJS-Version: 1.0", "OJS-Version: 9"),
    *("Authorization: Bearer x", " folded", "X-C: \x00", "X D: 1", "Cookie: a=b; c=d"),
]
BODIES = [
    *(b"", JOB, b"{}", b"[]", b"null", b"\xff", b'{"queues":["default"]}', b'{"worker_id":"w"}'),
    *(b'{"job_id":"%s"}' % ID.encode(), b'{"jobs":[{"type":"t","args":[]}]}', b"0\r\n\r\n"),
    b" " * (MAX_BODY + 1),
]


@st.composite
def made_up(draw: st.DrawFn) -> bytes:
    """A request of parts that each may be odd."""
    lines = [
        " ".join(draw(st.sampled_from(parts)) for parts in (METHODS, TARGETS, VERSIONS)),
        *draw(st.permutations(["Host: x", *draw(st.lists(st.sampled_from(HEADERS), max_size=3))])),
    ]
    body = draw(st.sampled_from(BODIES))
    off = draw(st.sampled_from([0, 0, 0, 0, 0, 1, -1]))
    if draw(st.integers(0, 9)):
        lines.insert(draw(st.integers(1, len(lines))), f"Content-Length: {len(body) + off}")
    return head(*lines, body=body)


@CASES
@given(st.lists(made_up(), min_size=1, max_size=3))
def test_generated_requests(entry_points: TwoEntryPoints, requests: list[bytes]) -> None:
    sent = b"".join(requests) + LAST
    assume(ends_in(sent) is not End.BETWEEN)
    check(entry_points, sent)


@CASES
@given(st.sampled_from([*PLAIN.values(), CHUNKED]), st.data())
def test_requests_in_pieces(
    entry_points: TwoEntryPoints, request_: bytes, data: st.DataObject
) -> None:
    whole = request_ + LAST
    cuts = sorted(data.draw(st.sets(st.integers(1, len(whole) - 1), max_size=5)))
    edges = [0, *cuts, len(whole)]
    check(entry_points, *(whole[a:b] for a, b in itertools.pairwise(edges)))


def test_the_mask_hides_only_what_changes() -> None:
    page = b'content-length: %d\r\ndate: d\r\n\r\n{"next_cursor":"%b"}'
    for place in (b'[0,1,"","1900000000000",5]', b'[0,1,"","1900000000123",15]'):
        cursor = base64.urlsafe_b64encode(place).rstrip(b"=")
        seen = masked(page % (18 + len(cursor), cursor))
        assert seen == page % (18, b'<cursor [0,1,""]>')
    seen = masked(b"date: Wed, 25 Nov 2026 02:50:00 GMT\r\n{'a':'2026-11-25T02:50:00.000Z'}")
    assert seen == b"date: <date>\r\n{'a':'<time>'}"
