"""The record of an agent: its pause, its branches, and the tool calls that were retried.

A record is one JSON text in the job. Each change makes a new record from the old one, and is stored
if no other client has changed the record in the meantime. So this module decides everything, and
needs no clock and no Redis.

A branch is the history of turns as it was at the fork. Turn n is the n-th entry of the list
``turns`` in the checkpoint that the job had then. A branch keeps a digest of each turn, so two
branches can be compared turn by turn after the checkpoint has changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Final

import msgspec
import orjson

from ojs_cluster.core.errors import Conflict, InvalidRequest, NotFound

MAX_RECORD: Final = 32 * 1024
"""Maximum size of a record in bytes."""
MAX_BRANCHES: Final = 64
"""Maximum number of branches of an agent."""
MAX_TURNS: Final = 1000
"""Maximum number of turns of a branch."""
MAX_TOOL_CALLS: Final = 64
"""Maximum number of tool calls of an agent that are retried."""
MAX_NAME: Final = 255
"""Maximum number of characters of a branch name and of the id of a tool call."""
STRATEGIES: Final = ("ours", "theirs", "union")
_DIGEST: Final = 16  # hexadecimal digits of the digest of a turn
_DEFAULT_ATTEMPTS: Final = 3  # retries of a tool call if the job names no maximum


class HumanDecision(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a human decided when resuming the agent."""

    approved: bool
    comment: str = ""
    metadata: dict[str, Any] = {}


class Branch(msgspec.Struct, frozen=True, omit_defaults=True):
    """A branch.

    Attributes:
        id: the id, which follows from the content, the name and the number of earlier branches.
        name: the name that the client gave it; empty for none.
        content_id: ``sha256:`` and the hash of the job's type and args and of all turns.
        turns: the digests of the turns, one after the other.
        parents: the ids of the branches that were merged; empty for a fork.
        strategy: how they were merged.
    """

    id: str
    name: str
    content_id: str
    turns: str = ""
    parents: tuple[str, ...] = ()
    strategy: str = ""

    @property
    def digests(self) -> list[str]:
        """The digests of the turns in order."""
        return [self.turns[at : at + _DIGEST] for at in range(0, len(self.turns), _DIGEST)]


class AgentRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """The record.

    Attributes:
        paused: whether the agent is paused.
        reason: why it was paused last.
        decision: the decision that ended the last pause; None before the first one.
        branches: the branches, oldest first.
        retries: how often each tool call was retried.
    """

    paused: bool = False
    reason: str = ""
    decision: HumanDecision | None = None
    branches: tuple[Branch, ...] = ()
    retries: dict[str, int] = {}


_decoder = msgspec.json.Decoder(AgentRecord)


def decode(record: bytes) -> AgentRecord:
    """Return a record from its JSON; an empty one from a damaged text."""
    try:
        return _decoder.decode(record) if record else AgentRecord()
    except ValueError:
        return AgentRecord()


def encode(record: AgentRecord) -> bytes:
    """Return the JSON of a record.

    Raises:
        Conflict: it would be larger than ``MAX_RECORD``.
    """
    text = msgspec.json.encode(record)
    if len(text) > MAX_RECORD:
        raise Conflict(f"the record of the agent would be larger than {MAX_RECORD} bytes")
    return text


def pause(record: AgentRecord, reason: str) -> AgentRecord:
    """Pause the agent.

    Raises:
        Conflict: it is paused.
    """
    if record.paused:
        raise Conflict("the agent is paused already", state="paused")
    return msgspec.structs.replace(record, paused=True, reason=reason, decision=None)


def resume(record: AgentRecord, decision: HumanDecision) -> AgentRecord:
    """Resume the agent with the decision of a human.

    Raises:
        Conflict: it is not paused.
    """
    if not record.paused:
        raise Conflict("the agent is not paused", state="running")
    return msgspec.structs.replace(record, paused=False, decision=decision)


