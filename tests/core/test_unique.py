from __future__ import annotations

import json
from typing import Any

import pytest

from ojs_cluster.core.errors import ValidationFailed
from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.jobs.unique import UniquePolicy, parse_unique


@pytest.mark.parametrize(
    ("values", "changed"),
    [
        ({}, {}),
        ({"keys": ["args", "type"]}, {"keys": ("type", "args")}),
        ({"keys": ["queue"]}, {"keys": ("type", "queue")}),
        ({"key": ["args"]}, {"keys": ("type", "args")}),
        ({"keys": ["queue"], "key": ["args"]}, {"keys": ("type", "queue")}),
        ({"key": "order-1"}, {"custom_key": "order-1"}),
        ({"key": ["id"]}, {"args_keys": ("id",)}),
        ({"key": ["id", "id", "to"], "args_keys": ["to", "b"]}, {"args_keys": ("to", "b", "id")}),
        ({"key": ["queue", "id"]}, {"keys": ("type", "queue"), "args_keys": ("id",)}),
        ({"keys": ["queue"], "key": ["id"]}, {"keys": ("type", "queue")}),
        ({"period": "PT1H"}, {"period_ms": 3_600_000}),
        ({"within": "PT1H"}, {"period_ms": 3_600_000}),
        ({"period_ms": 1_500}, {"period_ms": 1_500}),
        ({"period_ms": 1_500, "within": "1h"}, {"period_ms": 1_500}),
        ({"period": "PT1S", "period_ms": 1_500}, {"period_ms": 1_000}),
        ({"within": "1h30m"}, {"period_ms": 5_400_000}),
        ({"within": "1.5s"}, {"period_ms": 1_500}),
        ({"period": "PT1S", "within": "1h"}, {"period_ms": 1_000}),
        ({"states": ["available", "completed"]}, {"states": (State.AVAILABLE, State.COMPLETED)}),
        ({"on_conflict": "use_existing"}, {"on_conflict": "ignore"}),
        ({"on_conflict": "replace_except_schedule"}, {"on_conflict": "replace_except_schedule"}),
        (
            {"keys": ["meta"], "meta_keys": ["tenant_id"], "args_keys": ["a", "a"]},
            {"keys": ("type", "meta"), "meta_keys": ("tenant_id",), "args_keys": ("a",)},
        ),
    ],
)
def test_every_spelling_of_a_policy_is_understood(
    values: dict[str, Any], changed: dict[str, Any]
) -> None:
    policy = parse_unique(values)
    assert policy == UniquePolicy(**changed)
    assert parse_unique(json.loads(policy.json())) == policy or policy.custom_key


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"keys": []}, "keys"),
        ({"keys": ["color"]}, "keys"),
        ({"keys": "type"}, "keys"),
        ({"keys": [["type"]]}, "keys"),
        ({"key": ""}, "key"),
        ({"key": 1}, "key"),
        ({"key": []}, "key"),
        ({"key": [""]}, "key"),
        ({"key": ["id", 1]}, "key"),
        ({"keys": ["meta"]}, "meta_keys"),
        ({"meta_keys": []}, "meta_keys"),
        ({"args_keys": [""]}, "args_keys"),
        ({"period": "1h"}, "period"),
        ({"period": 5}, "period"),
        ({"period_ms": 0}, "period_ms"),
        ({"period_ms": True}, "period_ms"),
        ({"period_ms": 1.5}, "period_ms"),
        ({"period_ms": 10**20}, "period_ms"),
        ({"within": "1 hour"}, "within"),
        ({"within": "0s"}, "within"),
        ({"within": "1h!"}, "within"),
        ({"within": "in 1h"}, "within"),
        ({"states": ["running"]}, "states"),
        ({"states": []}, "states"),
        ({"on_conflict": "error"}, "on_conflict"),
        ({"on_conflict": {}}, "on_conflict"),
    ],
    ids=str,
)
def test_a_bad_policy_is_rejected_by_field(values: dict[str, Any], name: str) -> None:
    with pytest.raises(ValidationFailed, match=name) as caught:
        parse_unique(values)
    assert caught.value.field == f"options.unique.{name}"


@pytest.mark.parametrize("period", ["PT0.25S", "PT1.999S"])
def test_a_period_counts_to_the_millisecond(period: str) -> None:
    policy = parse_unique({"period": period})
    length = policy.period_ms
    assert length in (250, 1999)
    assert policy.conflicts("available", length - 1)
    assert not policy.conflicts("available", length)
