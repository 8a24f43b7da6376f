"""Load the Lua transitions: one file each, joined with the shared pieces that they include.

A line ``--@include keys now read_job`` is replaced by those files of ``include/``. A file is joined
only once, after the files that it includes itself. Functions that the script does not use are left
out. So every transition is one self-contained script, which runs on any Redis or Valkey since 7.0,
and which a reader can follow from top to bottom. Redis functions and ``require`` offer neither.

All such lines stand at the top of a file. Redis creates a script's functions at each call, also
those that only a rare branch needs. So a line ``--@include_where_used read_existing`` puts the
definitions of that file before the first statement that uses them, in the innermost block that has
all of their uses. What such a file keeps in locals lasts as long as one run of that block.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from functools import cache
from pathlib import Path
from types import MappingProxyType

from ojs_cluster.redis.script import Script

VOLATILE = frozenset(
    {
        *("touch_worker", "fetch", "fetch_full", "heartbeat", "progress", "lead"),
        *("promote", "release_unanswered", "remove_old_workers"),
        *("archive_job", "archive_results", "cron_due", "find_dead", "read_hash", "metrics"),
        *("checkpoint_read", "search_fields", "remove_indexed"),
        *("schema", "layout_report", "layout_raise"),
        "audit_append",
        *("depths", "limit_state", "limits_due"),
        *(
            "entries_older_than",
            "read_partitions",
            "peek_depth",
            "parked_types",
            "pressure_due",
            "queue_stats",
            "priority_counts",
            "sum_queues",
            "sorted_set_sizes",
            "sorted_set_members",
            "sorted_set_after",
            "dead_letter_types",
            "references_checked",
        ),
        *(
            "outbox_blocked_shards",
            "outbox_due",
            "outbox_dead_letters",
            "outbox_reschedule_shard",
            "outbox_block_entries",
        ),
        *("read_versioned_hash", "webhook_due", "webhook_take", "webhook_list", "webhook_purge"),
        *("rights", "worker_states", "workflow_due_checks", "workflow_schedule_check"),
    }
)
"""Scripts whose writes need no confirmation by a replica or a disk.

