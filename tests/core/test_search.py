"""The language of searches: what parses, what is refused, and which jobs a search admits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.search import (
    MAX_CHARACTERS,
    MAX_TERMS,
    MAX_VALUES,
    Search,
    parse_search,
)
from ojs_cluster.core.searched_content import (
    MAX_ITEMS,
    MAX_VALUES_READ,
    SearchedContent,
    SearchedJob,
)

NOW = 1_900_000_000_000


@dataclass(frozen=True)
class Job:
    id: str = "0192-a"
    type: str = "mail.send"
    queue: str = "mail"
    state: str = "active"
    priority: int = 5
    attempt: int = 3
    worker: str = "w-1"
    raw: dict[str, bytes] = field(default_factory=dict)

    def members(self) -> Mapping[str, msgspec.Raw]:
        return {name: msgspec.Raw(raw) for name, raw in self.raw.items()}

    def errors(self) -> Iterable[bytes]:
        error = self.raw.get("error")
        return () if error is None else (b"{}", error)


def _is_searched_job(job: Job) -> SearchedJob:
    return job


def parse(text: str) -> Search:
    return parse_search(text, now_ms=NOW)


def admits(text: str, **raw: bytes) -> bool:
    return parse(text).admits(Job(raw=raw))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", True),
        ("  \t ", True),
        ("id:0192-a", True),
        ("id:0192", False),
        ("id:0192*", True),
        ("type:mail.send", True),
        ("type:mail.*", True),
        ("type:mail", False),
        ("type:*", True),
        ('type:"mail.*"', False),
        ("type:sms.*,mail.*", True),
        ("type:sms,push", False),
        ("queue:mail type:mail.send", True),
        ("queue:mail type:sms", False),
        ("queue:mail queue:sms", False),
        ("state:active", True),
        ("state:act*", True),
        ("state:completed,active", True),
        ("state:completed", False),
        ("worker:w-1", True),
        ("worker:w-2", False),
        ("priority:5", True),
        ("priority:=5", True),
        ("priority:-5", False),
        ("priority:4,5", True),
        ("attempt:>3", False),
        ("attempt:>=3", True),
        ("attempt:<3", False),
        ("attempt:<=3", True),
        ("attempt:>-1", True),
        ("attempt:<1,>2", True),
    ],
)
def test_terms_compare_the_small_fields(text: str, expected: bool) -> None:
    assert admits(text) is expected
    assert parse(text).needs_content is False
    assert parse(text).admits_without_content(Job()) is expected


def test_a_job_without_a_worker_has_no_worker_value() -> None:
    assert not parse("worker:*").admits(Job(worker=""))


ARGS = (
    b'[{"user":42,"big":12345678901234567890123,"in":{"a.b":"x","list":["p",1,{"q":2}]}},"plain"]'
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("args.user:42", True),
        ('args.user:"42"', True),
        ("args.user:42.0", False),
        ("args.user:4*", True),
        ("args.big:12345678901234567890123", True),
        ("args.big:12345678901234567890124", False),
        ("args.in.a.b:x", True),
        ("args.in.list:p,zz", True),
        ("args.in.list:2", False),
        ("args.in.list:1", True),
        ("args.in:*", False),
        ("args.0.user:42", True),
        ("args.1:plain", True),
        ("args.1:pl*", True),
        ("args.0:plain", False),
        ("args.99999999999999999999:plain", False),
        ("args.nothing:*", False),
    ],
)
def test_arguments_are_found_by_name_and_by_position(text: str, expected: bool) -> None:
    assert admits(text, args=ARGS) is expected
    assert parse(text).needs_content is True
    assert parse(text).admits_without_content(Job()) is True


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("meta.tenant:acme", True),
        ('meta.tenant:"acme"*', True),
        ("meta.tenant:ac", False),
        ('meta.note:"a b, \\"c\\""', True),
        ('meta.note:"a b"*', True),
        ("meta.on:true", True),
        ("meta.off:null", True),
        ("meta.ünï:ö", True),
        ("tag:urgent", True),
        ("tag:urg*,later", True),
        ("tag:later", False),
        ("error:SmtpError", True),
        ("error:E42", True),
        ('error:"no such host"', True),
        ("error:no*", True),
        ("error:such", False),
        ("tag:urgent meta.tenant:acme queue:mail", True),
        ("tag:urgent meta.tenant:acme queue:sms", False),
    ],
)
def test_meta_tags_and_errors_are_found(text: str, expected: bool) -> None:
    meta = '{"tenant":"acme","note":"a b, \\"c\\"","on":true,"off":null,"ünï":"\\u00f6"}'.encode()
    error = b'{"type":"SmtpError","code":"E42","message":"no such host"}'
    assert admits(text, meta=meta, tags=b'["urgent","x"]', error=error) is expected


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b"[1,", b'{"a":}', b'"a"', b"7", b'["\xff"]'])
def test_damaged_content_matches_nothing(raw: bytes) -> None:
    for text in ("args.a:*", "args.0:\xff", "meta.a:*", "tag:\xff*", "error:x*"):
        assert not admits(text, args=raw, meta=raw, tags=raw, error=raw) or raw in (b'"a"', b"7")


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("timeout", True),
        ("TIMEOUT", True),
        ("smtp_", True),
        ("refused*", True),
        ('"connection REFUSED"', True),
        ('"http://mail"', True),
        ("Net::Timeout", True),
        ("refused by http=", False),
        ("email timeout", True),
        ("queue:mail timeout", True),
        ("mail.send", True),
        ("0190-a", True),
        ("timeout missing", False),
        ("queue:other timeout", False),
        ("secret", False),
        ("worker-1", False),
    ],
)
def test_a_word_is_a_part_of_the_id_the_type_the_queue_or_an_error(
    text: str, is_found: bool
) -> None:
    error = b"""{"type":"Net::Timeout","code":"smtp_down",
        "message":"connection refused by http://mail"}"""
    secret = {"args": b'["secret"]', "meta": b'{"a":"secret"}', "tags": b'["secret"]'}
    job = Job(
        id="0190-abc",
        type="email.send",
        worker="worker-1",
        raw={**secret, "error": error},
    )
    assert parse(text).admits(job) is is_found
    assert parse(text).untimed == text


def test_texts_for_words_are_folded_once_for_all_words() -> None:
    content = SearchedContent(Job(type="Mail.SEND", raw={"error": b'{"type":"STRASSE"}'}))
    texts = content.values("word", ())
    assert list(texts) == ["0192-a", "mail.send", "mail", "strasse"]
    assert content.values("word", ()) is texts
    assert list(content.values("error", ())) == ["STRASSE"], "other fields are exact"
    assert admits("stra\u00dfe", error=b'{"type":"STRASSE"}')


def test_words_alone_are_a_condition() -> None:
    assert not parse("mail").admits_all
    assert parse("mail since:1h").untimed == "mail"
    assert parse("mail").needs_content


def test_times_are_absolute_or_ago_and_the_narrowest_hold() -> None:
    found = parse("since:2h until:2030-01-01T00:00:00Z")
    assert (found.since_ms, found.until_ms) == (NOW - 7_200_000, 1_893_456_000_000)
    assert parse("since:1d since:15m since:90s").since_ms == NOW - 90_000
    assert parse("until:1d until:15m").until_ms == NOW - 86_400_000
    assert parse('since:"2030-01-01T01:00:00+01:00"').since_ms == 1_893_456_000_000


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("*", "has an empty text"),
        ('""', "has an empty text"),
        ('" "', "has an empty text"),
        ('mail"x"', "needs a blank before"),
        ('"open', "open quote"),
        ('"a",b', "has no field"),
        ("queue: mail", "has no value"),
        ("queue:", "has no value"),
        ("queue:a,", "has no value"),
        ("queue:,a", "has no value"),
        ('queue:"a', "open quote"),
        ('queue:"a"b', "needs a blank or a comma"),
        ('queue:a"b"', "needs a blank or a comma"),
        ("colour:red", "unknown field 'colour'"),
        ("http://host", "quote a text that has a colon"),
        ("queue.x:red", "unknown field 'queue.x'"),
        ("args:1", "needs a name after 'args.'"),
        ("args.:1", "has no field"),
        ("args..a:1", "needs a name after 'args.'"),
        ("args.a.b.c.d.e.f.g:1", "names in a path"),
        ("state:running", "names no state"),
        ("attempt:x", "needs a number"),
        ("attempt:3*", "needs a number"),
        ("attempt:>", "needs a number"),
        ("priority:1.5", "needs a number"),
        ("priority:12345678901", "needs a number"),
        ("since:yesterday", "needs one time"),
        ("since:1h,2h", "needs one time"),
        ("since:+PT5S", "needs one time"),
        ("since:2h*", "needs one time"),
        ("QUEUE:a", "has no field"),
        ("-queue:a", "has no field"),
        ("queue=a", "has no field"),
        ("Queue==a", "has no field"),
        ("state!=active", "or quote a text"),
        ("attempt>3", "has no field"),
        ("priority<=2", "has no field"),
        ("args.user=42", "has no field"),
        ("group_id:a", "unknown field 'group_id'"),
        ("group_id.x:a", "unknown field 'group_id.x'"),
        ("group-2:a", "unknown field 'group-2'"),
        ("queue:a " * (MAX_TERMS + 1), "terms"),
        ("queue:" + ",".join("a" for _ in range(MAX_VALUES + 1)), "values"),
        ("queue:" + "a" * MAX_CHARACTERS, "characters"),
    ],
)
def test_what_is_no_search_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        parse(text)
    assert reason in str(raised.value)
    assert raised.value.details["field"] == "query"


def test_exact_values_are_those_that_all_terms_of_a_field_allow() -> None:
    assert parse("queue:a,b queue:b,c").exact_values("queue") == frozenset("b")
    assert parse("queue:a queue:b").exact_values("queue") == frozenset()
    assert parse("queue:a*").exact_values("queue") is None
    assert parse("queue:a* queue:ab").exact_values("queue") == frozenset({"ab"})
    assert parse("type:a").exact_values("queue") is None
    assert parse("worker:w").has_field("worker")
    assert not parse("worker:w").has_field("queue")


@given(st.text(max_size=60))
def test_any_text_is_a_search_or_is_refused(text: str) -> None:
    try:
        found = parse(text)
    except InvalidRequest:
        return
    found.admits(Job(raw={"args": ARGS}))


@given(st.text(min_size=1, max_size=40))
def test_any_value_can_be_quoted(value: str) -> None:
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    assert parse(f'queue:"{quoted}"').admits(Job(queue=value))
    assert not parse(f'queue:"{quoted}"').admits(Job(queue=value + "x"))
    assert parse(f'queue:"{quoted}"*').admits(Job(queue=value + "x"))


@dataclass(frozen=True)
class CountedJob(Job):
    read: list[str] = field(default_factory=list)

    def members(self) -> Mapping[str, msgspec.Raw]:
        self.read.append("members")
        return super().members()


def test_content_is_read_once_for_all_terms() -> None:
    job = CountedJob(raw={"args": b'[{"a":1,"b":2}]', "meta": b'{"c":3,"d":4}'})
    assert parse("args.a:1 args.b:2 args.0.a:1 meta.c:3 meta.d:4 queue:mail").admits(job)
    assert job.read == ["members"]


def numbers(count: int) -> bytes:
    return b"[" + b",".join(b"7" for _ in range(count)) + b"]"


def test_arrays_and_objects_are_searched_up_to_a_number_of_items() -> None:
    most, more = numbers(MAX_ITEMS), numbers(MAX_ITEMS + 1)
    assert admits("args.0:7", args=most)
    assert not admits("args.0:7", args=more)
    for raw, expected in ((most, True), (more, False)):
        assert admits("args.a:7", args=b'[{"a":%b}]' % raw) is expected
        assert admits("meta.a:7", meta=b'{"a":%b}' % raw) is expected
        assert admits("tag:7", tags=raw) is expected
    for count, expected in ((MAX_ITEMS - 1, True), (MAX_ITEMS, False)):
        rest = b"".join(b',"m%d":0' % number for number in range(count))
        assert admits("meta.a:7", meta=b'{"a":7%b}' % rest) is expected


def test_a_term_is_compared_with_a_number_of_values() -> None:
    half = MAX_VALUES_READ // 2
    first, rest = numbers(half + 1), numbers(half - 2)
    for text, expected in (('"x"', True), ('7,"x"', False)):
        second = b"[%b,%b]" % (rest[1:-1], text.encode())
        args = b'[{"a":%b},{"a":%b}]' % (first, second)
        assert admits("args.a:7", args=args)
        assert admits("args.a:x", args=args) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("type:* queue:* id:* state:*", True),
        ('type:mail,""*', True),
        ("type:a*", False),
        ("type:* state:completed", False),
        ("type:* since:1h", False),
        ("tag:*", False),  # a job may have no tag, worker, error or member
        ("worker:*", False),
        ("error:*", False),
        ("args.user:*", False),
        ("priority:0", False),
    ],
)
def test_a_search_that_every_job_matches_is_no_condition(text: str, expected: bool) -> None:
    assert parse(text).admits_all is expected
