"""What the entries of OJS_UI_REDACT and an operator's own function hide in JSON."""

from __future__ import annotations

import json
import logging
import queue
import re
import threading
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from ojs_cluster.server.config.load import ConfigError, load
from ojs_cluster.ui.json_view import MAX_SHOWN
from ojs_cluster.ui.pages.events import ShownEvents
from ojs_cluster.ui.redaction import function
from ojs_cluster.ui.redaction.function import Redactor, load_function
from ojs_cluster.ui.redaction.patterns import pattern
from ojs_cluster.ui.redaction.redaction import ERROR, ERROR_MESSAGE, ERROR_TYPE
from ojs_cluster.ui.redaction.rules import HIDDEN_JSON, ROOTS, Path, parse_rules

NAME = {"card": [1, {"a": 2}]}
VALUE: list[Any] = [{"card": "x", "Name": NAME}, [True, None], "end"]


def hidden(entry: str, root: str = "args", job_type: str = "email.send", value: Any = VALUE) -> Any:
    raw = json.dumps(value).encode()
    shown = parse_rules(frozenset({entry})).json(raw, job_type, (root,))
    assert (shown is raw) == (json.loads(shown) == value)
    return json.loads(shown)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("card", [{"card": "hidden", "Name": {"card": "hidden"}}, [True, None], "end"]),
        ("args.0.card", [{"card": "hidden", "Name": NAME}, [True, None], "end"]),
        (
            "args.0.name.card.1.a",
            [{"card": "x", "Name": {"card": [1, {"a": "hidden"}]}}, *VALUE[1:]],
        ),
        ("args.*", ["hidden"] * 3),
        ("args.*.card", [{"card": "hidden", "Name": NAME}, [True, None], "end"]),
        ("type:email.*/args.1", [VALUE[0], "hidden", "end"]),
        ("type:email.*/args", "hidden"),
        ("args", "hidden"),
        ("type:sms.*/args.1", VALUE),
        ("meta.*", VALUE),
        ("value:en?", [*VALUE[:2], "hidden"]),
    ],
)
def test_an_entry_hides_what_it_names(entry: str, expected: Any) -> None:
    assert hidden(entry) == expected


def test_the_paths_of_all_types_count_where_the_type_is_not_known() -> None:
    assert hidden("type:sms.*/args.1", job_type="")[1] == "hidden"


OPTIONS = [("options", name) for name in ("tags", "retry", "unique", "rate_limit")]
WHOLE = [(root,) for root in sorted(ROOTS)]


@pytest.mark.parametrize(
    "start",
    [*WHOLE, *OPTIONS, ERROR, ERROR_MESSAGE, ERROR_TYPE, ("worker", "hostname")],
    ids=".".join,
)
def test_a_rule_hides_every_part_that_a_page_reads_alone(start: Path) -> None:
    def shown(entry: str, job_type: str = "pay.card") -> bytes:
        return parse_rules(frozenset({entry})).json(b'{"pin":"1234"}', job_type, start)

    rules = [".".join(start[:size]) for size in range(1, len(start) + 1)]
    rules += [rule.replace("*", "3") for rule in rules]  # the page does not know the number
    for rule in rules:
        assert shown(rule) == HIDDEN_JSON, rule
        assert shown(f"type:pay.*/{rule}") == HIDDEN_JSON, rule
        assert shown(f"type:mail.*/{rule}") == b'{"pin":"1234"}', rule
    assert shown(f"{start[0]}.*") != b'{"pin":"1234"}'
    for root in ROOTS - {start[0]}:
        assert shown(root) == shown(f"{root}.*") == b'{"pin":"1234"}', root


@pytest.mark.parametrize("entry", ["error", "errors", "message", "errors.*", "errors.1.message"])
def test_the_message_of_an_error_is_hidden(entry: str) -> None:
    rules = parse_rules(frozenset({entry}))
    assert rules.json(b'"pin 1234"', "", ERROR_MESSAGE) == HIDDEN_JSON
    assert b"1234" not in rules.json(b'{"message":"pin 1234"}', "", ERROR)


@pytest.mark.parametrize(
    "entry", ["type:email", "type:email/", "args..x", "args.", "name:", "value:", "value:**"]
)
def test_an_entry_that_hides_nothing_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="such as"):
        parse_rules(frozenset({entry}))


