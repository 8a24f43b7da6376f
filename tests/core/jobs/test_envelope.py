from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ojs_cluster.core.errors import (
    Duplicate,
    InvalidPayload,
    InvalidRequest,
    OJSError,
    PayloadTooLarge,
    Unsupported,
)
from ojs_cluster.core.jobs.envelope import (
    SYSTEM_FIELDS,
    NewJob,
    envelope_head,
    parse_batch,
    parse_job,
)
from ojs_cluster.core.jobs.options import TOP_LEVEL
from ojs_cluster.core.payload_limits import PayloadLimits
from tests.core import json_texts

ID = "019461a8-1a2b-7c3d-8e4f-5a6b7c8d9e0f"


def _body(job: NewJob) -> dict[str, Any]:
    members: dict[str, Any] = json.loads(b"{" + job.body + b"}")
    return members


def test_a_minimal_job_gets_the_defaults() -> None:
    job = parse_job(b'{"type":"email.send","args":[]}')
    assert (job.id, job.type, job.queue, job.priority) == (None, "email.send", "default", 0)
    assert (job.timeout_ms, job.visibility_timeout_ms) == (None, None)
    assert (job.scheduled, job.expires, job.pending) == (None, None, False)
    assert job.body == b'"args":[],"meta":{}'


def test_head_and_body_make_one_json_object() -> None:
    job = parse_job(
        b'{"type":"a.b","args":[1],"options":{"queue":"q-1","priority":-5,"max_attempts":7},"x":null}'
    )
    envelope = json.loads(envelope_head(ID.encode(), b"a.b", b"q-1", b"-5", b"7") + job.body + b"}")
    envelope.pop("retry")
    assert envelope == {
        "specversion": "1.0",
        "id": ID,
        "type": "a.b",
        "queue": "q-1",
        "priority": -5,
        "max_attempts": 7,
        "args": [1],
        "meta": {},
        "x": None,
    }


@given(args=json_texts.arrays, meta=json_texts.objects, unknown=json_texts.values)
def test_what_belongs_to_the_client_is_kept_byte_for_byte(
    args: str, meta: str, unknown: str
) -> None:
    pieces = (args.encode(), meta.encode(), unknown.encode())
    raw = b'{ "type":"t", "args" : %b\n, "meta":%b ,"x_a": %b }' % pieces
    assert parse_job(raw).body == b'"args":%b,"meta":%b,"x_a":%b' % pieces


@given(args=json_texts.arrays, meta=json_texts.objects, unknown=json_texts.values)
def test_batched_jobs_are_kept_byte_for_byte_too(args: str, meta: str, unknown: str) -> None:
    pieces = (args.encode(), meta.encode(), unknown.encode())
    raw = b'{"jobs":[ {"type":"t","args":%b,"meta":%b,"x_a":%b} , {"type":"u","args":[]}]}' % pieces
    first, second = parse_batch(raw)
    assert first.body == b'"args":%b,"meta":%b,"x_a":%b' % pieces
    assert second.type == "u"


@pytest.mark.parametrize(
    "args",
    [
        b"[1,1.0,1.00,-0,1e400,123456789012345678901234567890,0.1e-400]",
        b'["\\u0041","A","\\ud83d\\ude00","\xc3\xa9","e\xcc\x81","\\/"]',
        b'[{"b":1,"a":2,"b":3}]',
        b"[ null,\t[ ] ,\n{ } ]",
    ],
)
def test_spellings_that_decoding_would_lose_survive(args: bytes) -> None:
    job = parse_job(b'{"args":%b,"type":"t"}' % args)
    assert job.body == b'"args":%b,"meta":{}' % args


@given(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=6), st.integers()))
def test_unknown_attributes_survive_under_any_name(attributes: dict[str, int]) -> None:
    known = SYSTEM_FIELDS | TOP_LEVEL | {"type", "args", "id", "meta", "options"}
    unknown = {name: number for name, number in attributes.items() if name not in known}
    raw = json.dumps({**unknown, "type": "t", "args": []}, ensure_ascii=False).encode()
    assert _body(parse_job(raw)) == {"args": [], "meta": {}, **unknown}


@pytest.mark.parametrize("version", [b"3", b'"3"', b"3.0", b'"2.1.0"'])
def test_the_version_attribute_keeps_its_type(version: bytes) -> None:
    job = parse_job(b'{"type":"t","args":[],"version":%b}' % version)
    assert job.body.endswith(b'"version":' + version)


@pytest.mark.parametrize("name", sorted(SYSTEM_FIELDS - {"specversion"}))
def test_a_client_cannot_set_what_the_server_writes(name: str) -> None:
    raw = json.dumps({"type": "t", "args": [], name: "forged"}).encode()
    assert _body(parse_job(raw)) == {"args": [], "meta": {}}


