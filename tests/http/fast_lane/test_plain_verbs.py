"""Plain requests: they send the same command as the readable path and get the same response."""

from __future__ import annotations

import json
import math
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
import trio

from ojs_cluster.core.access.scopes import (
    ALL_SCOPES,
    Keyring,
    Principal,
    QueuePatterns,
    digest,
)
from ojs_cluster.core.jobs.ids import OrderedIds, new_job_id
from ojs_cluster.http import request_ids
from ojs_cluster.http.access.keys_and_scopes import AccessControl
from ojs_cluster.http.admission import admit
from ojs_cluster.http.app import App
from ojs_cluster.http.dispatch import prepare, run
from ojs_cluster.http.fast_lane import replies
from ojs_cluster.http.fast_lane.parser import read_head
from ojs_cluster.http.fast_lane.plain import fetch as plain_fetch
from ojs_cluster.http.fast_lane.plain import templates
from ojs_cluster.http.fast_lane.plain import verb as plain_verb
from ojs_cluster.http.fast_lane.plain.templates import Template
from ojs_cluster.http.fast_lane.plain.verb import PlainCall
from ojs_cluster.http.fast_lane.plain.verbs import PlainVerbs
from ojs_cluster.http.fast_lane.replies import encode
from ojs_cluster.http.handlers.workers import settle
from ojs_cluster.http.messages import Request
from ojs_cluster.redis.client import Client
from ojs_cluster.redis.connection import RedisConnection
from ojs_cluster.redis.deadline import start_deadline
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.engine.fetch import fetch as store_fetch
from ojs_cluster.store.ground import lease_ids
from ojs_cluster.store.ground.process_state import job_counts
from ojs_cluster.store.ground.settings import StoreSettings
from tests.http.api import Api, open_app, serving, until
from tests.http.fast_lane.test_driver import _waits, ask, lifecycle
from tests.http.fast_lane.test_server import ENQUEUE, connected, read_responses
from tests.http.test_entry_points import request
from tests.store.indexed_jobs import FIELDS
from tests.support.access import accepts
from tests.support.driven import driven

V1 = "/ojs/v1"
PATHS = {
    "enqueue": f"{V1}/jobs",
    "fetch": f"{V1}/workers/fetch",
    "ack": f"{V1}/workers/ack",
}
PLAIN = {
    "enqueue": {"type": "t", "args": []},
    "fetch": {"queues": ["default"]},
    "ack": {"job_id": new_job_id(1, 8, 1_700_000_000_000), "lease_id": "lease"},
}
FUZZED = 400
"""Number of bodies of each verb."""


