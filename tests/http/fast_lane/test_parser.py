"""The requests that the fast lane parses, compared with h11, the parser of the hypercorn entry."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ojs_cluster.http.fast_lane.parser import (
    MAX_INCOMPLETE_HEAD,
    HeadCache,
    RequestHead,
    UnsupportedRequest,
    read_head,
)

PLAIN = b"POST /a?b=c HTTP/1.1\r\nHost: x\r\nX-A: 1\r\nContent-Length: 3\r\nX-A:  2 \r\n\r\n"


def test_a_plain_head_is_read() -> None:
    head = read_head(PLAIN + b"{}\nGET")
    assert head == RequestHead(
        method="POST",
        path="/a",
        query="b=c",
        headers={"host": "x", "x-a": "1, 2", "content-length": "3"},
        size=len(PLAIN),
        length=3,
        closes=False,
        repeats=True,
    )


@pytest.mark.parametrize("end", range(len(PLAIN)))
def test_an_incomplete_head_is_waited_for(end: int) -> None:
    assert read_head(PLAIN[:end]) is None


@pytest.mark.parametrize(
    "begun",
    [b"\x16\x03", b"PRI", b"get /", b"GET h", b"GET /\n", b"GET / HTTP/1.1\r\nHost: \xff", b"\r\n"],
)
def test_a_head_that_cannot_become_plain_is_rejected_at_once(begun: bytes) -> None:
    with pytest.raises(UnsupportedRequest):
        read_head(begun)


def test_the_size_of_an_incomplete_head_is_bounded() -> None:
    assert read_head(b"GET /".ljust(MAX_INCOMPLETE_HEAD, b"a")) is None
    with pytest.raises(UnsupportedRequest):
        read_head(b"GET /".ljust(MAX_INCOMPLETE_HEAD + 1, b"a"))
    long = b"GET / HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 40_000 + b"\r\n\r\n"
    head = read_head(long)
    assert head is not None
    assert head.size == len(long)


@pytest.mark.parametrize(
    "line",
    [
        b"Transfer-Encoding: chunked",
        b"Expect: 100-continue",
        b"Upgrade: h2c",
        b"Connection: upgrade",
        b"Connection: close, te",
        b"Host: y",
        b"Content-Length: 0\r\nContent-Length: 0",
        b"Content-Length: 1, 1",
        b"Content-Length: -1",
        b"Content-Length: ",
        b"Content-Length: 1234567890123456",
        b" folded",
        b"X-A: \t",
        b"X-A : 1",
        b"X-A",
    ],
)
def test_a_request_that_two_servers_may_read_differently_is_not_plain(line: bytes) -> None:
    with pytest.raises(UnsupportedRequest):
        read_head(b"POST / HTTP/1.1\r\nHost: x\r\n" + line + b"\r\n\r\n")


def test_a_cached_head_is_not_parsed_again() -> None:
    heads = HeadCache()
    first = heads.read(PLAIN + b"{}\n")
    assert first == read_head(PLAIN)
    assert heads.read(PLAIN + b"another body") is first
    assert heads.read(PLAIN[:-2]) is None
    other = PLAIN.replace(b"X-A: 1", b"X-A: 3")
    assert heads.read(other) == read_head(other)
    with pytest.raises(UnsupportedRequest):
        heads.read(PLAIN.replace(b"X-A: 1", b"X-A: \xff"))
    for n in range(100):
        one = PLAIN.replace(b"X-A: 1", b"X-A: %d" % n)
        assert heads.read(one) == read_head(one)
    assert heads.read(PLAIN) == first
    long = PLAIN.replace(b"X-A: 1", b"X-A: " + b"1" * 5000)
    assert heads.read(long) == read_head(long)


PIECES = [b"GET", b"POST", b" ", b"  ", b"/", b"/a?b", b"HTTP/1.1", b"HTTP/1.0", b"\r\n", b"\n"]
PIECES += [
    b"Host: x",
    b"Host:",
    b"X-A: 1",
    b"Content-Length: 3",
    b"Content-Length: 3 ",
    b"\r\n\r\n",
]
PIECES += [b"Connection: close", b"X-\x80: 1", b"X: \x80", b"abc", b"\x00", b"\t", b":", b"\r"]
STARTS = [b"", b"GET / HTTP/1.1\r\nHost: x\r\n", b"POST /a?b HTTP/1.1\r\nHost: x\r\n"]


@given(st.sampled_from(STARTS), st.lists(st.sampled_from(PIECES), max_size=8))
def test_h11_reads_every_plain_request_in_the_same_way(start: bytes, pieces: list[bytes]) -> None:
    data = start + b"".join(pieces)
    try:
        head = read_head(data)
    except UnsupportedRequest:
        return
    if not data:
        return  # to h11 that is the end of the connection
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    request = connection.next_event()
    if head is None:
        assert request is h11.NEED_DATA
        return
    assert isinstance(request, h11.Request)
    assert request.method.decode() == head.method
    assert request.target.decode().partition("?") == (head.path, head.query and "?", head.query)
    assert {name.decode() for name, _ in request.headers} == set(head.headers)
    assert all(
        value.decode() in head.headers[name.decode()].split(", ") for name, value in request.headers
    )
    assert len(connection.trailing_data[0]) == len(data) - head.size