@pytest.mark.parametrize("path", ["arg.0.card", "error.message", "password.", ".password", "word."])
def test_a_path_with_a_misspelt_root_is_refused_in_one_line_that_names_the_roots(path: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load({"OJS_UI_REDACT": f"password,{path}"})
    [line] = str(refused.value).splitlines()
    assert f"expected {path!r} to begin with one of {', '.join(sorted(ROOTS))}" in line
    with pytest.raises(ValueError, match=re.escape(f"{path!r} to begin with")):
        parse_rules(frozenset({f"type:email.*/{path}"}))


def test_a_name_with_dots_is_an_entry_of_its_own() -> None:
    value = [{"card.number": "x", "card": {"number": "x"}}]
    assert hidden("name:card.number", value=value) == [{**value[0], "card.number": "hidden"}]


@pytest.mark.parametrize(
    ("name", "text", "shown"),
    [
        ("card", "card 4111 1111 1111 1111 declined", "card hidden declined"),
        ("card", "4111111111111112 and 4111-1111-1111-1111", "4111111111111112 and hidden"),
        ("card", "order 12 4111 1111 1111 1111", "order 12 hidden"),
        ("card", "4111 1111 1111 1111 12/27", "hidden 12/27"),
        ("card", "4111111111111111 123", "hidden 123"),
        ("card", "2026-11-30 4111111111111111", "2026-11-30 hidden"),
        ("card", "4111111111111111 5500 0000 0000 0004 9", "hidden hidden 9"),
        ("card", "4111.1111.1111.1111.", "hidden."),
        ("card", "a=3782.822463.10005,b", "a=hidden,b"),
        ("card", "4111_1111_1111_1111, 4111/1111/1111/1111", "hidden, hidden"),
        ("card", "4111\u00a01111\u202f1111\u20131111", "hidden"),
        ("card", "4111 1111 1111 1111.25", "hidden.25"),
        # Times, addresses and amounts, all with a right check digit.
        ("card", "1733072400.123459", "1733072400.123459"),
        ("card", "411111111.1111111", "411111111.1111111"),
        ("card", "192.168.100.101/192.168.100.209", "192.168.100.101/192.168.100.209"),
        ("card", "123456789012345678901234567890", "123456789012345678901234567890"),
        ("email", "to ann.b+c@example.com: no", "to hidden: no"),
        ("iban", "from DE89 3704 0044 0532 0130 00.", "from hidden."),
        ("jwt", "Bearer eyJhbGciOiJI.eyJzdWIi.c2ln", "Bearer hidden"),
        ("sk_live_*", "key=sk_LIVE_abc, sk_test_abc", "key=hidden, sk_test_abc"),
        ("sk_live_*", "[sk_live_abc] {sk_live_abc} `sk_live_abc`", "[hidden {hidden `hidden"),
        ("sk_live_*", "https://x/sk_live_a.b/c-d +x|sk_live_abc", "https://x/hidden +x|hidden"),
        (
            "sk_live_*",
            "not-sk_live_a task_live_b x_sk_live_c",
            "not-hidden task_live_b x_sk_live_c",
        ),
        ("k?y-[!0-9]", "{key-a} key-ab key-1 monkey-a", "{hidden} key-ab key-1 monkey-a"),
        ("a*-b*-c", "x/a1-b2-c3-b-c.", "x/hidden."),
        ("*_pin", "my_pin, your_pins", "hidden, your_pins"),
        ("$2y$*", "hash$2y$10$abc", "hashhidden"),
        ("pin=*", "pin=12 pins=12 (pin=34)", "hidden pins=12 (hidden)"),
    ],
)
def test_a_pattern_hides_its_words(name: str, text: str, shown: str) -> None:
    assert pattern(name)(text) == shown


@pytest.mark.parametrize(
    "piece", ["eyJ", "a.", "-a", "1 ", "1", "1111.", "AB12 ", "a", "a@", "-", "eyJaaaaa."]
)
@pytest.mark.parametrize("name", ["card", "email", "iban", "jwt", "*a*b*c*d", "a*?*?*?x"])
def test_no_text_makes_a_pattern_slow(name: str, piece: str) -> None:
    text = piece * (MAX_SHOWN // len(piece))
    hide = pattern(name)
    assert len(hide(text)) <= MAX_SHOWN  # quadratic time would take minutes


def test_a_number_and_a_name_of_a_member_are_hidden_too() -> None:
    found = hidden("value:card", value=[{"4111111111111111": 4111111111111111, "n": 12}])
    assert found == [{"hidden": "hidden", "n": 12}]


@pytest.fixture
def slow_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function has a minute, so that it is not late because others use the processor."""
    monkeypatch.setattr(function, "_TIMEOUT_S", 60.0)
    monkeypatch.setattr(function, "_WAIT_S", 60.0)


@pytest.mark.usefixtures("slow_machine")
async def test_a_function_returns_what_is_shown() -> None:
    def shorten(job_type: str, value: dict[str, Any]) -> dict[str, Any]:
        if job_type == "a.b":
            value["args"][0] = value["args"][0][:2]
        return value

    values = [("a.b", "args", b'["secret"]'), ("c.d", "args", b'["kept"]')]
    shown = await Redactor(shorten).apply(values)
    assert shown == [b'["se"]', b'["kept"]']
    assert shown[1] is values[1][2]


@pytest.mark.usefixtures("slow_machine")
async def test_a_function_that_fails_hides_the_value_and_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(_job_type: str, value: dict[str, Any]) -> Any:
        raise KeyError(value)

    with caplog.at_level(logging.ERROR):
        redactor = Redactor(fail)
        for _ in range(2):
            assert await redactor.apply([("a", "args", b'["s3cret"]')]) == [HIDDEN_JSON]
    assert len(caplog.records) == 1
    assert "s3cret" not in caplog.text


@pytest.mark.usefixtures("slow_machine")
async def test_a_value_that_is_no_json_after_the_function_is_hidden() -> None:
    """Python reads 1e999 as infinity, which JSON does not have."""

    def shorten(_job_type: str, value: dict[str, Any]) -> dict[str, Any]:
        value["args"][0] = "..."
        return value

    assert await Redactor(shorten).apply([("a", "args", b'["s3cret",1e999]')]) == [HIDDEN_JSON]


async def test_a_function_that_does_not_return_hides_the_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(function, "_TIMEOUT_S", 0.01)
    release = threading.Event()
    calls: list[str] = []

    def hang(job_type: str, value: dict[str, Any]) -> Any:
        calls.append(job_type)
        release.wait(30)
        return value

    redactor = Redactor(hang)
    try:
        with trio.fail_after(20):
            for _ in range(3):
                assert await redactor.apply([("a", "args", b"[1]")]) == [HIDDEN_JSON]
    finally:
        release.set()
    assert len(calls) <= 1, "after a timeout it is not called for a while"


class Held:
    """A function whose calls are released one by one, in the order in which they began.

    Attributes:
        is_open: whether all calls return at once.
    """

    def __init__(self) -> None:
        self.is_open = False
        self._calls: queue.SimpleQueue[threading.Event] = queue.SimpleQueue()

    def read(self, _job_type: str, value: dict[str, Any]) -> Any:
        """Return the value when its call is released."""
        release = threading.Event()
        self._calls.put(release)
        while not self.is_open and not release.wait(0.01):
            pass
        return value

    async def begun(self) -> threading.Event:
        """Wait for the next call. Its event releases this call only."""
        return await trio.to_thread.run_sync(partial(self._calls.get, timeout=20))


async def test_pages_that_wait_for_others_do_not_count_against_the_function(
    mock_clock: MockClock,
) -> None:
    held = Held()
    redactor = Redactor(held.read)
    shown: list[list[bytes]] = []

    async def visit() -> None:
        shown.append(await redactor.apply([("a", "args", b"[1]")]))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(visit)
        for running, ended in ((2, 0), (2, 2), (1, 4)):
            calls = [await held.begun() for _ in range(running)]
            while len(shown) < ended:
                await trio.lowlevel.checkpoint()
            mock_clock.jump(function._TIMEOUT_S * 0.9)
            for release in calls:
                release.set()
    assert shown == [[b"[1]"]] * 5


async def test_a_page_of_many_short_calls_does_not_stop_further_calls(
    mock_clock: MockClock,
) -> None:
    held = Held()
    redactor = Redactor(held.read)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def visit() -> None:
            assert await redactor.apply([("a", "args", b"[1]")] * 50) == [HIDDEN_JSON] * 50

        for _ in range(4):
            release = await held.begun()
            mock_clock.jump(function._TIMEOUT_S / 4)
            release.set()
    held.is_open = True  # the thread may have begun another call
    assert await redactor.apply([("a", "args", b"[1]")]) == [b"[1]"]


def test_a_function_is_named_by_its_module() -> None:
    assert load_function("json:dumps").__name__ == "dumps"
    for text in ("json", "json:nothing", "no.such.module:x", "json:__name__"):
        with pytest.raises(ValueError, match=r"package\.module:function"):
            load_function(text)


async def test_a_stream_has_only_what_the_page_shows() -> None:
    class Body:
        async def run(self, send: Any, _direct: Any = None) -> None:
            await send(b'id: 7\nevent: job.failed\ndata: {"job_id":"j","err')
            await send(b'or":"s3cret","queue":"q"}\n\n')

        def close(self) -> None:
            pass

    sent: list[bytes] = []

    async def send(piece: bytes) -> None:
        sent.append(piece)

    await ShownEvents(Body()).run(send)
    line = b'data: {"job_id":"j","queue":"q"}'
    assert b"".join(sent) == b"id: 7\nevent: job.failed\n" + line + b"\n\n"
