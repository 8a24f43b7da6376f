"""No stored name changes without another layout number.

``names_<layout>.json`` has the names of each layout. Its part ``pinned`` never changes: the digest
here would differ. A name that is added without another number, as docs/upgrading.md allows, goes to
the part ``added``. The part ``removed`` has names that no process of this version reads or writes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast

import pytest

from ojs_cluster.redis.client import Client
from ojs_cluster.store.context import Store
from ojs_cluster.store.ground.process_state.migration import LAYOUTS
from tests.store.migrations.stored_names import Names, StoredNames, declared_names
from tests.store.scripts.test_one_tag import one_life_of_everything

DIGESTS: Final = {1: "132ba71e3a290d3e"}
_STORE: Final = Path(__file__).parents[3] / "ojs_cluster" / "store"
_HASH_COMMAND: Final = re.compile(
    r"redis\.p?call\('(?:HSET|HSETNX|HGET|HMGET|HDEL|HINCRBY|HEXISTS)',\s*[^,()]+(?:\([^()]*\))?,"
    r"([^)]*)\)"
)
_VALUES: Final = frozenset({"running", "stopping", "state"})
"""Values that scripts write into a field."""
HINT: Final = (
    "a stored name has changed: give it another layout number (docs/upgrading.md, 'The rule for "
    "developers')"
)


def read_names(layout: int, part: str) -> Names:
    file = Path(__file__).with_name(f"names_{layout}.json")
    return {kind: set(names) for kind, names in json.loads(file.read_text())[part].items()}


def all_names(layout: int) -> Names:
    names: Names = defaultdict(set)
    for part in ("pinned", "added"):
        for kind, found in read_names(layout, part).items():
            names[kind] |= found
    for kind, found in read_names(layout, "removed").items():
        names[kind] -= found
    return names


def digest_of(names: Names) -> str:
    text = json.dumps({kind: sorted(found) for kind, found in names.items()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@pytest.mark.parametrize("layout", range(LAYOUTS.oldest, LAYOUTS.newest + 1))
def test_the_names_of_each_layout_are_pinned(layout: int) -> None:
    assert digest_of(read_names(layout, "pinned")) == DIGESTS[layout], HINT


def test_the_declared_names_are_those_of_the_layout() -> None:
    names = all_names(LAYOUTS.written)
    for kind, declared in declared_names().items():
        assert sorted(names[kind] - declared) == [], (kind, HINT)
        assert sorted(declared - names[kind]) == [], f"{kind}: add them to 'added'"


async def test_the_scripts_write_the_names_of_the_layout(store: Store, db: Any) -> None:
    redis = StoredNames(store.redis, db)
    await one_life_of_everything(replace(store, redis=cast(Client, redis)), db)
    redis.read_all()
    names = all_names(LAYOUTS.written)
    for kind, found in redis.found.items():
        new = {name for name in found - names[kind] if not (kind == "j" and name == "h#")}
        assert sorted(new) == [], f"{kind}: {HINT}, or add them to 'added'"


def test_every_name_is_still_spelled_in_the_store() -> None:
    spelled = set()
    for file in (*_STORE.rglob("*.lua"), *_STORE.parent.rglob("*.py")):
        spelled |= set(re.findall(r"['\"]([^'\"\s]+)['\"]", file.read_text()))
        # Fields of a hash that a script has read as a table.
        spelled |= set(re.findall(r"\.(?:fields|changed)\.(\w+)", file.read_text()))
        # Members of a record: fields of a struct or a dataclass.
        spelled |= set(re.findall(r"^    ([a-z_]+): ", file.read_text(), re.M))
    declared = declared_names()
    for kind, names in all_names(LAYOUTS.written).items():
        if kind not in declared:
            fields = {name.partition(".")[2] or name for name in names}
            gone = {name for name in fields if "#" not in name and name not in spelled}
            assert sorted(gone) == [], (kind, HINT)


def test_every_field_that_a_script_spells_is_a_name_of_the_layout() -> None:
    known = set().union(*all_names(LAYOUTS.written).values())
    known |= {name.replace("#", "") for name in known}
    for file in _STORE.rglob("*.lua"):
        for arguments in _HASH_COMMAND.findall(file.read_text()):
            for name in re.findall(r"(?:^|,)\s*'([a-z_@:]+)'\s*(?=,|$|\.\.)", arguments):
                assert name in known | _VALUES, f"{file.name}: {name}: add it to 'added'"