Some write leases and heartbeats. If a failover loses these, the job is retried, as after the loss
of a worker. Some write what a later check writes again. The others write nothing."""

_ROOMS = Path(__file__).parents[1]
_INCLUDES = _ROOMS / "include"
# ``; as NAME, CONDITION, FLAG`` loads the script a second time, under NAME and with FLAG.
_MEMORY = re.compile(
    r"^-- Memory: (no-writes|allow-oom|deny-oom)(?:; as (\w+), [^,\n]+, (allow-oom))?[;.]",
    re.MULTILINE,
)
_SHEBANGS = {
    "no-writes": "#!lua flags=no-writes\n",
    "allow-oom": "#!lua flags=allow-oom\n",
    # Without a shebang Redis refuses the script at its first write, so a script with nothing to
    # write still answers. With a bare ``#!lua`` Redis would refuse to start it.
    "deny-oom": "",
}
"""First line of a script: whether Redis runs it while ``maxmemory`` is exceeded (docs/adr/022)."""
_INCLUDE = re.compile(r"^--@include (.+)$", re.MULTILINE)
_ANY_INCLUDE = re.compile(r"^--@include(?:_where_used)? (.+)$", re.MULTILINE)
_INCLUDE_WHERE_USED = re.compile(r"^--@include_where_used (.+)\n", re.MULTILINE)
_COMMAND = re.compile(r"^ *-- ?@.*", re.MULTILINE)
_VALID_COMMAND = re.compile(r"--@include(?:_where_used)?((?: \w+)+)$")
_CODE = re.compile(r"^(?! *--).*\S", re.MULTILINE)
_CALLERS_ARGUMENTS = re.compile(r"^(?! *--).*?\b(KEYS|ARGV)\b", re.MULTILINE)
_FIELDS = re.compile(r"^local F = \{(.*?)^\}\n", re.MULTILINE | re.DOTALL)
_FIELD = re.compile(r"(\w+) = '([^']+)'")
_USE = re.compile(r"\bF\.(\w+)")
# The patterns rely on the form of all Lua files: a comment has its own lines. A definition that
# begins at the left margin ends on the same line, or with the next line at the left margin.
_COMMENT = re.compile(r"^ *--.*\n", re.MULTILINE)
_LINE_END = re.compile(r" -- .*$", re.MULTILINE)
_KEYS = re.compile(
    r"^local ([A-Z_]+(?:, [A-Z_]+)*) = (PREFIX \.\. '\w+'(?:, PREFIX \.\. '\w+')*)\n", re.MULTILINE
)
_NAME = re.compile(r"\b[A-Z][A-Z_]*\b")
_WORD = re.compile(r"\w+")
_DEFINITION = re.compile(r"^local (?:function )?(\w+(?:, \w+)*)", re.MULTILINE)
_OPENS_BLOCK = re.compile(r"\b(?:then|do|else|repeat)$")
_CONTINUES = re.compile(r" *(?:else|elseif|end|until)\b")
_MARK = re.compile(r"^ *(@\d+@)\n", re.MULTILINE)
_BLANK = 99
"""Indentation that counts for an empty line: it ends no block."""
# Locals are faster than globals, which the interpreter looks up by name.
_LOCALS = "local redis_call, KEYS, ARGV = redis.call, KEYS, ARGV\n"
_CONSTANT = re.compile(
    r"^local ([A-Z_]+) = ([\d *]*\d|'[^'\n]*'|KEYS\[1\])(?: --[^\n]*)?\n", re.MULTILINE
)
_PREFIX = re.compile(r"^local PREFIX = (.*)\n", re.MULTILINE)
_EXPRESSION = re.compile(
    r"^local function (?P<name>\w+)\((?P<parameters>[\w, ]+)\) return (?P<value>[^\n]*) end\n",
    re.MULTILINE,
)
_FUNCTION = re.compile(
    r"^local function (\w+)\((?:[^\n]* end\n|[^\n]*\n(?:(?: [^\n]*)?\n)*end\n)", re.MULTILINE
)


def load_scripts(prelude: str = "") -> Mapping[str, Script]:
    """Return all transitions by name.

    The line ``-- Memory:`` of each header says what happens while Redis is at ``maxmemory``:
    ``no-writes`` and ``allow-oom`` scripts run, ``deny-oom`` scripts are refused. The line may load
    the script a second time, under another name and with another flag.

    Args:
        prelude: Lua put before every script. Tests pass one that wraps ``redis.call`` and refuses
            keys that a cluster would refuse only while it moves slots.

    Raises:
        ValueError: a script has no line ``-- Memory:``, or a line of a file is refused.
    """
    return _load(prelude)


def read_transitions() -> dict[str, str]:
    """Return the text of each transition's file in the folders of ``store/``, by its name."""
    files = sorted(_ROOMS.rglob("*.lua"))
    return {file.stem: file.read_text() for file in files if _INCLUDES not in file.parents}


def read_includes() -> dict[str, str]:
    """Return the text of each shared piece in ``store/include/``, by its name."""
    return {file.stem: file.read_text() for file in sorted(_INCLUDES.rglob("*.lua"))}


@cache
def _load(prelude: str) -> Mapping[str, Script]:
    includes, transitions = read_includes(), read_transitions()
    scripts: dict[str, Script] = {}
    for file, text in (*includes.items(), *transitions.items()):
        _check_commands(file, text, includes)
    for file, text in includes.items():
        _check_arguments(file, text)
    for file, text in transitions.items():
        body = prelude + _trimmed(_joined(text, includes))
        for name, shebang in _shebangs(file, text).items():
            # Each script has the preflight of ``store/include/base/preflight.lua``; the tests'
            # prelude enforces it.
            scripts[name] = Script(
                name,
                (shebang + body).encode(),
                has_preflight=True,
                volatile=name in VOLATILE,
            )
    return MappingProxyType(scripts)


def _shebangs(name: str, text: str) -> dict[str, str]:
    """Return the names under which a script is loaded, each with its first line."""
    found = _MEMORY.search(text)
    if found is None:
        raise ValueError(f"the header of {name}.lua has no line '-- Memory: ...'")
    flag, second_name, second_flag = found.groups()
    names = {name: _SHEBANGS[flag]}
    if second_name is not None:
        names[second_name] = _SHEBANGS[second_flag]
    return names