@pytest.fixture
def quiet_tables(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    # Every two seconds a request has the partition table read again, which takes a task.
    monkeypatch.setattr(api.app.store.partitions, "_next_read_at", math.inf)
    monkeypatch.setattr(api.app.store.partitions, "_unreadable", True)


class BothPaths:
    """Serves a request on the readable path, and compares what the plain path makes of it."""

    def __init__(self, app: App, monkeypatch: pytest.MonkeyPatch) -> None:
        self.app = app
        self.verbs = PlainVerbs(app)
        self._patch = monkeypatch
        self._execute = RedisConnection.execute
        self._new_id, self._new_prefix = OrderedIds.new, lease_ids.new_prefix
        monkeypatch.setattr(job_counts, "_MAX_UNCOUNTED", 10**9)

    async def serve(self, verb: str, body: bytes, *headers: str, query: str = "") -> str:
        """Return how the plain path serves a request: ``plain``, ``resumed`` or ``readable``.

        Raises:
            AssertionError: the command, the response or what is counted differs.
        """
        raw = request("POST", PATHS[verb] + query, None, *headers)
        head = read_head(raw[:-2] + b"Content-Length: %d\r\n\r\n" % len(body))
        assert head is not None
        asked = Request(head.method, head.path, head.query, head.headers, body)
        plain = self.verbs.of(
            asked, admit(self.app, asked), closes=head.closes, repeats=head.repeats
        )
        with self._equal_chances() as (begun, sent):
            call = None
            if plain is not None and self.verbs.serves(plain):
                call = plain.begin(body)
            assert begun == ([] if call is None else [call])
            before = self._counts()
            prepared = prepare(self.app, asked)
            response = await driven(run(self.app, prepared, asked, start_deadline()))
            readable = self._counts()
            if call is None or plain is None:
                return "readable"
            # The readable path may record first that the worker fetches, as it does every 5 s.
            (call.answer,) = [answer for payload, answer in sent if payload == call.payload]
            try:
                page = plain.page(call)
            except ValueError:
                page = None
            if page is None:
                return "resumed"
            expected = encode(response, draining=False, asked_to_close=head.closes)
            assert page == expected
            rendered = encode(call.response(), draining=False, asked_to_close=head.closes)
            assert rendered == expected
            assert (call.response().undo is None) == (response.undo is None)
            added = [late[len(early) :] for early, late in zip(before, readable, strict=True)]
            again = [
                late[len(early) :] for early, late in zip(readable, self._counts(), strict=True)
            ]
            assert added == again
        return "plain"

    def _counts(self) -> list[list[Any]]:
        counts = self.app.store.job_counts
        statuses: list[Any] = []
        for row in self.app.traffic.rows():
            for status, count in row.statuses.items():
                statuses += [(row.template, status)] * count
        return [list(counts._enqueued), list(counts._started), list(counts._completed), statuses]

    @contextmanager
    def _equal_chances(self) -> Iterator[tuple[list[PlainCall], list[tuple[bytes, Any]]]]:
        """Give both paths the same ids and times; yield plain calls, and commands with answers."""
        begun: list[PlainCall] = []
        sent: list[tuple[bytes, Any]] = []
        ids: dict[int, str] = {}
        prefixes: dict[int, bytes] = {}

        def begin(_client: Client, call: PlainCall) -> bool:
            begun.append(call)
            return True

        async def execute(connection: RedisConnection, payload: bytes) -> Any:
            answer = await self._execute(connection, payload)
            sent.append((payload, answer))
            return answer

        def new_id(given: OrderedIds, shard: int, now_ms: int) -> str:
            return ids.setdefault(shard, self._new_id(given, shard, now_ms))

        def new_prefix(shard: Any) -> bytes:
            return prefixes.setdefault(shard.index, self._new_prefix(shard))

        with self._patch.context() as patch:
            patch.setattr(Client, "begin", begin)
            patch.setattr(RedisConnection, "execute", execute)
            patch.setattr(OrderedIds, "new", new_id)
            patch.setattr(store_fetch, "new_prefix", new_prefix)
            patch.setattr(plain_fetch, "new_prefix", new_prefix)
            patch.setattr(plain_verb, "new_request_id", lambda: "req_1")
            patch.setattr(request_ids, "new_request_id", lambda: "req_1")
            patch.setattr(replies, "wall_s", lambda: 1_700_000_000.0)
            yield begun, sent


@pytest.fixture
def both(api: Api, quiet_tables: None, monkeypatch: pytest.MonkeyPatch) -> BothPaths:
    return BothPaths(api.app, monkeypatch)


def mutated(chance: random.Random, body: bytes) -> bytes:
    """Return the body, sometimes with some bytes changed, removed or repeated."""
    if chance.random() < 0.8:
        return body
    at = chance.randrange(len(body) + 1)
    new = chance.choice(
        [b"", b" ", b"\n", b'"', b"}", b"null", b"\\u0000", b"\xff", b"1e400", b","]
    )
    return body[:at] + new + body[at + chance.randrange(3) :]


def dumped(chance: random.Random, members: list[tuple[str, Any]]) -> bytes:
    """Return a JSON object; a member may be repeated, and blanks vary."""
    chance.shuffle(members)
    comma, colon = chance.choice([(",", ":"), (", ", ": "), (" ,\n", "\t:")])
    items = [f"{json.dumps(name)}{colon}{json.dumps(value)}" for name, value in members]
    return mutated(chance, ("{" + comma.join(items) + "}").encode())


TYPES = ["t", "a.b-c_d", "T", "", "a..b", "x" * 255, "x" * 256, 1, None, "t\u00e9", "100%"]
ARGS = [[], [1, "é", {"a": [None]}], ["%b %d %%"], ["x" * 3000], ["x" * 5000], {}, None, [2**70]]
METAS: list[Any] = [{}, {"a": 1}, None, {"tenant_id": "acme"}, {"tenant_id": 5}, [], {"b": "\\u"}]
METAS += [{"ojs_validate": True}, {"c": "x" * 2000}, "x"]
OPTIONS: list[Any] = [
    *({}, None, {"queue": "other"}, {"queue": "BAD"}, {"queue": "spread"}, {"queue": "bounded"}),
    *({"priority": 5}, {"priority": 0}, {"priority": 1000}, {"retry": {"max_attempts": 7}}),
    *({"tags": ["a", "b"]}, {"timeout_ms": 1000}, {"visibility_timeout_ms": 60_000}),
    *({"delay_until": "+PT1H"}, {"expires_at": "2090-01-01T00:00:00Z"}, {"pending": True}),
    *({"unique": {"keys": ["args"], "on_conflict": "ignore"}}, {"rate_limit": {"key": "k"}}),
    *({"metadata": {"m": 1}}, {"unheard": 1}, [], "x", {"retry_policy": {"jitter": False}}),
    {"queue": "other", "tags": ["x" * 600]},
]
OTHERS: list[tuple[str, Any]] = [
    *(("specversion", "1.0"), ("specversion", "1"), ("specversion", "2.0"), ("specversion", 1)),
    *(("queue", "other"), ("priority", 3), ("id", None), ("attempt", 4), ("custom", {"a": 1})),
    *(("id", new_job_id(3, 8, 1_700_000_000_000)), ("type", "again")),
]


def enqueue_body(chance: random.Random) -> bytes:
    usual = chance.random() < 0.7
    members: list[tuple[str, Any]] = [("type", chance.choice(TYPES[:2] if usual else TYPES))]
    members.append(("args", chance.choice(ARGS[:3] if usual else ARGS)))
    if chance.random() < 0.3:
        members.append(("meta", chance.choice(METAS)))
    if chance.random() < 0.7:
        members.append(("options", chance.choice(OPTIONS)))
    if chance.random() < 0.3:
        members.append(chance.choice(OTHERS))
    return dumped(chance, members)


WORKERS = [None, "", "w", "w é", "w%b", 'w"\\', "x" * 255, "x" * 256, "\x07", "\ud800", 4]


def fetch_body(chance: random.Random) -> bytes:
    queues = [["default"]] * 9 + [["other"], ["spread"], ["default", "other"], [], ["BAD"], "x"]
    members: list[tuple[str, Any]] = [("queues", chance.choice(queues))]
    if chance.random() < 0.6:
        members.append(("worker_id", chance.choice(WORKERS)))
    if chance.random() < 0.3:
        members.append(("count", chance.choice([1, 1, 2, 0, -1, None, "1"])))
    if chance.random() < 0.2:
        members.append(("wait_ms", chance.choice([0, None, -1])))
    if chance.random() < 0.2:
        types = [["test.echo"], ["a.b", "test.echo"], None, [], ["BAD"]]
        members.append(("types", chance.choice(types)))
    if chance.random() < 0.2:
        members.append(("visibility_timeout_ms", chance.choice([None, 0, 5000, -1])))
    if chance.random() < 0.1:
        members.append(chance.choice([("pool", "p"), ("tenant", "acme"), ("unheard", 1)]))
    return dumped(chance, members)


def ack_body(chance: random.Random, job: dict[str, Any]) -> bytes:
    other = new_job_id(1, 8, 1_700_000_000_000)
    members: list[tuple[str, Any]] = [
        (chance.choice(["job_id"] * 5 + ["id"]), chance.choice([job["id"]] * 9 + [other, "x", 1]))
    ]
    lease = job["lease_id"]
    if chance.random() < 0.7:
        members.append(("lease_id", chance.choice([lease] * 6 + [lease[:-1] + "9", "x", "", 3])))
    if chance.random() < 0.7:
        members.append(("worker_id", chance.choice([job.get("worker_id")] * 4 + WORKERS)))
    if chance.random() < 0.5:
        members.append(("result", chance.choice([None, 1, "é%b", {"a": []}, [2**70], "x" * 2000])))
    return dumped(chance, members)


async def test_both_paths_serve_any_enqueue_alike(api: Api, both: BothPaths) -> None:
    await api.call("PUT", f"{V1}/admin/queues/spread/config", {"partitions": 4})
    await api.call("PUT", f"{V1}/admin/queues/bounded/config", {"max_depth": 5})
    chance = random.Random(1)
    for queue in ("default", "other", "spread", "bounded"):
        await api.enqueue(options={"queue": queue})
    seen = [await both.serve("enqueue", enqueue_body(chance)) for _ in range(FUZZED)]
    assert seen.count("plain") > FUZZED / 10
    assert seen.count("readable") > FUZZED / 10


async def test_both_paths_serve_any_fetch_alike(api: Api, both: BothPaths) -> None:
    await api.call("PUT", f"{V1}/admin/queues/spread/config", {"partitions": 4})
    chance, seen = random.Random(2), []
    for _ in range(FUZZED):
        if chance.random() < 0.7:
            options = chance.choice([{}, {}, {}, {"priority": 3}, {"timeout_ms": 5000}])
            await api.enqueue(args=["é%b"], options=options)
        seen.append(await both.serve("fetch", fetch_body(chance)))
    assert seen.count("plain") > FUZZED / 10
    assert seen.count("resumed") > 5
    assert seen.count("readable") > FUZZED / 10


async def test_a_fetch_of_the_type_of_the_first_job_is_plain(api: Api, both: BothPaths) -> None:
    await api.enqueue()
    body = {"queues": ["default"], "worker_id": "w", "types": ["a.b", "test.echo"]}
    await both.serve(
        "fetch", json.dumps({**body, "queues": ["other"]}).encode()
    )  # touches the worker
    assert await both.serve("fetch", json.dumps(body).encode()) == "plain"


async def test_both_paths_serve_any_ack_alike(api: Api, both: BothPaths) -> None:
    await lifecycle_once(api)
    chance, seen = random.Random(3), []
    for _ in range(FUZZED):
        options = chance.choice([{}, {}, {}, {"priority": 3}, {"unique": {"keys": ["args"]}}])
        job = await api.active(args=[chance.random()], options=options)
        seen.append(await both.serve("ack", ack_body(chance, job)))
    assert seen.count("plain") > FUZZED / 10
    assert seen.count("resumed") > 5


async def lifecycle_once(api: Api) -> None:
    """Let the process and Redis learn what the first job teaches them."""
    job = await api.active()
    await api.post(PATHS["ack"], {"job_id": job["id"]})


PLAIN_HEADERS = [
    *((), ("OJS-Version: 1.0",), ("Accept: */*",), ("Accept: text/html",), ("User-Agent: a",)),
    *(("Connection: keep-alive",), ("Connection: close",)),
    *(("Accept-Encoding: gzip", "Accept-Language: de"),),
]


@pytest.mark.parametrize("headers", PLAIN_HEADERS)
@pytest.mark.parametrize("verb", PLAIN)
async def test_the_headers_of_a_plain_response_are_those_of_the_readable_path(
    api: Api, both: BothPaths, verb: str, headers: tuple[str, ...]
) -> None:
    await lifecycle_once(api)
    found = await both.serve(verb, json.dumps(PLAIN[verb]).encode(), *headers)
    assert found == ("resumed" if verb == "ack" else "plain")  # there is no such job


OTHER_HEADERS = [
    *("X-Request-Id: mine", "OJS-Durability: replica", "OJS-Block-Timeout: 5"),
    *("traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "X-OJS-Tenant: acme"),
    *("Origin: http://test", "Content-Encoding: identity", "X-Anything: 1", "Cookie: a=b"),
]


@pytest.mark.parametrize("header", OTHER_HEADERS)
@pytest.mark.parametrize("verb", PLAIN)
async def test_requests_with_other_headers_are_not_plain(
    api: Api, both: BothPaths, verb: str, header: str
) -> None:
    await lifecycle_once(api)
    assert await both.serve(verb, json.dumps(PLAIN[verb]).encode(), header) == "readable"


async def test_requests_with_a_query_are_not_plain(api: Api, both: BothPaths) -> None:
    await lifecycle_once(api)
    body = json.dumps(PLAIN["fetch"]).encode()
    assert await both.serve("fetch", body, query="?a=b") == "readable"


@asynccontextmanager
async def app_with(standalone: Embedded, **settings: Any) -> AsyncIterator[App]:
    store = settings.pop("store", None)
    async with open_app(standalone, store=store, **settings) as app:
        yield app


SETTINGS: dict[str, dict[str, Any]] = {
    "search index": {"store": StoreSettings(search_index=FIELDS)},
    "depth bound": {"store": StoreSettings(max_queue_depth=10)},
    "pages": {"cors_origins": ("http://a.example",)},
}


@pytest.mark.parametrize("name", SETTINGS)
async def test_servers_with_settings_that_concern_every_job_have_no_plain_requests(
    standalone: Embedded, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    async with app_with(standalone, **SETTINGS[name]) as app:
        await lifecycle_once(Api(app))
        both = BothPaths(app, monkeypatch)
        for verb, body in PLAIN.items():
            assert await both.serve(verb, json.dumps(body).encode()) == "readable"


async def test_a_lease_that_is_required_is_required_of_plain_acks(
    standalone: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with app_with(standalone, require_lease=True) as app:
        both = BothPaths(app, monkeypatch)
        body = {"job_id": new_job_id(1, 8, 1_700_000_000_000)}
        assert await both.serve("ack", json.dumps(body).encode()) == "readable"


async def test_limits_of_a_key_are_those_of_the_readable_path(
    standalone: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    principals = {
        "all": Principal("all", ALL_SCOPES),
        "some": Principal("some", ALL_SCOPES, queues=QueuePatterns(["default"])),
        "rated": Principal("rated", ALL_SCOPES, requests_per_second=1000.0),
        "acme": Principal("acme", ALL_SCOPES, tenant="acme"),
    }
    keyring = Keyring({digest(key): each for key, each in principals.items()}, {})
    access = AccessControl(keyring)
    async with app_with(standalone, access=access) as app:
        both = BothPaths(app, monkeypatch)
        found = {}
        for name in principals:
            for _ in range(2):
                body = b'{"queues":["default"]}'
                key = f"Authorization: Bearer {name}"
                found[name] = await both.serve("fetch", body, key)
        assert found == {
            "all": "plain",
            "some": "readable",
            "rated": "readable",
            "acme": "readable",
        }


async def test_a_plain_head_is_authenticated_again_after_the_keys_have_changed(
    standalone: Embedded,
) -> None:
    access = accepts(["old"])
    poll = request("POST", PATHS["fetch"], PLAIN["fetch"], "Authorization: Bearer old")
    async with (
        app_with(standalone, access=access) as app,
        serving(app, lane=True) as port,
        connected(port) as stream,
    ):
        for _ in range(3):
            assert (await ask(stream, poll))[0][9:12] == b"200"
        access.replace(Keyring({digest("new"): Principal("new", ALL_SCOPES)}, {}))
        assert (await ask(stream, poll))[0][9:12] == b"401"


async def test_a_process_that_learns_of_a_rule_stops_serving_plain_requests(
    api: Api, both: BothPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lifecycle_once(api)
    store, bodies = api.app.store, {verb: json.dumps(body).encode() for verb, body in PLAIN.items()}
    rules: list[tuple[str, Any, str, Any]] = [
        ("enqueue", store.queue_defaults, "by_queue", {"default": None}),
        ("enqueue", store.schemas, "validated", {"t": None}),
        *[(verb, type(store.webhooks), "selects", lambda *_: True) for verb in PLAIN],
        *[(verb, api.app.maintenance, "refused", frozenset({"other"})) for verb in PLAIN],
        ("enqueue", type(store.queues), "is_current", lambda *_: False),
        ("enqueue", type(store.partitions), "is_fresh", lambda *_: False),
        ("fetch", type(store.partitions), "is_fresh", lambda *_: False),
        ("fetch", type(store.fetch_touches), "is_recent", lambda *_: False),
    ]
    for verb, owner, name, value in rules:
        head = read_head(request("POST", PATHS[verb]))
        assert head is not None
        asked = Request(head.method, head.path, "", head.headers)
        plain = both.verbs.of(asked, admit(api.app, asked))
        assert plain is not None
        with both._equal_chances() as (begun, _), monkeypatch.context() as patch:
            assert both.verbs.serves(plain)
            assert plain.begin(bodies[verb]) is not None
            patch.setattr(owner, name, value)
            assert not both.verbs.serves(plain) or plain.begin(bodies[verb]) is None, (verb, name)
            assert len(begun) == 1


def test_the_plain_path_knows_every_member_of_an_ack() -> None:
    """A new member needs a condition in ``_Ack.begin``. Fetches with other members are readable."""
    known = ("job_id", "id", "worker_id", "lease_id", "result")
    assert settle.AckBody.__struct_fields__ == known


def test_a_template_needs_all_of_its_gaps() -> None:
    template = Template(b"100%: a b a", b"a", b"b")
    assert template.fill((b"%d", b"2")) == b"100%: %d 2 %d"
    with pytest.raises(ValueError, match="lacks a gap"):
        Template(b"a", b"a", b"b")


async def test_a_text_that_equals_the_sample_of_an_id_is_kept(api: Api) -> None:
    job_type = f"t-{templates.ID}"
    options = {"retry": {"non_retryable_errors": [templates.ID]}}
    async with serving(api.app, lane=True) as port, connected(port) as stream:
        for body in ({"type": job_type, "args": []}, {"type": "t", "args": [], "options": options}):
            for _ in range(3):
                (answer,) = await ask(stream, request("POST", f"{V1}/jobs", body))
                job = json.loads(answer.partition(b"\r\n\r\n")[2])["job"]
                assert job["type"] == body["type"]
                stored = (await api.get(f"{V1}/jobs/{job['id']}")).json
                assert templates.ID in json.dumps(stored)


async def test_templates_are_bounded(
    api: Api, both: BothPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lifecycle_once(api)
    monkeypatch.setattr(templates, "_MAX_TEMPLATES", 5)
    for number in range(20):
        body = {"type": f"t{number}", "args": []}
        assert await both.serve("enqueue", json.dumps(body).encode()) == "plain"
        assert len(both.verbs._templates._by_key) <= 5


# -- resumed requests --------------------------------------------------------------------------


async def test_a_plain_request_survives_a_server_that_has_forgotten_the_script(
    api: Api, quiet_tables: None
) -> None:
    async with serving(api.app, lane=True) as port, connected(port) as stream:
        await lifecycle(stream)
        for _ in range(3):
            await api.app.store.redis.call_masters("SCRIPT", "FLUSH")
            await lifecycle(stream)


async def test_a_plain_request_that_is_resumed_sends_its_first_command_once(
    api: Api, quiet_tables: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A draining queue has no counter that the plain script needs, so the request is resumed."""
    async with serving(api.app, lane=True) as port, connected(port) as stream:
        await lifecycle(stream)
        await lifecycle(stream)
        await api.call("PUT", f"{V1}/admin/queues/default/config", {"max_depth": 1000})
        sent: list[bytes] = []
        queue = RedisConnection.queue

        def noted(connection: RedisConnection, waiter: Any, payload: bytes) -> None:
            sent.append(payload)
            queue(connection, waiter, payload)

        monkeypatch.setattr(RedisConnection, "queue", noted)
        (answer,) = await ask(stream, ENQUEUE)
    assert answer.startswith(b"HTTP/1.1 201 ")
    sha = api.app.store.scripts["enqueue_one"].sha
    assert sum(sha in payload for payload in sent) == 1


@pytest.mark.parametrize("verb", PLAIN)
async def test_a_plain_request_whose_connection_is_lost_ends_as_a_readable_one(
    api: Api, quiet_tables: None, standalone: Embedded, verb: str
) -> None:
    """An enqueue and an ack with a lease are repeated; a fetch is not, and its job is released."""
    async with serving(api.app, lane=True) as port, connected(port) as stream:
        await lifecycle(stream)
        job = await api.active()
        await api.enqueue(args=["waiting"])
        body = {"job_id": job["id"], "lease_id": job["lease_id"]} if verb == "ack" else PLAIN[verb]
        link = api.app.store.redis._routes[0]
        assert link is not None
        begin = Client.begin

        def begin_and_lose(client: Client, call: PlainCall) -> bool:
            standalone.pause(standalone.nodes[0])  # otherwise the reply may arrive first
            begun = begin(client, call)
            trio.lowlevel.current_trio_token().run_sync_soon(lose)
            return begun

        def lose() -> None:
            assert link is not None
            assert isinstance(link.connection, RedisConnection)
            link.connection.close("lost by the test")
            standalone.resume(standalone.nodes[0])

        (answer,) = await ask(stream, request("POST", PATHS[verb], body))  # the head is known now
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Client, "begin", begin_and_lose)
            (answer,) = await ask(stream, request("POST", PATHS[verb], body))
    status = answer[9:12]
    if verb == "fetch":
        assert status == b"503"
        assert b'"unknown"' in answer
        assert len(api.app.store.unanswered_fetches) <= 1
    else:
        assert status in (b"200", b"201")


async def test_a_long_poll_that_begins_as_a_plain_request_gets_the_next_job(
    api: Api, quiet_tables: None
) -> None:
    async with (
        serving(api.app, lane=True) as port,
        connected(port) as worker,
        connected(port) as producer,
    ):
        await lifecycle(worker)
        poll = request("POST", PATHS["fetch"], {"queues": ["default"], "wait_ms": 30_000})
        for _ in range(3):
            await ask(producer, ENQUEUE)
            await ask(worker, poll)
            await worker.send_all(poll)
            await until(_waits(api))
            await ask(producer, ENQUEUE)
            (answer,) = await read_responses(worker, 1)
            assert b'"state":"active"' in answer
