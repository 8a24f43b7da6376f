"""docs/keys.md lists every key that the code can spell."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest

from ojs_cluster.keys import META, SHARD_KEYS, Keyspace, Meta, Shard, type_of_key

PAGE = (Path(__file__).parents[3] / "docs" / "keys.md").read_text()
CODE = set(re.findall(r"`([^`\n]+)`", PAGE))
"""Everything that the page sets as code."""


def builders(owner: type) -> list[str]:
    """Methods that return a key: they take names and return bytes."""
    return [
        name
        for name, method in inspect.getmembers(owner, inspect.isfunction)
        if not name.startswith("_") and inspect.signature(method).return_annotation == "bytes"
    ]


def named(key: bytes, tag: str) -> str:
    """A key as the page writes it: without tag, each name as a placeholder."""
    return key.decode().removeprefix(f"ojs:{{{tag}}}:")


def documented(key: str) -> bool:
    """Whether the page lists a key, whatever it calls the placeholders."""
    pattern = re.compile(re.escape(key).replace("X", r"<[\w ]+>"))
    return any(pattern.fullmatch(code.removeprefix("ojs:{meta}:")) for code in CODE)


@pytest.mark.parametrize("name", SHARD_KEYS)
def test_a_key_that_each_shard_has_once_is_documented(name: str) -> None:
    assert documented(name)


@pytest.mark.parametrize("name", builders(Shard))
def test_a_key_of_a_shard_is_documented(name: str) -> None:
    shard = Keyspace(64).shard(3)
    method = getattr(shard, name)
    names = list(inspect.signature(method).parameters.values())
    key = named(method(*(META if part.annotation == "int" else "X" for part in names)), shard.tag)
    assert documented(key.replace(str(META), "X")), key


@pytest.mark.parametrize("name", [field.name for field in fields(Meta) if field.type == "bytes"])
def test_a_key_under_the_meta_tag_is_documented(name: str) -> None:
    assert documented(named(getattr(Meta(), name), "meta"))


@pytest.mark.parametrize("name", builders(Meta))
def test_a_key_of_a_cron_job_or_a_group_is_documented(name: str) -> None:
    assert documented(named(getattr(Meta(), name)("X"), "meta"))


def documented_types() -> dict[str, str]:
    """The Redis type of each key in the tables of the page, where a row has one or all types."""
    found: dict[str, str] = {}
    for line in PAGE.splitlines():
        if not line.startswith("| `"):
            continue
        keys, types, *_ = (cell.strip() for cell in line.strip("|").split(" | "))
        names = re.findall(r"`([^`]+)`", keys.partition(" with field")[0])
        of_each = types.split(", ") * (1 if ", " in types else len(names))
        if len(names) == len(of_each):
            found |= dict(zip(names, of_each, strict=True))
    return {name: kind for name, kind in found.items() if "channel" not in kind}


def test_the_types_of_keys_are_documented() -> None:
    found = documented_types()
    assert len(found) > 90
    for name, kind in found.items():
        key = f"ojs:{{t}}:{name.removeprefix('ojs:{meta}:')}".encode()
        assert type_of_key(key).decode().replace("zset", "sorted set") == kind, name


def test_a_missing_key_is_noticed() -> None:
    assert not documented("no_such_key")
    assert not documented("zz:X")
