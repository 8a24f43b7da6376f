"""The record of an agent, without Redis."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_cluster.core.agents import record as core
from ojs_cluster.core.agents.record import AgentRecord, Branch, HumanDecision
from ojs_cluster.core.errors import Conflict, InvalidRequest, NotFound

JOB = {"type": "a", "args": ["x"]}


def forked(record: AgentRecord, turns: list[Any], at_turn: int, name: str = "") -> Any:
    return core.fork(record, JOB, turns, at_turn, name)


def test_a_pause_lasts_until_a_decision() -> None:
    paused = core.pause(AgentRecord(), "why")
    with pytest.raises(Conflict, match="paused already"):
        core.pause(paused, "again")
    resumed = core.resume(paused, HumanDecision(False, "no"))
    assert resumed.decision == HumanDecision(False, "no")
    with pytest.raises(Conflict, match="not paused"):
        core.resume(resumed, HumanDecision(True))
    assert core.pause(resumed, "").decision is None
    assert core.decode(core.encode(resumed)) == resumed


def test_a_content_id_is_a_hash_of_the_content() -> None:
    record, first = forked(AgentRecord(), [1, {"b": 1, "a": 2}], 2, "one")
    record, same = forked(record, [1, {"a": 2, "b": 1}, 3], 2, "two")
    record, other = forked(record, [1, {"a": 2, "b": 2}], 2, "three")
    assert first.content_id == same.content_id != other.content_id
    assert len({first.id, same.id, other.id}) == 3
    _, elsewhere = core.fork(AgentRecord(), {**JOB, "args": ["y"]}, [1, {"b": 1, "a": 2}], 2, "")
    assert elsewhere.content_id != first.content_id


def test_only_turns_that_exist_are_forked() -> None:
    with pytest.raises(Conflict, match="has 1 turns, so turn 2"):
        forked(AgentRecord(), [1], 2)
    for at_turn in (-1, core.MAX_TURNS + 1):
        with pytest.raises(InvalidRequest):
            forked(AgentRecord(), [1], at_turn)
    record, _ = forked(AgentRecord(), [], 0, "name")
    with pytest.raises(Conflict, match="a branch 'name' already"):
        forked(record, [], 0, "name")


def merged(strategy: str) -> tuple[Branch, list[str]]:
    record, _ = forked(AgentRecord(), [1, 2, 3], 3, "a")
    record, _ = forked(record, [1, "two", 3, 4], 4, "b")
    _, branch, conflicts = core.merge(record, "a", "b", strategy)
    return branch, conflicts


def test_branches_conflict_where_both_have_different_turns() -> None:
    for strategy, turns in (("ours", 3), ("theirs", 4), ("union", 5)):
        branch, conflicts = merged(strategy)
        assert conflicts == ["turn 2"]
        assert len(branch.digests) == turns
        assert branch.strategy == strategy
    assert len({merged(strategy)[0].content_id for strategy in core.STRATEGIES}) == 3
    record, one = forked(AgentRecord(), [1, 2], 1)
    record, two = forked(record, [1, 2], 2)
    record, branch, conflicts = core.merge(record, one.id, two.content_id, "union")
    assert conflicts == []
    assert branch.parents == (one.id, two.id)
    assert core.merge(record, branch.content_id, one.id, "ours")[2] == []
    with pytest.raises(NotFound):
        core.merge(record, one.id, "unknown", "ours")


def test_a_record_is_bounded() -> None:
    record = AgentRecord()
    for _ in range(core.MAX_BRANCHES):
        record, _ = forked(record, [], 0)
    with pytest.raises(Conflict, match="may have 64 branches"):
        forked(record, [], 0)
    large = AgentRecord()
    for _ in range(3):
        large, _ = forked(large, list(range(1000)), 1000)
    with pytest.raises(Conflict, match="would be larger"):
        core.encode(large)
    assert core.decode(b"{") == core.decode(b"") == AgentRecord()


def test_a_tool_call_is_retried_as_often_as_the_job_allows() -> None:
    options = {"max_attempts": 2, "alternate_provider": "b", "provider": "a"}
    record, provider, number = core.retry_tool(AgentRecord(), options, "c", True)
    assert (provider, number) == ("b", 1)
    record, provider, number = core.retry_tool(record, options, "c", False)
    assert (provider, number) == ("a", 2)
    with pytest.raises(Conflict, match="retried 2 times"):
        core.retry_tool(record, options, "c", True)
    assert core.retry_tool(record, options, "d", True)[2] == 1
    with pytest.raises(Conflict, match="no ext_agent_v2"):
        core.retry_tool(record, {}, "c", True)
    for number in range(core.MAX_TOOL_CALLS - 1):
        record, none, _ = core.retry_tool(record, {"max_attempts": True}, f"x{number}", False)
        assert none is None
    with pytest.raises(Conflict, match="64 tool calls"):
        core.retry_tool(record, {}, "one more", False)
