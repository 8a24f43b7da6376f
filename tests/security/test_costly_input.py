"""Small requests that once kept a process busy for seconds, or made a page unreadable for others.

CPU time is bounded with a wide margin: each of these took ten times the bound, or more.
"""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import trio

from ojs_cluster.core.errors import ValidationFailed
from ojs_cluster.core.indexed_fields import MAX_MEMBER_BYTES, indexed_values, parse_indexed_fields
from ojs_cluster.core.jobs.envelope import parse_job
from ojs_cluster.core.payload_limits import DEFAULT_LIMITS
from tests.http.api import Api

_UNIQUE = b'"options":{"unique":{"keys":["args"]}}'
_ROOM = DEFAULT_LIMITS.fingerprint_bytes - 100


def _unique(args: bytes) -> bytes:
    return b'{"type":"t","args":[%b],%b}' % (args, _UNIQUE)


def _repeated(piece: bytes, size: int = _ROOM) -> bytes:
    return b",".join([piece] * (size // (len(piece) + 1)))


def _cpu_s(body: bytes) -> float:
    began = time.process_time()
    parse_job(body)
    return time.process_time() - began


@pytest.mark.parametrize("mark", ["\u0301", "\u0344", "\u0f73"])
def test_long_runs_of_combining_marks_are_refused_before_they_are_sorted(mark: str) -> None:
    """336 KB of them took 22 s to sort. Some of the marks decompose into several."""
    text = ("a" + mark * 40_000).encode()[:_ROOM].decode("utf-8", "ignore")
    body = _unique(json.dumps(text, ensure_ascii=False).encode())
    with pytest.raises(ValidationFailed, match="combining characters in a row"):
        parse_job(body)


def test_text_in_many_scripts_is_stream_safe() -> None:
    words = ["e\u0301", "한국어", "ห้องน้ำ", "Tiếng Việt", "नमस्ते", "עִבְרִית", "\ufdfa"]
    words.append("a" + "\u0301" * 30)
    assert parse_job(_unique(json.dumps(words, ensure_ascii=False).encode())).fingerprint


@pytest.mark.parametrize(
    "piece",
    [b"1e308", b"-1.7e308", b"1", b"[]", b"{}", b'""', b"9007199254740993", '"한\u0301"'.encode()],
)
def test_the_largest_fingerprint_is_bounded_work(piece: bytes) -> None:
    body = _unique(_repeated(piece))
    assert parse_job(body).fingerprint
    assert min(_cpu_s(body) for _ in range(3)) < 0.5


def test_many_objects_are_searched_once_for_all_names() -> None:
    """A hundred names took a hundred passes over 80 000 objects: 0.14 s."""
    names = [f"a{number}" for number in range(100)]
    last = json.dumps(dict.fromkeys(names, 1)).encode()
    unique = b'"options":{"unique":{"args_keys":%b}}' % json.dumps(names).encode()
    one = b'{"type":"t","args":[%b],%b}' % (last, unique)
    many = b'{"type":"t","args":[%b%b],%b}' % (b"{}," * 80_000, last, unique)
    assert parse_job(many).fingerprint == parse_job(one).fingerprint
    assert min(_cpu_s(many) for _ in range(5)) < 0.1


@pytest.mark.parametrize(
    ("value", "path", "more"),
    [
        pytest.param(["a"] * 500, "", 0, id="repeated"),
        pytest.param([*["x" * 600] * 3, "a"], "", 0, id="long"),
        pytest.param("a", ".a.b.c.d.e", 1450, id="deep"),
    ],
)
def test_the_index_of_the_search_reads_a_bounded_part_of_a_job(
    value: Any, path: str, more: int
) -> None:
    """A job of 100 KB took 0.1 s: repeated values and long ones did not count."""
    numbers = range(8)
    fields = parse_indexed_fields(",".join(f"meta{path}.m{n}" for n in numbers))
    meta: dict[str, Any] = {f"m{n}": value for n in numbers} | {f"k{n}": 1 for n in range(more)}
    for name in path.split(".")[:0:-1]:
        meta = {name: meta}
    text = json.dumps(meta, separators=(",", ":")).encode()
    assert 0.8 * MAX_MEMBER_BYTES < len(text) <= MAX_MEMBER_BYTES
    envelope = b'"args":[%b1],"meta":%b' % (b"1," * 70_000, text)
    taken_s = []
    for _ in range(5):
        began = time.process_time()
        assert indexed_values(fields, envelope) == [(field, "a") for field in fields]
        taken_s.append(time.process_time() - began)
    assert min(taken_s) < 0.02


def test_what_is_too_large_to_be_fingerprinted_is_refused_with_the_way_out() -> None:
    large = b'"%b"' % (b"x" * DEFAULT_LIMITS.fingerprint_bytes)
    with pytest.raises(ValidationFailed, match=r"unique\.args_keys") as refused:
        parse_job(_unique(large))
    assert refused.value.details["field"] == "options.unique"
    chosen = b'{"type":"t","args":[{"id":7,"blob":%b}],"options":{"unique":{"args_keys":["id"]}}}'
    assert parse_job(chosen % large).fingerprint


@pytest.mark.parametrize("path", ["/ojs/v1/jobs", "/ojs/v1/cron"])
async def test_costly_values_are_422_and_nothing_is_stored(api: Api, path: str) -> None:
    for args in (b"1" * 4301, b'"%b"' % ("\u0301" * 1000).encode()):
        body = _unique(args)
        if path.endswith("cron"):
            template = b'"job_template":%b' % body
            body = b'{"name":"poison","expression":"* * * * *",%b}' % template
        reply = await api.call("POST", path, body)
        assert (reply.status, reply.json["error"]["code"]) == (422, "validation_error"), reply.json
    assert (await api.get("/ojs/v1/queues")).json["queues"] == []
    assert (await api.get("/ojs/v1/cron")).json["crons"] == []


async def test_a_result_with_a_number_that_clients_cannot_read_is_422(api: Api) -> None:
    job = await api.enqueue(type="t", args=[])
    fetched = await api.post("/ojs/v1/workers/fetch", {"queues": ["default"]})
    lease = fetched.json["jobs"][0]["lease_id"]
    for path in ("/ojs/v1/workers/ack", "/ojs/v1/workers/nack"):
        member = b'"result"' if path.endswith("/ack") else b'"error"'
        body = b'{"job_id":"%b","lease_id":"%b",%b:{"message":"m","n":%b}}' % (
            job["id"].encode(),
            lease.encode(),
            member,
            b"1" * 1001,
        )
        reply = await api.call("POST", path, body)
        assert (reply.status, reply.json["error"]["code"]) == (422, "validation_error")
    assert (await api.get(f"/ojs/v1/jobs/{job['id']}")).json["job"]["state"] == "active"


_SIZE = 15_000_000
LARGE = {
    "empty arrays": b"[]",
    "empty strings": b'""',
    "digits": b"1",
    "keys": b'{"a":""}',
    "deep": b"[" * 50 + b"]" * 50,
    "escapes": b'"%b"' % (b'\\"' * 5000),
}


@pytest.mark.parametrize("kind", LARGE)
@pytest.mark.parametrize(
    ("path", "around"),
    [
        ("/ojs/v1/jobs/batch", b'{"jobs":[%b]}'),
        ("/ojs/v1/jobs/batch", b'{"jobs":[{"type":"t","args":[%b]}]}'),
        ("/ojs/v1/jobs/bulk", b'{"jobs":[%b]}'),
        ("/ojs/v1/workers/ack/batch", b'{"acks":[%b]}'),
        ("/ojs/v1/workflows", b'{"type":"chain","steps":[%b]}'),
    ],
    ids=["jobs", "args", "bulk", "acks", "steps"],
)
async def test_a_large_body_is_read_beside_the_event_loop(
    api: Api, path: str, around: bytes, kind: str
) -> None:
    """15 MB of brackets once blocked all other requests for 4.5 s.

    The loop turns while the body is read: each turn is far shorter than the reading.
    """
    body = around % _repeated(LARGE[kind], _SIZE)
    turns = 0
    done = trio.Event()

    async def turn() -> None:
        nonlocal turns
        while not done.is_set():
            turns += 1
            await trio.sleep(0.001)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(turn)
        await trio.sleep(0.01)
        before = turns
        began = time.process_time()
        reply = await api.call("POST", path, body)
        took_s = time.process_time() - began
        turned = turns - before
        done.set()
    assert 400 <= reply.status < 500
    # 50 ms a turn on average at least; the longest is what ``loadtest.bench.blocking`` prints.
    assert turned >= took_s / 0.05


async def test_a_body_that_no_route_needs_so_large_is_refused_unread(api: Api) -> None:
    body = b'{"worker_id":"w","x":[%b]}' % _repeated(b"[]", 300_000)
    reply = await api.call("POST", "/ojs/v1/workers/heartbeat", body)
    assert (reply.status, reply.json["error"]["details"]["limit"]) == (413, 262_144)