def test_an_escaped_spelling_does_not_smuggle_a_system_field_in() -> None:
    job = parse_job(b'{"type":"t","args":[],"sta\\u0074e":"completed"}')
    assert _body(job) == {"args": [], "meta": {}}


def test_of_a_repeated_attribute_the_last_wins() -> None:
    job = parse_job(b'{"type":"bad type","args":[1],"x":1,"type":"t","args":[2],"x":2}')
    assert (job.type, job.body) == ("t", b'"args":[2],"meta":{},"x":2')


@pytest.mark.parametrize(
    "name",
    ["a", "email.send", "a-b", "l1-rtr-001.x", "a_b.c_1", "a" * 255, "a.b.c.d"],
)
def test_lower_case_dotted_types_are_accepted(name: str) -> None:
    assert parse_job(json.dumps({"type": name, "args": []}).encode()).type == name


def test_an_escaped_type_is_understood() -> None:
    assert parse_job(b'{"type":"email\\u002esend","args":[]}').type == "email.send"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Email.Send",
        "email send",
        "1email.send",
        "email@send!",
        "email.",
        ".email",
        "a..b",
        "a.1b",
        "-a",
        "_a",
        "email.send\n",
        "a" * 256,
        "é",
        1,
        None,
        ["a"],
        {"a": 1},
        True,
    ],
)
def test_any_other_type_is_refused(name: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_job(json.dumps({"type": name, "args": []}).encode())
    assert caught.value.field == "type"


@pytest.mark.parametrize("args", [b"null", b"{}", b'"a"', b"1", b"true"])
def test_args_must_be_an_array(args: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_job(b'{"type":"t","args":%b}' % args)
    assert caught.value.field == "args"


@pytest.mark.parametrize("missing", ["type", "args"])
def test_type_and_args_must_be_there(missing: str) -> None:
    body: dict[str, Any] = {"type": "t", "args": []}
    del body[missing]
    with pytest.raises(InvalidRequest, match=missing) as caught:
        parse_job(json.dumps(body).encode())
    assert caught.value.field == missing


@pytest.mark.parametrize(
    "job_id", ["", ID.upper(), "550e8400-e29b-41d4-a716-446655440000", f"{ID}\n", "x", 7, [], {}]
)
def test_an_id_that_is_no_lower_case_uuid7_is_refused(job_id: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_job(json.dumps({"type": "t", "args": [], "id": job_id}).encode())
    assert caught.value.field == "id"


def test_the_clients_id_is_kept() -> None:
    assert parse_job(b'{"type":"t","args":[],"id":"%b"}' % ID.encode()).id == ID


@pytest.mark.parametrize("meta", [b"[]", b'"a"', b"1"])
def test_meta_must_be_an_object(meta: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_job(b'{"type":"t","args":[],"meta":%b}' % meta)
    assert caught.value.field == "meta"


def test_optional_attributes_may_be_null() -> None:
    job = parse_job(b'{"type":"t","args":[],"id":null,"meta":null,"options":null,"queue":null}')
    assert (job.id, job.queue, job.body) == (None, "default", b'"args":[],"meta":{}')


@pytest.mark.parametrize("version", ["1", "1.0", "1.0.0-rc.1", "1.7"])
def test_specversion_one_is_accepted_in_any_detail(version: str) -> None:
    raw = json.dumps({"type": "t", "args": [], "specversion": version}).encode()
    assert _body(parse_job(raw)) == {"args": [], "meta": {}}


@pytest.mark.parametrize("version", ["2.0.0", "0.2", "10", "", 1, None, {}])
def test_another_specversion_is_unsupported(version: object) -> None:
    with pytest.raises(Unsupported) as caught:
        parse_job(json.dumps({"type": "t", "args": [], "specversion": version}).encode())
    assert caught.value.field == "specversion"


def test_limits_hold_to_the_byte() -> None:
    raw = b'{"type":"t","args":[],"meta":{"a":"xyz"}}'
    assert parse_job(raw, limits=PayloadLimits(envelope_bytes=len(raw), meta_bytes=11))
    with pytest.raises(PayloadTooLarge) as caught:
        parse_job(raw, limits=PayloadLimits(envelope_bytes=len(raw) - 1))
    assert caught.value.details == {"field": "body", "limit": len(raw) - 1}
    with pytest.raises(PayloadTooLarge) as caught:
        parse_job(raw, limits=PayloadLimits(meta_bytes=10))
    assert caught.value.details == {"field": "meta", "limit": 10}


def test_merged_metadata_counts_against_the_limit_of_meta() -> None:
    raw = b'{"type":"t","args":[],"meta":{"a":1},"options":{"metadata":{"b":2}}}'
    assert parse_job(raw, limits=PayloadLimits(meta_bytes=13))
    with pytest.raises(PayloadTooLarge):
        parse_job(raw, limits=PayloadLimits(meta_bytes=12))


def test_the_default_limits_are_those_of_the_specification() -> None:
    largest = 1024 * 1024
    frame = b'{"type":"t","args":["%b"]}'
    fill = largest - len(frame % b"")
    assert parse_job(frame % (b"x" * fill))
    with pytest.raises(PayloadTooLarge):
        parse_job(frame % (b"x" * (fill + 1)))


@pytest.mark.parametrize("raw", [b"", b"[]", b'"x"', b"{", b"not json", b"null"])
def test_a_body_that_is_no_object_is_an_invalid_payload(raw: bytes) -> None:
    for parse in (parse_job, parse_batch):
        with pytest.raises(InvalidPayload) as caught:
            parse(raw)
        assert caught.value.field == "body"


def test_a_batch_keeps_the_order_of_its_jobs() -> None:
    raw = json.dumps({"jobs": [{"type": f"t{n}", "args": [n]} for n in range(100)]}).encode()
    assert [job.type for job in parse_batch(raw)] == [f"t{n}" for n in range(100)]


@pytest.mark.parametrize("raw", [b"{}", b'{"jobs":[]}', b'{"jobs":{}}', b'{"jobs":null}'])
def test_a_batch_needs_jobs(raw: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_batch(raw)
    assert caught.value.field == "jobs"


def test_a_batch_over_its_limit_is_too_large() -> None:
    job = b'{"type":"t","args":[]}'
    assert len(parse_batch(b'{"jobs":[%b]}' % b",".join([job] * 1000))) == 1000
    with pytest.raises(PayloadTooLarge) as caught:
        parse_batch(b'{"jobs":[%b]}' % b",".join([job] * 1001))
    assert caught.value.details == {"field": "jobs", "limit": 1000}


@pytest.mark.parametrize(
    ("bad", "field", "kind"),
    [
        (b"{}", "jobs[1].type", InvalidRequest),
        (b"[]", "jobs[1]", InvalidRequest),
        (b'{"type":"t","args":{}}', "jobs[1].args", InvalidRequest),
        (
            b'{"type":"t","args":[],"options":{"queue":"Q"}}',
            "jobs[1].options.queue",
            InvalidRequest,
        ),
        (b'{"type":"t","args":["%b"]}' % (b"x" * 100), "jobs[1]", PayloadTooLarge),
    ],
)
def test_a_bad_job_fails_the_batch_and_is_named(
    bad: bytes, field: str, kind: type[OJSError]
) -> None:
    raw = b'{"jobs":[{"type":"t","args":[]},%b,{}]}' % bad
    with pytest.raises(kind) as caught:
        parse_batch(raw, limits=PayloadLimits(envelope_bytes=100))
    assert caught.value.details["index"] == 1
    assert caught.value.field == field
    assert str(caught.value) == caught.value.message
    assert caught.value.message.startswith("jobs[1]: ")


def test_a_batch_cannot_hold_one_id_twice() -> None:
    job = b'{"type":"t","args":[],"id":"%b"}' % ID.encode()
    with pytest.raises(Duplicate) as caught:
        parse_batch(b'{"jobs":[%b,{"type":"t","args":[]},%b]}' % (job, job))
    assert caught.value.details == {"id": ID, "index": 2, "field": "jobs[2].id"}


def test_the_depth_limit_is_the_same_alone_and_in_a_batch() -> None:
    deep = b'{"type":"t","args":' + b"[" * 63 + b"]" * 63 + b"}"
    deeper = deep.replace(b"[]", b"[[]]")
    assert parse_job(deep).body == b'"args":%b,"meta":{}' % deep[19:-1]
    assert len(parse_batch(b'{"jobs":[%b]}' % deep)) == 1
    for parse, raw in ((parse_job, deeper), (parse_batch, b'{"jobs":[%b]}' % deeper)):
        with pytest.raises(InvalidPayload, match="nests"):
            parse(raw)


@pytest.mark.parametrize("depth", [0, 501])
def test_a_depth_that_could_not_be_kept_is_no_limit(depth: int) -> None:
    with pytest.raises(ValueError, match="depth"):
        PayloadLimits(depth=depth)


def test_the_deepest_configurable_limit_decodes() -> None:
    raw = b'{"type":"t","args":' + b"[" * 499 + b"]" * 499 + b"}"
    assert parse_job(raw, limits=PayloadLimits(depth=500)).type == "t"
    batch = b'{"jobs":[%b]}' % raw
    assert len(parse_batch(batch, limits=PayloadLimits(depth=500))) == 1
