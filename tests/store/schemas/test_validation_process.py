"""The child process that validates what may take long."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from ojs_cluster.core.errors import ValidationBusy
from ojs_cluster.store.ground.process_state import validation_child, validation_process
from ojs_cluster.store.ground.process_state.validation_process import Outcome, ValidationProcess
from tests.scheduler.running import eventually
from tests.server.programs import pid_exists
from tests.store.schemas import bad_machine_child

QUICK = {"items": {"type": "integer"}}
ENDLESS: dict[str, Any] = {"items": {"multipleOf": 5e-324}}
"""The library compares a number of 4000 digits with this one in milliseconds."""
LONG = [10**3999 + n for n in range(250)]


@pytest.fixture
async def process() -> AsyncIterator[ValidationProcess]:
    found = ValidationProcess()
    yield found
    await found.close()


async def check(process: ValidationProcess, schema: Any, args: Any) -> Outcome:
    return await process.check(json.dumps(schema).encode(), json.dumps(args).encode())


def pid_of(process: ValidationProcess) -> int:
    assert process._process is not None
    return process._process.pid


async def test_it_validates_like_the_process_itself(process: ValidationProcess) -> None:
    assert await check(process, QUICK, [1, 2]) == Outcome([], in_time=True)
    outcome = await check(process, QUICK, [1, "a", "b"])
    assert [each.pointer for each in outcome.problems] == ["/args/1", "/args/2"]
    first = pid_of(process)
    assert "cannot be used" in (await check(process, {"type": "x"}, [])).problems[0].message
    assert pid_of(process) == first


async def test_a_validation_without_end_is_killed_and_the_next_one_works(
    process: ValidationProcess,
) -> None:
    await check(process, QUICK, [1])
    first = pid_of(process)
    outcome = await check(process, ENDLESS, LONG)
    assert not outcome.in_time
    assert "too large to be validated" in outcome.problems[0].message
    assert not pid_exists(first)
    assert await check(process, QUICK, [1]) == Outcome([], in_time=True)


async def test_a_child_that_does_nothing_is_killed_too(
    process: ValidationProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    await check(process, QUICK, [1])
    monkeypatch.setattr(validation_process, "_REPLY_S", 0.1)
    first = pid_of(process)
    os.kill(first, signal.SIGSTOP)
    with pytest.raises(ValidationBusy, match="try again"):
        await check(process, QUICK, [1])
    assert not pid_exists(first)


async def test_a_client_that_disconnects_leaves_no_reply_behind(process: ValidationProcess) -> None:
    await check(process, QUICK, [1])
    os.kill(pid_of(process), signal.SIGSTOP)
    with trio.move_on_after(0.1):
        await check(process, QUICK, ["a"])
    assert await check(process, QUICK, [1]) == Outcome([], in_time=True)


async def test_a_child_that_ended_is_replaced(process: ValidationProcess) -> None:
    await check(process, QUICK, [1])
    os.kill(pid_of(process), signal.SIGKILL)
    assert await check(process, QUICK, [1]) == Outcome([], in_time=True)


@pytest.fixture
def on_a_bad_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start children that ``bad_machine_child`` describes."""
    monkeypatch.setattr(validation_process, "_MODULE", bad_machine_child.__name__)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))


@pytest.mark.usefixtures("on_a_bad_machine")
async def test_args_are_not_too_large_because_every_child_was_killed(
    process: ValidationProcess,
) -> None:
    with pytest.raises(ValidationBusy, match="try again"):
        await check(process, QUICK, [1, bad_machine_child.KILLED])
    assert await check(process, QUICK, [1]) == Outcome([], in_time=True)


@pytest.mark.usefixtures("on_a_bad_machine")
async def test_a_mismatch_is_sure_although_its_explanation_was_killed(
    process: ValidationProcess,
) -> None:
    outcome = await check(process, QUICK, ["a", bad_machine_child.KILLED_LATER])
    assert "do not match" in outcome.problems[0].message


@pytest.mark.usefixtures("on_a_bad_machine")
async def test_a_slow_processor_compiles_a_schema(process: ValidationProcess) -> None:
    slow = {**QUICK, "title": bad_machine_child.SLOW}
    assert await check(process, slow, [1]) == Outcome([], in_time=True)
    assert (await check(process, slow, ["a"])).problems[0].pointer == "/args/0"


async def test_only_some_validations_wait(process: ValidationProcess) -> None:
    refused = 0

    async def one() -> None:
        nonlocal refused
        try:
            await check(process, QUICK, [1])
        except ValidationBusy:
            refused += 1

    async with trio.open_nursery() as nursery:
        for _ in range(validation_process.MAX_WAITING + 5):
            nursery.start_soon(one)
    assert refused == 5


async def test_a_child_that_cannot_be_started_refuses_what_may_be_repeated(
    process: ValidationProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/absent/python")
    with pytest.raises(ValidationBusy, match="try again"):
        await check(process, QUICK, [1])
    monkeypatch.undo()
    monkeypatch.setattr(validation_process, "_MODULE", "absent_module")
    with pytest.raises(ValidationBusy, match="try again"):
        await check(process, QUICK, [1])


async def test_the_child_has_no_secrets_and_little_memory(
    process: ValidationProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OJS_API_KEY", "a-secret-key")
    await check(process, QUICK, [1])
    of_child = Path(f"/proc/{pid_of(process)}")
    names = {
        each.split(b"=")[0].decode() for each in (of_child / "environ").read_bytes().split(b"\0")
    }
    # Python itself may add the variable of its locale.
    assert names <= {"PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LC_CTYPE", ""}
    limits = (of_child / "limits").read_text()
    assert (of_child / "oom_score_adj").read_text() == "1000\n"
    assert str(validation_child.MEMORY_BYTES) in limits.split("Max address space")[1][:40]


async def test_the_child_ends_with_its_parent(process: ValidationProcess) -> None:
    await check(process, QUICK, [1])
    pid = pid_of(process)
    assert process._process is not None
    assert process._process.stdin is not None
    await process._process.stdin.aclose()  # as the kernel does when the parent was killed
    await eventually(lambda: not pid_exists(pid))
    with suppress(trio.ClosedResourceError):
        await check(process, QUICK, [1])