def _check_commands(name: str, text: str, includes: Mapping[str, str]) -> None:
    """Check that each comment with an ``@`` names known includes, and stands above the code.

    Otherwise it would be a comment without effect, or define names in the middle of the script.

    Raises:
        ValueError: a line is wrong; the message names it.
    """
    code = _CODE.search(text)
    for line in _COMMAND.finditer(text):
        valid = _VALID_COMMAND.match(line[0])
        unknown = [each for each in valid[1].split() if each not in includes] if valid else []
        if valid is None:
            problem = "is no --@include or --@include_where_used with names"
        elif unknown:
            problem = f"names {', '.join(unknown)}, which is not in store/include"
        elif code is not None and code.start() < line.start():
            problem = "stands below code"
        else:
            continue
        raise ValueError(f"{_place(name, text, line.start())}: {line[0].strip()!r} {problem}")


def _check_arguments(name: str, text: str) -> None:
    """Check that an include gets keys and settings by arguments.

    The include ``keys`` reads ``KEYS[1]``, which each caller has.

    Raises:
        ValueError: a line names KEYS or ARGV.
    """
    code = text.replace("KEYS[1]", "") if name == "keys" else text
    line = _CALLERS_ARGUMENTS.search(code)
    if line is not None:
        place = _place(name, code, line.start())
        raise ValueError(f"{place}: an include gets {line[1]} by arguments of its functions")


def _place(name: str, text: str, at: int) -> str:
    return f"{name}.lua:{text.count(chr(10), 0, at) + 1}"


def _joined(text: str, includes: Mapping[str, str]) -> str:
    """Return the text of a script, without comments, with all of its includes."""
    where_used: list[str] = []
    seen: set[str] = set()

    def included(line: re.Match[str]) -> str:
        return "".join(expanded(includes[name]) for name in unseen(line[1]))

    def expanded(text: str) -> str:
        text = _INCLUDE.sub(included, text)
        for line in _INCLUDE_WHERE_USED.findall(text):
            add_where_used(line)
        return _COMMENT.sub("", text)

    def add_where_used(names: str) -> None:
        for name in unseen(names):
            for line in _ANY_INCLUDE.findall(includes[name]):
                add_where_used(line)
            where_used.append(_COMMENT.sub("", includes[name]))

    def unseen(names: str) -> Iterator[str]:
        for name in names.split():
            if name not in seen:
                seen.add(name)
                yield name

    script, placed = expanded(text), dict[str, str]()
    # A piece may use those before it, so the last one finds its place first.
    for number, piece in reversed(list(enumerate(where_used))):
        mark = f"@{number}@"
        used = set(_words(script)).union(*map(_words, placed.values()))
        placed[mark] = piece = _without_unused(piece, used)
        names = {name for line in _DEFINITION.findall(piece) for name in _WORD.findall(line)}
        names -= {name for name, _ in _CONSTANT.findall(piece)}
        users = {mark for mark, other in placed.items() if not names.isdisjoint(_words(other))}
        script = _with_mark(script, mark, names, users)
    return _MARK.sub(lambda line: placed[line[1]], script)


def _words(text: str) -> list[str]:
    """Return the words of a text, without the comments at the ends of its lines."""
    return _WORD.findall(_LINE_END.sub("", text))


def _with_mark(script: str, mark: str, names: Set[str], users: Set[str]) -> str:
    """Return a script with a line ``mark`` before the first statement that uses one of ``names``.

    The statement is one of the innermost block that has all uses. A block is a run of lines that
    are indented further than the line that opens it.

    Args:
        script: the script.
        mark: the line.
        names: the names whose uses are searched.
        users: marks that stand for uses as well.
    """
    lines = script.split("\n")
    uses = [
        at
        for at, line in enumerate(lines)
        if line.strip() in users or not names.isdisjoint(_words(line))
    ]
    if not uses:
        return script
    first, last = uses[0], uses[-1]
    indents = [len(line) - len(line.lstrip()) if line else _BLANK for line in lines]
    for indent in range(indents[first], -1, -4):
        outside = [at for at, each in enumerate(indents) if each < indent]
        opener = max((at for at in outside if at < first), default=-1)
        while indent and opener < first and not _OPENS_BLOCK.search(lines[opener]):
            opener += 1  # a condition may have several lines
        if opener < first and not any(first < at <= last for at in outside):
            break
    statement = max(
        at
        for at in range(opener + 1, first + 1)
        if indents[at] == indent and not _CONTINUES.match(lines[at])
    )
    lines.insert(statement, f"{' ' * indent}{mark}")
    return "\n".join(lines)


