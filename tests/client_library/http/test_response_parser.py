"""The parser of responses, without sockets."""

from __future__ import annotations

import pytest

from ojs_client.http import response_parser
from ojs_client.http.response_parser import BadResponse, Response, ResponseParser

HEAD = b"HTTP/1.1 200 OK\r\n"
COMPLETE = {
    "length": (HEAD + b"Content-Length: 5\r\nX-A:  b \r\n\r\nhello", 200, b"hello"),
    "empty": (HEAD + b"content-length: 0\r\n\r\n", 200, b""),
    "no reason": (b"HTTP/1.1 404\r\nContent-Length: 2\r\n\r\nno", 404, b"no"),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
    "not modified": (b"HTTP/1.1 304 x\r\nContent-Length: 9\r\n\r\n", 304, b""),
    "interim": (b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + b"Content-Length: 1\r\n\r\na", 200, b"a"),
    "chunks": (
        HEAD + b"Transfer-Encoding: Chunked\r\n\r\n5;a=b\r\nhello\r\nA\r\n0123456789\r\n0\r\n\r\n",
        200,
        b"hello0123456789",
    ),
    "chunks that look like ends": (
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n4\r\n\r\n\r\n\r\n0\r\nX: trailer\r\n\r\n",
        200,
        b"\r\n\r\n",
    ),
}
MALFORMED = {
    "other protocol": b"HTTP/2 200\r\n\r\n",
    "no HTTP": b"SSH-2.0-OpenSSH\r\n\r\n",
    "upgrade": b"HTTP/1.1 101 Switching\r\n\r\n",
    "no colon": HEAD + b"Content-Length\r\n\r\n",
    "space in a name": HEAD + b"Content-Length : 1\r\n\r\na",
    "folded header": HEAD + b"X: a\r\n b\r\n\r\n",
    "negative length": HEAD + b"Content-Length: -1\r\n\r\n",
    "signed length": HEAD + b"Content-Length: +1\r\n\r\na",
    "two lengths": HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "length and chunks": HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "other coding": HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    "size of a chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
    "end of a chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
    "long size of a chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1" * 5000,
    "long head": HEAD + b"X: " + b"a" * 70_000,
}


@pytest.mark.parametrize("name", COMPLETE)
@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_a_response_may_arrive_in_any_pieces(name: str, step: int) -> None:
    data, status, body = COMPLETE[name]
    parser, found = ResponseParser(), list[Response | None]()
    for start in range(0, len(data), step):
        found.append(parser.feed(data[start : start + step]))
    *before, last = found
    assert before == [None] * len(before)
    assert last is not None
    assert (last.status, last.body, last.keep_alive) == (status, body, True)


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_response_is_refused(name: str) -> None:
    with pytest.raises(BadResponse):
        ResponseParser().feed(MALFORMED[name])


@pytest.mark.parametrize("framing", ["Content-Length: 101", "Transfer-Encoding: chunked", "X: y"])
def test_a_body_that_is_too_long_is_refused(monkeypatch: pytest.MonkeyPatch, framing: str) -> None:
    monkeypatch.setattr(response_parser, "_MAX_BODY_BYTES", 100)
    with pytest.raises(BadResponse, match="body of the response is too long"):
        ResponseParser().feed(HEAD + framing.encode() + b"\r\n\r\n" + b"1\r\na\r\n" * 17)


def test_interim_responses_are_not_kept() -> None:
    parser = ResponseParser()
    for _ in range(10):
        assert parser.feed(b"HTTP/1.1 102 Processing\r\n\r\n" * 1000) is None
    assert parser.feed(HEAD[:5]) is None
    response = parser.feed(HEAD[5:] + b"Content-Length: 1\r\n\r\na")
    assert response is not None
    assert response.body == b"a"


def test_names_of_headers_are_lower_case_and_values_have_no_spaces_around() -> None:
    response = ResponseParser().feed(COMPLETE["length"][0])
    assert response is not None
    assert response.headers == {"content-length": "5", "x-a": "b"}


@pytest.mark.parametrize(
    "data",
    [
        HEAD + b"Content-Length: 1\r\nConnection: close\r\n\r\na",
        b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na",
        HEAD + b"Content-Length: 1\r\n\r\naHTTP/1.1 200 OK\r\n",
    ],
    ids=["close", "1.0", "more bytes"],
)
def test_a_connection_that_cannot_carry_another_request(data: bytes) -> None:
    response = ResponseParser().feed(data)
    assert response is not None
    assert (response.body, response.keep_alive) == (b"a", False)


def test_a_body_without_a_length_lasts_until_the_connection_ends() -> None:
    parser = ResponseParser()
    assert parser.feed(HEAD + b"\r\nhel") is None
    assert parser.feed(b"lo") is None
    response = parser.end()
    assert (response.body, response.keep_alive) == (b"hello", False)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200",
        HEAD + b"Content-Length: 2\r\n\r\na",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n",
    ],
)
def test_a_response_that_ends_too_early_is_refused(data: bytes) -> None:
    parser = ResponseParser()
    assert parser.feed(data) is None
    with pytest.raises(BadResponse):
        parser.end()