def fork(
    record: AgentRecord, job: dict[str, Any], turns: Sequence[Any], at_turn: int, name: str
) -> tuple[AgentRecord, Branch]:
    """Add a branch that has the first ``at_turn`` turns.

    Args:
        record: the record.
        job: the type and the args of the job.
        turns: the turns of the agent.
        at_turn: number of turns of the branch.
        name: the name of the branch; empty for none.

    Raises:
        Conflict: the agent has fewer turns, or the name is taken, or there are too many branches.
        InvalidRequest: ``at_turn`` is out of range.
    """
    if not 0 <= at_turn <= MAX_TURNS:
        raise InvalidRequest(f"at_turn must be from 0 to {MAX_TURNS}", field="at_turn")
    if at_turn > len(turns):
        raise Conflict(
            f"the checkpoint of the job has {len(turns)} turns, so turn {at_turn} does not exist",
            turns=len(turns),
        )
    if name and any(name in (each.name, each.id) for each in record.branches):
        raise Conflict(f"the agent has a branch '{name}' already")
    kept = turns[:at_turn]
    digests = "".join(_hash(turn)[:_DIGEST] for turn in kept)
    content_id = "sha256:" + _hash({**job, "turns": kept})
    return _with_branch(record, Branch("", name, content_id, digests))


def merge(
    record: AgentRecord, first: str, second: str, strategy: str
) -> tuple[AgentRecord, Branch, list[str]]:
    """Add a branch that is merged from two branches.

    The branches conflict at each turn that both have with different content. ``ours`` takes the
    turns of the first branch, ``theirs`` those of the second, and ``union`` those of the first and
    then those of the second that the first does not have.

    Args:
        record: the record.
        first: the id, the name or the content id of a branch.
        second: the same of another branch.
        strategy: one of ``STRATEGIES``.

    Returns:
        The new record, the merged branch, and the conflicting turns, such as ``turn 3``.

    Raises:
        NotFound: there is no such branch.
        Conflict: there are too many branches, or too many turns.
    """
    ours, theirs = _find(record, first), _find(record, second)
    left, right = ours.digests, theirs.digests
    pairs = enumerate(zip(left, right, strict=False), start=1)
    conflicts = [f"turn {number}" for number, (one, other) in pairs if one != other]
    known = set(left)
    merged = {
        "ours": left,
        "theirs": right,
        "union": [*left, *(digest for digest in right if digest not in known)],
    }[strategy]
    if len(merged) > MAX_TURNS:
        raise Conflict(f"the merged branch would have more than {MAX_TURNS} turns")
    parents = (ours.content_id, theirs.content_id)
    content_id = "sha256:" + _hash({"parents": parents, "strategy": strategy, "turns": merged})
    branch = Branch("", "", content_id, "".join(merged), (ours.id, theirs.id), strategy)
    record, branch = _with_branch(record, branch)
    return record, branch, conflicts


def retry_tool(
    record: AgentRecord, options: dict[str, Any], call_id: str, use_alternate: bool
) -> tuple[AgentRecord, str | None, int]:
    """Count a retry of a tool call.

    Args:
        record: the record.
        options: ``tool_retry`` of the job's ``ext_agent_v2``.
        call_id: the id of the tool call.
        use_alternate: whether the call goes to the alternate provider.

    Returns:
        The new record, the provider to use, None for the one of the call, and the retry's number.

    Raises:
        Conflict: the job names no alternate provider, or no retry is left.
    """
    provider = options.get("alternate_provider") if use_alternate else options.get("provider")
    if use_alternate and not isinstance(provider, str):
        raise Conflict("the job has no ext_agent_v2.tool_retry.alternate_provider")
    most, number = options.get("max_attempts"), record.retries.get(call_id, 0) + 1
    most = most if type(most) is int and most > 0 else _DEFAULT_ATTEMPTS
    if number > most:
        raise Conflict(f"tool call '{call_id}' has been retried {most} times", attempts=most)
    if number == 1 and len(record.retries) >= MAX_TOOL_CALLS:
        raise Conflict(f"{MAX_TOOL_CALLS} tool calls of the agent have been retried")
    retries = {**record.retries, call_id: number}
    shown = provider if isinstance(provider, str) else None
    return msgspec.structs.replace(record, retries=retries), shown, number


def _find(record: AgentRecord, name: str) -> Branch:
    for branch in record.branches:
        if name in (branch.id, branch.content_id) or (branch.name and name == branch.name):
            return branch
    raise NotFound("branch", name[:100])


def _with_branch(record: AgentRecord, branch: Branch) -> tuple[AgentRecord, Branch]:
    if len(record.branches) >= MAX_BRANCHES:
        raise Conflict(f"an agent may have {MAX_BRANCHES} branches")
    number = _hash([branch.content_id, branch.name, len(record.branches)])
    branch = msgspec.structs.replace(branch, id=f"br_{number[:32]}")
    return msgspec.structs.replace(record, branches=(*record.branches, branch)), branch


def _hash(value: Any) -> str:
    """Return the SHA-256 of a JSON value; the order of members does not matter."""
    return sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()