def _trimmed(script: str) -> str:
    """Return a script with fewer definitions, because Redis runs all of them at each call.

    The definitions of fifty fields, of the keys of a shard and of all functions took two thirds of
    the time of a small script. So the values of fields, keys and constants are inlined, and so are
    functions of one parameter that only return an expression. Unused functions are left out. A
    script may therefore use a constant before the line that includes its definition.

    Raises:
        KeyError: the table has no such field.
        ValueError: two of the joined pieces define a constant differently.
    """
    table = _FIELDS.search(script)
    if table is not None:
        names = dict(_FIELD.findall(table[1]))
        script = script.replace(table[0], "")
        script = _USE.sub(lambda use: f"'{names[use[1]]}'", script)
    constants = _CONSTANT.findall(script)
    values = dict(constants)
    if len(values) != len(set(constants)):
        raise ValueError(f"a constant has two values: {sorted(set(constants))}")
    for line in _KEYS.findall(script):
        values.update(zip(line[0].split(", "), line[1].split(", "), strict=True))
    script = _NAME.sub(
        lambda name: f"({values[name[0]]})" if name[0] in values else name[0],
        _CONSTANT.sub("", _KEYS.sub("", script)),
    )
    script = _with_expressions(_without_unused(script))
    prefix = _PREFIX.search(script)
    if prefix is not None and len(re.findall(r"\bPREFIX\b", script)) <= 2:
        # The script uses PREFIX only once, so it computes the value there, or not at all.
        script = script.replace(prefix[0], "")
        script = re.sub(r"\bPREFIX\b", lambda _: prefix[1], script)
    return _LOCALS + script.replace("redis.call(", "redis_call(")


def _with_expressions(script: str) -> str:
    """Inline functions that only return an expression.

    The expression must use each parameter once, in their order: then nothing is evaluated twice or
    in another order. A function that is also used as a value, without a call, is kept.
    """
    for found in list(_EXPRESSION.finditer(script)):
        name, value, parameters = found["name"], found["value"], found["parameters"].split(", ")
        if [word for word in _WORD.findall(value) if word in parameters] != parameters:
            continue
        others = script.replace(found[0], "")
        if re.search(rf"(?<!\.)\b{name}\b(?!\(| = )", others):  # `.name` and `name = ` are members
            continue
        around = re.split(rf"\b(?:{'|'.join(parameters)})\b", value)
        script, start = others, 0
        while (start := script.find(f"{name}(", start)) >= 0:
            if _WORD.match(script[start - 1]):  # the end of a longer name
                start += 1
                continue
            arguments, end = _arguments(script, start + len(name) + 1)
            inlined = around[0]
            for argument, after in zip(arguments, around[1:], strict=True):
                inlined += f"({argument}){after}"
            script = f"{script[:start]}({inlined}){script[end + 1 :]}"
    return script


def _arguments(script: str, at: int) -> tuple[list[str], int]:
    """Return the arguments of a call from ``at`` on, and where its parenthesis closes."""
    arguments, depth, quoted, begin = list[str](), 1, False, at
    while depth:
        character = script[at]
        quoted ^= character == "'"
        depth += 0 if quoted else (character in "({") - (character in ")}")
        if not quoted and (depth == 0 or (depth == 1 and character == ",")):
            arguments.append(script[begin:at].strip())
            begin = at + 1
        at += 1
    return arguments, at - 1


def _without_unused(text: str, used: Set[str] = frozenset()) -> str:
    """Return a text without the functions that neither it nor another text uses.

    Args:
        text: Lua.
        used: the words of the other text.
    """
    # Words are counted once and updated, because each process loads all scripts at its start.
    uses = Counter(_WORD.findall(text))
    while True:
        unused = [
            it[0] for it in _FUNCTION.finditer(text) if uses[it[1]] == 1 and it[1] not in used
        ]
        if not unused:
            return text
        for function in unused:
            text = text.replace(function, "")
            uses.subtract(_WORD.findall(function))
