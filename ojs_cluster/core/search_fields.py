"""The fields that a search may name: the only list of them (``core.search`` explains searches)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final


class Kind(Enum):
    """What a value of a field is compared with."""

    TEXT = "text"
    NUMBER = "number"
    TIME = "time"


@dataclass(frozen=True, slots=True)
class SearchField:
    """A field that a search may name.

    Args:
        kind: what its values are compared with.
        content: the member of a job that has its values; empty for a small field, an attribute of
            ``SearchedFields``. The content of a job may be large, so small fields are compared
            first.
        has_path: whether names follow, which lead to an inner member.
        always_set: whether each job has a value, so that an empty prefix admits all jobs.
    """

    kind: Kind = Kind.TEXT
    content: str = ""
    has_path: bool = False
    always_set: bool = False


FIELDS: Final = MappingProxyType(
    {
        "id": SearchField(always_set=True),
        "queue": SearchField(always_set=True),
        "type": SearchField(always_set=True),
        "state": SearchField(always_set=True),
        "priority": SearchField(Kind.NUMBER),
        "tag": SearchField(content="tags"),
        "worker": SearchField(),
        "error": SearchField(content="errors"),
        "attempt": SearchField(Kind.NUMBER),
        "args": SearchField(content="args", has_path=True),
        "meta": SearchField(content="meta", has_path=True),
        "since": SearchField(Kind.TIME),
        "until": SearchField(Kind.TIME),
    }
)
"""All fields by their names."""
STARTS: Final = tuple(
    f"{name}." if field.has_path else f"{name}:" for name, field in FIELDS.items()
)
"""How a term with each field starts, for completion."""
