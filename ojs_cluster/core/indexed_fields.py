"""The fields that the index of the search has, and the values of a job in it.

An operator names the fields in ``OJS_SEARCH_INDEX``: ``tags``, or a member of meta such as
``meta.customer_id``. The values are those that a search compares (``core.searched_content``), so a
look-up in the index finds what the search would find. The index leaves out what exceeds the limits
below.

This module does not know how the index is stored (``store.search.index_values``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

import msgspec

from ojs_cluster.core.raw_json import object_members
from ojs_cluster.core.search import MAX_PATH_NAMES, Search
from ojs_cluster.core.searched_content import members_of_meta, values_of_meta, values_of_tags

MAX_FIELDS: Final = 8
"""Maximum number of indexed fields."""
MAX_VALUES: Final = 20
"""Maximum number of values of a job in the index, of all fields together."""
MAX_VALUE_BYTES: Final = 512
"""Maximum length in bytes of a value in the index."""
MAX_VALUES_READ: Final = 100
"""Maximum number of values of a field that are read, also repeated and long ones."""
MAX_MEMBER_BYTES: Final = 16 * 1024
"""Maximum size of meta and of the tags in the index. Several fields read a part of meta again."""
MAX_ENVELOPE_BYTES: Final = 256 * 1024
"""Maximum size of the JSON of a job in the index. Reading so much takes a few milliseconds."""

_TAGS: Final = "tags"
_ACCEPTED: Final = (
    f"at most {MAX_FIELDS} of tags and meta.NAME, separated by commas, such as "
    "meta.customer_id,tags; a NAME has no blank, colon, comma, quote or slash"
)
_MEMBER: Final = re.compile(rf'meta((?:\.[^\s:,".\\/]{{1,100}}){{1,{MAX_PATH_NAMES}}})')


@dataclass(frozen=True, slots=True)
class IndexedField:
    """A field of the index.

    Args:
        term: the field as a search names it: ``tag`` or ``meta``.
        path: names that lead to the member, for ``meta``.
    """

    term: str
    path: tuple[str, ...] = ()
    _hint: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Prepare the text that a job with this field contains."""
        name = self.path[-1] if self.path else _TAGS
        object.__setattr__(self, "_hint", f'{name}"'.encode())

    @property
    def name(self) -> str:
        """The field as a search writes it, without the colon."""
        return ".".join((self.term, *self.path))

    def may_be_in(self, envelope: bytes) -> bool:
        """Return whether the stored JSON of a job may have the field. This takes microseconds."""
        return self._hint in envelope


def parse_indexed_fields(text: str) -> tuple[IndexedField, ...]:
    """Return the fields that a setting names, each once.

    Raises:
        ValueError: the text names no fields, or too many; the message says what is accepted.
    """
    fields: dict[IndexedField, None] = {}
    for name in (part.strip() for part in text.split(",")):
        member = _MEMBER.fullmatch(name)
        if name == _TAGS:
            fields[IndexedField("tag")] = None
        elif member is not None:
            fields[IndexedField("meta", tuple(member[1][1:].split(".")))] = None
        else:
            raise ValueError(_ACCEPTED)
    if len(fields) > MAX_FIELDS:
        raise ValueError(_ACCEPTED)
    return tuple(fields)


def indexed_values(
    fields: Sequence[IndexedField], envelope: bytes
) -> list[tuple[IndexedField, str]]:
    """Return the values of a job that belong into the index.

    Args:
        fields: the fields of the index.
        envelope: members of the job as JSON, without braces.

    Returns:
        Each field with a value, at most ``MAX_VALUES`` together. None for damaged JSON. The
        largest job takes a few milliseconds.
    """
    if len(envelope) > MAX_ENVELOPE_BYTES:
        return []
    # A name may be written with escapes, such as \u0065.
    escaped = b"\\u" in envelope
    fields = [each for each in fields if escaped or each.may_be_in(envelope)]
    if not fields:
        return []
    found: dict[tuple[IndexedField, str], None] = {}
    with suppress(msgspec.DecodeError, ValueError):
        for item in _values(fields, envelope):
            if len(item[1]) <= MAX_VALUE_BYTES >= len(as_bytes(item[1])):
                found[item] = None
                if len(found) == MAX_VALUES:
                    break
    return list(found)


def _values(fields: Sequence[IndexedField], envelope: bytes) -> Iterator[tuple[IndexedField, str]]:
    """Yield each field with each value that is read."""
    members = object_members(b"{%b}" % envelope.removeprefix(b"{")) or {}
    tags, meta = (bytes(members.get(name, b"")) for name in (_TAGS, "meta"))
    members_of = members_of_meta(meta) if len(meta) <= MAX_MEMBER_BYTES else {}
    tags = tags if len(tags) <= MAX_MEMBER_BYTES else b""
    for each in fields:
        values = values_of_meta(members_of, each.path) if each.path else values_of_tags(tags)
        for value in islice(values, MAX_VALUES_READ):
            yield each, value


def as_bytes(value: str) -> bytes:
    """Return a value as UTF-8, with lone surrogates, which JSON allows."""
    return value.encode("utf-8", "surrogatepass")


def terms_in_index(
    fields: Iterable[IndexedField], search: Search
) -> list[tuple[int, IndexedField, str]]:
    """Return position, field and value of the terms of a search whose jobs the index can list.

    A term with several values is none of them: a job may have two of the values.
    """
    by_name = {(each.term, each.path): each for each in fields}
    return [
        (position, by_name[term.name, term.path], term.texts[0].text)
        for position, term in enumerate(search.terms)
        if (term.name, term.path) in by_name
        and len(term.texts) == 1
        and not term.texts[0].is_prefix
        and len(as_bytes(term.texts[0].text)) <= MAX_VALUE_BYTES
    ]
