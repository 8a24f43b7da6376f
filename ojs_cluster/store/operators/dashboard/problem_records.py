"""The problems of the cluster: since when they are there, and which ones operators have muted.

One API process looks for problems (``http/problem_watch.py``) and records them under the meta tag.
The events ``problem.began`` and ``problem.ended`` come from the script that records them, so each
is announced once, whatever the number of processes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import msgspec

from ojs_cluster.core.errors import InvalidRequest, NotFound
from ojs_cluster.core.timestamps import format_ms
from ojs_cluster.store.context import Store
from ojs_cluster.store.ground.runtime import Arg

LOOK_S: Final = 10.0
"""Time in seconds between two looks."""
ENDED_MS: Final = 35_000
"""A problem ends when it was not found for this time in ms: in three looks."""
SILENT_MS: Final = 35_000
"""Time in ms since the last look after which another process looks."""
MAX_RECORDED: Final = 100
MAX_MUTES: Final = 200
MAX_ID: Final = 600
"""Maximum length of the id of a problem in characters."""
_MAX_TEXT: Final = 1000
_LOOKS: Final = "@"
"""The field of the looks: the time of the last one (ms), that of the last one that could read all
of the cluster, and the process. No id of a problem is like it."""

State = Literal["open", "acknowledged", "muted"]


class ProblemDescription(msgspec.Struct, frozen=True):
    """What is recorded of a problem.

    Attributes:
        rule: what has found it.
        severity: whether jobs do not run because of it (``critical``), or not (``warning``).
        text: what is wrong, in English.
    """

    rule: str
    severity: str
    text: str


class MuteDetails(msgspec.Struct, frozen=True):
    """Why a problem is muted.

    Attributes:
        reason: why; may be empty.
        principal: name of the API key that has muted it.
    """

    reason: str = ""
    principal: str = ""


@dataclass(frozen=True, slots=True)
class Mute:
    """A muted problem.

    Attributes:
        ends_ms: when the mute ends, in Unix milliseconds; None if it ends with the problem.
        details: why it is muted.
    """

    ends_ms: int | None
    details: MuteDetails

    @property
    def ends_at(self) -> str:
        """When the mute ends, as text; empty if it ends with the problem."""
        return "" if self.ends_ms is None else format_ms(self.ends_ms).decode()

    @property
    def state(self) -> Literal["acknowledged", "muted"]:
        """The state of the problem: one that is muted until it ends is acknowledged."""
        return "acknowledged" if self.ends_ms is None else "muted"


@dataclass(frozen=True, slots=True)
class Records:
    """What is recorded.

    Attributes:
        began_ms: when each problem began, in Unix milliseconds, by its id.
        mutes: the mutes by the ids of the problems.
        present: the problems of the last look that could read all of the cluster, and those that
            were found since; empty if no process looks.
    """

    began_ms: Mapping[str, int] = field(default_factory=dict)
    mutes: Mapping[str, Mute] = field(default_factory=dict)
    present: Mapping[str, ProblemDescription] = field(default_factory=dict)


_describe = msgspec.json.Decoder(ProblemDescription)
_details = msgspec.json.Decoder(MuteDetails)


async def should_look(store: Store, identity: str) -> bool:
    """Return whether this process should look for problems: it did, or no other one does.

    Two processes that begin together may both look once. That does no harm.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    meta = store.keys.meta
    value: Any = await store.redis.call(meta.slot, "HGET", meta.problems, _LOOKS, idempotent=True)
    looked_ms, _, known = _split(value or b"")
    return known.decode(errors="replace") == identity or (
        store.clock.now_ms() - looked_ms >= SILENT_MS
    )


async def record_problems(
    store: Store,
    identity: str,
    found: Mapping[str, tuple[int | None, ProblemDescription]],
    *,
    is_complete: bool,
) -> None:
    """Record the problems that were found.

    Args:
        store: the store.
        identity: the name of this process.
        found: by the id of each problem, since when it is there in Unix milliseconds, None for now,
            and its description. The first ``MAX_RECORDED`` are recorded.
        is_complete: whether all of the cluster could be read. Otherwise no problem ends.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    meta = store.keys.meta
    args: list[Arg] = [store.events_arg, identity, ENDED_MS if is_complete else ""]
    for id, (since_ms, description) in list(found.items())[:MAX_RECORDED]:
        short = msgspec.structs.replace(description, text=description.text[:_MAX_TEXT])
        args += [id[:MAX_ID], since_ms or "", msgspec.json.encode(short)]
    await store.run_meta("problems_record", [meta.problems, meta.problem_mutes, meta.events], args)


async def read_records(store: Store) -> Records:
    """Return what is recorded. Damaged entries are left out.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    meta, now_ms = store.keys.meta, store.clock.now_ms()
    fields = await _read(store, meta.problems)
    looked_ms, complete_ms, _ = fields.pop(_LOOKS, (0, 0, b""))
    present = {}
    for id, (_, found_ms, text) in fields.items():
        if found_ms >= complete_ms and now_ms - looked_ms < 2 * SILENT_MS:
            try:
                present[id] = _describe.decode(text)
            except msgspec.MsgspecError:
                continue
    mutes = {}
    for id, (_, ends_ms, text) in (await _read(store, meta.problem_mutes)).items():
        if not ends_ms or ends_ms > now_ms:
            try:
                mutes[id] = Mute(ends_ms or None, _details.decode(text))
            except msgspec.MsgspecError:
                continue
    return Records({id: began_ms for id, (began_ms, _, _) in fields.items()}, mutes, present)


async def count_problems(store: Store) -> Mapping[tuple[str, str, str], int]:
    """Return the numbers of present problems by rule, severity and state.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    records = await read_records(store)
    return Counter(
        (each.rule, each.severity, records.mutes[id].state if id in records.mutes else "open")
        for id, each in records.present.items()
    )


async def mute_problem(store: Store, id: str, mute: Mute) -> None:
    """Mute a problem, which need not be there yet.

    Raises:
        InvalidRequest: there are ``MAX_MUTES`` others.
        BackendUnavailable: Redis did not answer in time.
    """
    if await _mute(store, [id, mute.ends_ms or 0, msgspec.json.encode(mute.details)]) < 0:
        raise InvalidRequest(f"{MAX_MUTES} problems are muted, which is the maximum")


async def unmute_problem(store: Store, id: str) -> None:
    """End the mute of a problem.

    Raises:
        NotFound: it is not muted.
        BackendUnavailable: Redis did not answer in time.
    """
    if not await _mute(store, [id, 0, ""]):
        raise NotFound("muted problem", id)


async def _mute(store: Store, args: Sequence[Arg]) -> int:
    keys = [store.keys.meta.problem_mutes]
    return int(await store.run_meta("problem_mute", keys, [*args, MAX_MUTES]))


async def _read(store: Store, key: bytes) -> dict[str, tuple[int, int, bytes]]:
    """Return both numbers and the text of each field of a hash."""
    flat: Any = await store.redis.call(store.keys.meta.slot, "HGETALL", key, idempotent=True)
    items = iter(flat)
    return {
        field.decode(errors="replace"): _split(value)
        for field, value in zip(items, items, strict=True)
    }


def _split(value: bytes) -> tuple[int, int, bytes]:
    first, second, text = (value.split(b" ", 2) + [b""] * 3)[:3]
    return _number(first), _number(second), text


def _number(text: bytes) -> int:
    return int(text) if text.isdigit() and len(text) < 19 else 0
