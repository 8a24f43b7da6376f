"""The ACL user of docs/operations.md is enough, and what it lacks is told in one line."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ojs_cluster.redis.acl_errors import AclDenied
from ojs_cluster.redis.durability import Durability
from ojs_cluster.redis.settings import ClientSettings
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.ground.scripts import load_scripts
from ojs_cluster.store.open import open_store
from ojs_cluster.store.operators.operations import rights
from ojs_cluster.store.operators.operations.rights import MissingRights
from tests.operations.test_operations import GUIDE
from tests.store.scripts.test_one_tag import one_life_of_everything, one_life_without_backup
from tests.store.shortcuts import ack, put, take
from tests.support.nodes import ApiNode, scheduler
from tests.support.patience import LONG_S, be_patient
from tests.support.servers import observer, own_server, wait_until

RULES = [
    rule.replace("\\\n", " ").removeprefix("ACL SETUSER ojs ").split()
    for rule in re.findall(r"^ACL SETUSER ojs (?:[^\n]*\\\n)*[^\n]*$", GUIDE, re.MULTILINE)
]
NEEDED, OPTIONAL, EXPORT = RULES
COMMANDS = [word for word in NEEDED if word.startswith("+")]
LATER = {"+asking", "+sunsubscribe", "+wait", "+waitaof"}
"""Rights that a process without durability does not use when it starts."""


@pytest.fixture(params=["standalone", "cluster"])
def servers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Embedded]:
    with own_server(
        tmp_path / "redis", cluster=request.param == "cluster", append_only=True
    ) as running:
        yield running


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    be_patient(monkeypatch)


def set_user(servers: Embedded, *words: str) -> None:
    """As an operator does it, on every node."""
    for node in servers.nodes:
        with node.client() as admin:
            admin.execute_command("ACL", "SETUSER", "ojs", "reset", *words)  # type: ignore[no-untyped-call]


def url(servers: Embedded) -> str:
    return servers.url.replace("redis://", "redis://ojs:PASSWORD@")


def settings(servers: Embedded, **more: Any) -> ClientSettings:
    times = dict.fromkeys(("connect_timeout_s", "reply_timeout_s", "call_timeout_s"), LONG_S)
    return ClientSettings.from_url(url(servers), **{**times, **more})


async def test_the_documented_user_can_do_everything(servers: Embedded) -> None:
    set_user(servers, *NEEDED)
    with observer(servers) as db:
        async with open_store(settings(servers)) as store:
            await one_life_without_backup(store, db)


async def test_with_the_rights_of_exports_it_exports_and_imports(servers: Embedded) -> None:
    set_user(servers, *NEEDED, *EXPORT)
    with observer(servers) as db:
        async with open_store(settings(servers)) as store:
            await one_life_of_everything(store, db)


async def test_the_documented_user_confirms_writes(servers: Embedded) -> None:
    set_user(servers, *NEEDED)
    # On a cluster FSYNC counts replicas too; none is asked for here.
    sure = {"durability": Durability.FSYNC, "durability_replicas": 0, "durability_timeout_s": 20.0}
    async with open_store(settings(servers, **sure)) as store:
        await put(store)
        [job] = await take(store)
        await ack(store, job)


def test_processes_run_as_the_documented_user(servers: Embedded, tmp_path: Path) -> None:
    set_user(servers, *NEEDED)
    node = ApiNode("node", tmp_path, url(servers), workers=1)
    leader = scheduler("scheduler", tmp_path, url(servers))
    with contextlib.ExitStack() as stack:
        stack.callback(node.stop)
        stack.callback(leader.stop)
        leader.start()
        node.start()
        with httpx.Client(base_url=f"{node.url}/ojs/v1", timeout=60) as client:
            options = {"queue": "q", "delay_until": "+PT1S"}
            job = {"type": "t", "args": [], "options": options}
            assert client.post("/jobs", json=job).status_code == 201
            fetch = {"queues": ["q"], "timeout_ms": 30_000}
            fetched: list[dict[str, Any]] = []

            def has_come() -> bool:
                fetched.extend(client.post("/workers/fetch", json=fetch).json()["jobs"])
                return bool(fetched)

            wait_until(has_come, what="the scheduler has promoted the job")
            answer = client.post("/workers/ack", json={"job_id": fetched[0]["id"]})
            assert answer.status_code == 200
        logs = node.process.log_tail(1000) + leader.log_tail(1000)
    assert "Traceback" not in logs
    assert "cannot be used" not in logs
    assert "cannot check maxmemory-policy" in logs


@pytest.fixture(scope="module")
def one_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with own_server(tmp_path_factory.mktemp("rights"), cluster=False, append_only=True) as running:
        yield running


@pytest.mark.parametrize("right", [word for word in COMMANDS if word not in LATER])
async def test_a_missing_command_is_named_with_the_rule_to_add(
    one_server: Embedded, right: str
) -> None:
    set_user(one_server, *(word for word in NEEDED if word != right))
    assert f"run ACL SETUSER ojs {right} there" in await refusal(one_server)


@pytest.mark.parametrize(
    ("rule", "instead"), [("~ojs:*", "~other:*"), ("&ojs:*", "&other:*")], ids=["keys", "channels"]
)
async def test_a_missing_pattern_is_named_with_the_rule_to_add(
    one_server: Embedded, rule: str, instead: str
) -> None:
    set_user(one_server, *(instead if word == rule else word for word in NEEDED))
    assert f"run ACL SETUSER ojs {rule} there" in await refusal(one_server)


@pytest.mark.parametrize(
    ("right", "durability"), [("+wait", Durability.REPLICA), ("+waitaof", Durability.FSYNC)]
)
async def test_confirmations_need_their_command(
    one_server: Embedded, right: str, durability: Durability
) -> None:
    set_user(one_server, *(word for word in NEEDED if word != right))
    assert f"run ACL SETUSER ojs {right} there" in await refusal(one_server, durability=durability)


async def test_several_missing_rights_are_told_at_once(one_server: Embedded) -> None:
    set_user(one_server, *(word for word in NEEDED if word not in ("+hset", "+zadd")))
    text = await refusal(one_server)
    assert "the command HSET, the command ZADD: run ACL SETUSER ojs +hset +zadd there" in text
    assert "\n" not in text


async def refusal(server: Embedded, **more: Any) -> str:
    """What a process says that cannot open its store."""
    with pytest.raises((MissingRights, AclDenied)) as caught:
        async with open_store(settings(server, **more)):
            raise AssertionError("opened")
    return str(caught.value)


def test_a_process_waits_for_a_right_and_says_which_without_a_traceback(
    one_server: Embedded, tmp_path: Path
) -> None:
    set_user(one_server, *(word for word in NEEDED if word != "+zadd"))
    leader = scheduler("scheduler", tmp_path, url(one_server))
    node = ApiNode("node", tmp_path, url(one_server), workers=1)
    said = "refuses user 'ojs' the command ZADD: run ACL SETUSER ojs +zadd there"
    with contextlib.ExitStack() as stack:
        stack.callback(node.stop)
        stack.callback(leader.stop)
        leader.start()
        node.process.start()
        for process in (leader, node.process):
            wait_until(lambda process=process: said in process.log_tail(100), what="it says why")  # type: ignore[misc]
            assert "Traceback" not in process.log_tail(1000)
        set_user(one_server, *NEEDED)
        node.await_ready()
        set_user(one_server, *(word for word in NEEDED if word != "+hset"))
        with httpx.Client(base_url=node.url, timeout=60) as client:
            for members in ({}, {"meta": {"a": 1}, "unique": {"keys": ["type"]}}):
                reply = client.post("/ojs/v1/jobs", json={"type": "t", "args": [], **members})
                assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
        said = "POST /ojs/v1/jobs failed: "
        wait_until(lambda: said in node.process.log_tail(100), what="it says why again")
        assert "Traceback" not in node.process.log_tail(1000)
        set_user(one_server, *NEEDED)


def test_the_start_asks_for_every_command_that_scripts_run() -> None:
    sources = b"\n".join(
        script.source for name, script in load_scripts().items() if name != "rights"
    )
    calls = rb"(?:redis[._]p?call|call_in_slices)\('([A-Z]+)'"
    used = {name.decode() for name in re.findall(calls, sources)}
    assert used == set(rights.SCRIPT_COMMANDS)


def test_the_guide_lists_what_the_start_asks_for_and_optional_rights_apart() -> None:
    asked = {f"+{name.lower()}" for name in (*rights.SCRIPT_COMMANDS, *rights.DIRECT_COMMANDS)}
    assert asked <= set(COMMANDS)
    alone = {"+eval", "+evalsha", "+ping", "+cluster|slots", "+ssubscribe"}
    assert set(COMMANDS) - asked == alone | LATER
    assert OPTIONAL == ["+info", "+role", "+scan", "+client|setname", "+config|get"]
