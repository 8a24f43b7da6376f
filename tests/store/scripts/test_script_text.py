"""What is sent to Redis of the Lua sources."""

from __future__ import annotations

import re

import pytest

from ojs_cluster.store.ground.scripts import (
    _DEFINITION,
    _check_arguments,
    _check_commands,
    _joined,
    _trimmed,
    load_scripts,
    read_includes,
    read_transitions,
)

TEXTS = read_transitions()
INCLUDES = read_includes()


@pytest.mark.parametrize("name", load_scripts())
def test_a_script_builds_nothing_that_it_does_not_use(name: str) -> None:
    text = load_scripts()[name].source.decode()
    assert "--@include" not in text
    assert not re.search(r"\bF\.\w|^local F\b", text, re.MULTILINE)
    for function in re.findall(r"^local function (\w+)", text, re.MULTILINE):
        assert len(re.findall(rf"\b{function}\b", text)) > 1, function
    assert not re.search(r"^local [A-Z_]+(, [A-Z_]+)* = P \.\.", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("--@include key", "names key, which is not in store/include"),
        ("--@include_where_used key keys", "names key, which is not in store/include"),
        ("-- @include keys", "is no --@include or --@include_where_used with names"),
        ("--@includes keys", "is no --@include or --@include_where_used with names"),
        ("    --@include keys", "is no --@include or --@include_where_used with names"),
        ("--@include keys, fields", "is no --@include or --@include_where_used with names"),
        ("local a = 1\n--@include keys", "stands below code"),
    ],
)
def test_a_wrong_include_is_refused_with_its_line(line: str, problem: str) -> None:
    text = f"-- A head.\n--@include keys\n{line}\nlocal b = 2\n"
    [*_, last] = line.split("\n")
    expected = f"some.lua:{3 + line.count(chr(10))}: {last.strip()!r} {problem}"
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        _check_commands("some", text, INCLUDES)


@pytest.mark.parametrize(("word", "name"), [("KEYS", "some"), ("ARGV", "some"), ("ARGV", "keys")])
def test_an_include_that_reads_the_arguments_of_its_caller_is_refused(word: str, name: str) -> None:
    text = f"-- {word}: in a comment.\n--@include keys\nlocal a = {word}[2]\n"
    expected = f"{name}.lua:3: an include gets {word} by arguments of its functions"
    with pytest.raises(ValueError, match=re.escape(expected)):
        _check_arguments(name, text)
    _check_arguments("keys", "local a = KEYS[1]\n")


DEFINED_IN = {
    word: name
    for name, text in INCLUDES.items()
    for line in _DEFINITION.findall(text)
    for word in re.findall(r"\w+", line)
}
"""The include of each function and variable."""


@pytest.mark.parametrize("name", load_scripts())
def test_a_script_includes_what_it_uses(name: str) -> None:
    text = re.sub(r"'[^'\n]*'|--[^\n]*", "''", load_scripts()[name].source.decode())
    functions, parameters = r"\bfunction ?([\w.]*)", r"\(([\w, .]*)\)"
    others = r"\blocal ((?!function)[\w, ]+)|\bfor ([\w, ]+) (?:=|in)\b"
    known = set(re.findall(r"\w+", str(re.findall(rf"{functions}{parameters}|{others}", text))))
    used = set(re.findall(r"(?<![.\w:])[A-Za-z_]\w*\b(?!\s*=[^=])", text))
    assert {word: DEFINED_IN[word] for word in used & DEFINED_IN.keys() - known} == {}


def test_fetch_full_lists_the_members_of_a_queue() -> None:
    """Ten includes share this table, so a reader of one of them must find the others' members."""
    text = TEXTS["fetch_full"]
    [comment] = re.findall(r"-- Returns what this fetch knows.*?(?=^local)", text, re.M | re.S)
    included, left = {"fetch_full": text}, [text]
    while left:
        for line in re.findall(r"^--@include (.+)$", left.pop(), re.MULTILINE):
            left += [INCLUDES[name] for name in line.split() if name not in included]
            included |= {name: INCLUDES[name] for name in line.split()}
    code = re.sub("--.*", "", "".join(included.values()))
    assert set(re.findall(r"\bqueue\.(\w+)", code)) <= set(re.findall(r"\w+", comment))


NUMBERED = [name for name in TEXTS if not re.search("--@include(_where_used)? keys", TEXTS[name])]


@pytest.mark.parametrize("name", NUMBERED)
def test_a_script_whose_keys_go_by_numbers_uses_all_that_it_declares(name: str) -> None:
    head = re.match(r"(?:--.*\n)+", TEXTS[name])
    assert head is not None
    [declared] = re.findall(r"KEYS: (.*?)(?:ARGV|Returns|$)", head[0].replace("\n--", ""))
    last = max(re.findall(r"\b[1-9]\b", declared))
    if not re.search(r"#KEYS|ipairs\(KEYS\)", TEXTS[name]):
        assert last == max(re.findall(r"\bKEYS\[(\d)\]", TEXTS[name]))


def test_names_stand_where_they_are_used() -> None:
    text = load_scripts()["ack_full"].source.decode()
    assert "job['s'] ~= 'active'" in text
    assert "(PREFIX .. 'finished')" in text


