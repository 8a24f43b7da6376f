"""Fingerprints: what makes jobs the same, and what must not."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ojs_cluster.core.errors import ValidationFailed
from ojs_cluster.core.jobs.envelope import NewJob, parse_job


def job(args: str = "[]", meta: str = "{}", *, type: str = "t", **unique: Any) -> NewJob:
    options = json.dumps({"unique": unique, "queue": unique.pop("queue", "default")})
    text = f'{{"type":"{type}","args":{args},"meta":{meta},"options":{options}}}'
    return parse_job(text.encode())


def mark(args: str = "[]", meta: str = "{}", **members: Any) -> str:
    return job(args, meta, **members).fingerprint


def test_the_fingerprint_is_the_hash_of_the_canonical_dimensions() -> None:
    found = mark('[{"b":1.0,"a":"x"}]', keys=["args", "queue"], queue="mail")
    text = b'{"args":[{"a":"x","b":1}],"queue":"mail","type":"t"}'
    assert found == hashlib.sha256(text).hexdigest()


def test_a_job_without_a_policy_has_none() -> None:
    plain = parse_job(b'{"type":"t","args":[]}')
    assert (plain.unique, plain.fingerprint) == (None, "")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('[{"a":1,"b":2}]', '[ {"b" : 2, "a":1} ]'),
        ("[1.0]", "[1]"),
        ("[1e2]", "[100]"),
        ("[-0]", "[0]"),
        ("[-0.0]", "[0]"),
        ("[2e16]", "[20000000000000000]"),
        ('["e\\u0301"]', '["\\u00e9"]'),
        ('[{"e\\u0301":1}]', '[{"\\u00e9":1}]'),
        ('["\\u0041"]', '["A"]'),
        ('[{"a":1,"a":2}]', '[{"a":2}]'),
        ("[1e400]", "[1E400]"),
        ("[10e399]", "[1e400]"),
        ("[0e-400]", "[0]"),
        ("[10e-401]", "[1e-400]"),
    ],
)
def test_spellings_of_the_same_args_are_the_same(one: str, other: str) -> None:
    assert mark(one, keys=["args"]) == mark(other, keys=["args"])


def test_of_several_objects_the_first_that_has_the_key_counts() -> None:
    keys = ["a", "b"]
    one = mark('[{"x":0},{"a":1},{"a":2,"b":3}]', args_keys=keys)
    assert one == mark('[{"a":1,"b":3}]', args_keys=keys)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("[1]", '["1"]'),
        ("[9007199254740993]", "[9007199254740992]"),
        ("[18446744073709551617]", "[18446744073709551616]"),
        ("[1e400]", "[1e401]"),
        ("[null]", "[]"),
        ("[false]", "[0]"),
        ("[[1,2]]", "[[2,1]]"),
        ('["a"]', '["A"]'),
        ("[1e400]", '["1e400"]'),
        ("[1e400]", '["\\u0000number:1e400"]'),
        ("[1e400]", '["\\u0000\\u0000number:1e400"]'),
        ('["\\u0000"]', '["\\u0000\\u0000"]'),
        ("[1e-400]", "[0]"),
        ("[1e-400]", "[2e-400]"),
    ],
)
def test_different_args_are_different(one: str, other: str) -> None:
    assert mark(one, keys=["args"]) != mark(other, keys=["args"])


def test_only_the_chosen_dimensions_count() -> None:
    assert mark("[1]", queue="a") == mark("[2]", queue="b")
    assert mark(type="a") != mark(type="b")
    assert mark(keys=["queue"], queue="a") != mark(keys=["queue"], queue="b")


def test_chosen_keys_of_args_and_meta_count() -> None:
    by_user: dict[str, Any] = {"keys": ["args"], "args_keys": ["user"]}
    one = mark('[{"user":1,"x":1}]', **by_user)
    assert one == mark('[{"x":2,"user":1}]', **by_user)
    assert one != mark('[{"user":2,"x":1}]', **by_user)
    assert one == mark('["first",{"user":1}]', **by_user)

    by_tenant: dict[str, Any] = {"keys": ["meta"], "meta_keys": ["tenant"]}
    assert mark(meta='{"tenant":"a","trace":1}', **by_tenant) == mark(
        meta='{"tenant":"a","trace":2}', **by_tenant
    )
    assert mark(meta='{"tenant":"a"}', **by_tenant) != mark(meta="{}", **by_tenant)


def test_positions_name_args_too() -> None:
    second: dict[str, Any] = {"keys": ["args"], "args_keys": ["1"]}
    assert mark("[1,2]", **second) == mark("[9,2]", **second)
    assert mark("[1,2]", **second) != mark("[1,3]", **second)


def test_args_keys_without_the_dimension_tell_jobs_apart() -> None:
    assert mark('[{"a":1}]', args_keys=["a"]) != mark('[{"a":2}]', args_keys=["a"])


@pytest.mark.parametrize("args", ["[]", '[{"other":1}]', '["user"]', "[[{}]]"])
def test_a_key_that_args_do_not_have_is_refused(args: str) -> None:
    with pytest.raises(ValidationFailed) as refused:
        job(args, keys=["args"], args_keys=["user"])
    assert refused.value.field == "options.unique.args_keys"


def test_a_producers_own_key_stands_for_args() -> None:
    assert mark("[1]", key="order-1") == mark("[2]", key="order-1")
    assert mark("[1]", key="order-1") != mark("[1]", key="order-2")
    assert mark("[1]", key="order-1", type="a") != mark("[1]", key="order-1", type="b")


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(_json, max_size=4))
def test_any_args_have_one_fingerprint_however_they_are_written(args: list[Any]) -> None:
    def spelled(**how: Any) -> str:
        text = json.dumps(args, **how).replace("Infinity", "1e999")
        try:
            return mark(text, keys=["args"])
        except ValueError:
            return "refused"

    assert spelled() == spelled(indent=2) == spelled(ensure_ascii=False, sort_keys=True)