def test_a_script_that_derives_no_key_has_no_prefix() -> None:
    pieces = {"keys": INCLUDES["keys"], "preflight": INCLUDES["preflight"]}
    script = "--@include keys\nreturn redis.call('EXISTS', DECLARED_KEY)\n"
    text = _trimmed(_joined(script, pieces))
    assert text.strip().endswith("return redis_call('EXISTS', (KEYS[1]))")
    assert "PREFIX" not in text


def test_an_enqueue_into_a_queue_with_jobs_derives_no_key() -> None:
    text = load_scripts()["enqueue_one"].source.decode()
    before, _, rare = text.partition("if existing == 0 or has_more then\n")
    assert "PREFIX" not in before
    assert rare.startswith("local PREFIX = ")


def test_a_function_of_one_expression_stands_where_it_is_called() -> None:
    text = _trimmed(
        "local MOST = 2 * 3 -- bytes\n"
        "local function key_of(id) return 'j(' .. id end\n"
        "local function odd_key_of(id, more) return id .. more .. id end\n"
        "return key_of(a .. ')' .. key_of(b)) .. odd_key_of(MOST, 1)\n"
    )
    *_, last = text.strip().split("\n")
    assert last == "return ('j(' .. (a .. ')' .. ('j(' .. (b)))) .. odd_key_of((2 * 3), 1)"


def test_a_function_that_is_passed_as_a_value_is_kept() -> None:
    text = _trimmed(
        "local function key_of(id) return 'j' .. id end\nreturn map(ids, key_of) .. key_of(a)\n"
    )
    assert "local function key_of(id) return 'j' .. id end\n" in text
    assert text.endswith("return map(ids, key_of) .. key_of(a)\n")


def test_a_function_of_several_parameters_stands_where_it_is_called() -> None:
    text = _trimmed(
        "local function key_of(queue, id) return 'q' .. queue .. ':' .. id end\n"
        "local function turned(queue, id) return id .. queue end\n"
        "return key_of(f(a, '),'), {b, c}) .. turned(a, b)\n"
    )
    *_, last = text.strip().split("\n")
    assert last == "return ('q' .. (f(a, '),')) .. ':' .. ({b, c})) .. turned(a, b)"


PIECES = {
    "sum": "local function sum(a, b) return a + b + a end\n",
    "twice": "--@include sum\nlocal function twice(a) return sum(a, a) end\n"
    "local function unused(a) return other(a, a) end\n",
    "other": "local function other(a, b) return a * b * a end\n",
}
"""Pieces for scripts that include them where they are used."""


def test_a_piece_stands_in_the_innermost_block_that_uses_it() -> None:
    script = (
        "--@include_where_used other twice\n"
        "local a = 1 -- not twice\n"
        "if a == 2\n"
        "    and a then\n"
        "    a = 3\n"
        "    for i = 1, 2 do\n"
        "        a = twice(a)\n"
        "    end\n"
        "    a = twice(4)\n"
        "end\n"
        "a = 5\n"
        "if a then\n"
        "    a = other(1, 2)\n"
        "elseif a then\n"
        "    a = other(2, 1)\n"
        "end\n"
    )
    assert re.sub("\n+", "\n", _joined(script, PIECES)) == (
        "local a = 1 -- not twice\n"
        "if a == 2\n"
        "    and a then\n"
        "    a = 3\n"
        "local function sum(a, b) return a + b + a end\n"
        "local function twice(a) return sum(a, a) end\n"
        "    for i = 1, 2 do\n"
        "        a = twice(a)\n"
        "    end\n"
        "    a = twice(4)\n"
        "end\n"
        "a = 5\n"
        "local function other(a, b) return a * b * a end\n"
        "if a then\n"
        "    a = other(1, 2)\n"
        "elseif a then\n"
        "    a = other(2, 1)\n"
        "end\n"
    )


def test_a_condition_of_several_lines_may_use_a_piece() -> None:
    script = (
        "--@include_where_used twice\n"
        "local a = 1\n"
        "if a\n"
        "    and twice(a) then\n"
        "    a = twice(4)\n"
        "end\n"
    )
    lines = _joined(script, PIECES).splitlines()
    assert lines.index("if a") == 1 + lines.index("local function twice(a) return sum(a, a) end")


def test_a_piece_without_uses_is_left_out() -> None:
    assert _joined("--@include_where_used twice\nreturn 1\n", PIECES) == "return 1\n"


def test_pieces_agree_about_a_constant() -> None:
    with pytest.raises(ValueError, match="two values"):
        _trimmed("local MOST = 2\nlocal MOST = 3\n")


def test_a_prelude_comes_behind_the_flags_and_is_left_alone() -> None:
    prelude = "-- a comment\nlocal function unused() end\n"
    flags = "#!lua flags=allow-oom\n"
    assert load_scripts(prelude)["ack"].source.decode().startswith(flags + prelude)
    assert load_scripts(prelude)["enqueue"].source.decode().startswith(prelude)


@pytest.mark.parametrize("name", load_scripts())
def test_a_script_that_counts_writes_its_counts_at_the_end(name: str) -> None:
    text = load_scripts()[name].source.decode()
    counts = "local function count(" in text
    assert counts == bool(re.search(r"^(?: {4})?flush_counters\(\)$", text, re.MULTILINE))


def test_a_script_is_loaded_under_each_of_its_names() -> None:
    """The names come from lines of the scripts' heads, which look like prose."""
    assert load_scripts().keys() - read_transitions().keys() == {"enqueue_part", "register_again"}
