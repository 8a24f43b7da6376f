"""Read the content of a job for a search: arguments, meta, tags and errors.

A client chooses the content of its jobs and the terms of its searches, so the work for one job is
limited. ``SearchedContent`` decodes each member once for all terms. A term is compared with at most
``MAX_VALUES_READ`` values. Arrays and objects with more than ``MAX_ITEMS`` items are left out: the
decoder would hold the interpreter for a tenth of a second.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain, islice
from typing import Final, Protocol

import msgspec

from ojs_cluster.core.json_scan import has_more_items
from ojs_cluster.core.raw_json import array_items, object_members, string
from ojs_cluster.core.search_fields import FIELDS

MAX_ITEMS: Final = 10_000
"""Maximum number of items of an array, or members of an object, that a search reads."""
MAX_VALUES_READ: Final = 10_000
"""Maximum number of values of a job that a search compares with one term."""


class SearchedFields(Protocol):
    """The small fields of a job that a search reads."""

    @property
    def id(self) -> str:
        """The id."""

    @property
    def type(self) -> str:
        """The job type."""

    @property
    def queue(self) -> str:
        """The queue."""

    @property
    def state(self) -> str:
        """The state."""

    @property
    def priority(self) -> int:
        """The priority."""

    @property
    def attempt(self) -> int:
        """The number of attempts so far."""

    @property
    def worker(self) -> str:
        """The worker that holds the job, empty for none."""


class SearchedJob(SearchedFields, Protocol):
    """What a search reads of a job: its small fields, and by the methods its content."""

    def members(self) -> Mapping[str, msgspec.Raw]:
        """Return the members that the client chose, such as the args, as JSON.

        Raises:
            msgspec.DecodeError: the stored JSON is damaged.
        """

    def errors(self) -> Iterable[bytes]:
        """Return the kept errors as JSON objects."""


class SearchedContent:
    """The content of one job, decoded when a term first reads it."""

    __slots__ = ("_arguments", "_items", "_job", "_members", "_meta", "_values")

    def __init__(self, job: SearchedJob) -> None:
        """Read nothing yet.

        Args:
            job: the job.
        """
        self._job = job
        self._items: Sequence[msgspec.Raw] | None = None
        self._arguments: Sequence[Mapping[str, msgspec.Raw]] | None = None
        self._members: Mapping[str, msgspec.Raw] | None = None
        self._meta: Mapping[str, msgspec.Raw] | None = None
        self._values: dict[tuple[str, tuple[str, ...]], Sequence[str]] = {}

    def values(self, name: str, path: tuple[str, ...]) -> Sequence[str]:
        """Return the values of a field, at most ``MAX_VALUES_READ``.

        Args:
            name: a field with content, or ``word`` for the texts that a word without a field is
                compared with. These are folded (``str.casefold``) once for all
                words.
            path: names that lead to the member, for ``args`` and ``meta``.

        Returns:
            The values. A job whose stored JSON is damaged has none from the damage on.
        """
        found = self._values.get((name, path))
        if found is None:
            read: list[str] = []
            with suppress(msgspec.DecodeError, ValueError):
                read.extend(islice(self._texts(name, path), MAX_VALUES_READ))
            found = self._values[name, path] = read
        return found

    def _texts(self, name: str, path: tuple[str, ...]) -> Iterable[str]:
        if name == "word":
            job = self._job
            texts = chain((job.id, job.type, job.queue), _error_texts(job.errors()))
            return map(str.casefold, texts)
        member = FIELDS[name].content
        match member:
            case "errors":
                return _error_texts(self._job.errors())
            case "args":
                return self._argument_texts(path)
            case "meta":
                if self._meta is None:
                    self._meta = _members(self._member(member))
                return _texts_at(self._meta, path)
        return _scalars(self._member(member))

    def _member(self, name: str) -> bytes:
        if self._members is None:
            self._members = self._job.members()
        return bytes(self._members.get(name, b""))

    def _argument_texts(self, path: tuple[str, ...]) -> Iterator[str]:
        """Yield the texts of an argument by its position, or of members of all arguments."""
        if self._items is None:
            self._items = _array(self._member("args"))
        if path[0].isascii() and path[0].isdigit():
            for item in self._items[int(path[0]) :][:1]:
                yield from _member_texts(item, path[1:])
        if self._arguments is None:
            self._arguments = [members for item in self._items if (members := _members(item))]
        for members in self._arguments:
            yield from _texts_at(members, path)


def members_of_meta(meta: bytes) -> Mapping[str, msgspec.Raw]:
    """Return the members of ``meta`` that a search reads.

    Args:
        meta: the JSON object, empty for none.

    Raises:
        msgspec.DecodeError, ValueError: the JSON is damaged.
    """
    return _members(meta)


def values_of_meta(members: Mapping[str, msgspec.Raw], path: tuple[str, ...]) -> Iterator[str]:
    """Yield the texts of a member of ``meta`` that a search compares.

    Args:
        members: the members of ``meta``.
        path: names that lead to the member.

    Raises:
        msgspec.DecodeError, ValueError: the JSON is damaged.
    """
    return _texts_at(members, path)


def values_of_tags(tags: bytes) -> Iterator[str]:
    """Yield the tags that a search compares, of a JSON array; see ``values_of_meta``."""
    return _scalars(tags)


def _member_texts(raw: msgspec.Raw | bytes, path: tuple[str, ...]) -> Iterator[str]:
    """Yield the texts of a value, or of its members at ``path``."""
    if path:
        yield from _texts_at(_members(raw), path)
    else:
        yield from _scalars(raw)


def _texts_at(members: Mapping[str, msgspec.Raw], path: tuple[str, ...]) -> Iterator[str]:
    """Yield the texts of the members at ``path``. A name may itself contain dots."""
    for end in range(len(path), 0, -1):
        value = members.get(".".join(path[:end]))
        if value is not None:
            yield from _member_texts(value, path[end:])


def _scalars(raw: msgspec.Raw | bytes) -> Iterator[str]:
    """Yield the text of a value, or those of the items of an array."""
    piece = bytes(raw)
    if piece[:1] == b"[":
        for item in _array(piece):
            if bytes(item)[:1] not in (b"[", b"{"):
                yield from _scalars(item)
    elif piece[:1] == b'"':
        text = string(piece)
        if text is not None:
            yield text
    elif piece and piece[:1] != b"{":
        yield piece.decode()


def _error_texts(errors: Iterable[bytes]) -> Iterator[str]:
    """Yield type, code and message of each error."""
    for error in errors:
        members = _members(error)
        for name in ("type", "code", "message"):
            text = string(members[name]) if name in members else None
            if text is not None:
                yield text


def _array(raw: bytes) -> Sequence[msgspec.Raw]:
    """Return the items of an array; none if it is too large or no array."""
    return () if _is_too_large(raw) else array_items(raw) or ()


def _members(raw: msgspec.Raw | bytes) -> Mapping[str, msgspec.Raw]:
    """Return the members of an object; none if it is too large or no object."""
    piece = bytes(raw)
    if piece[:1] != b"{" or _is_too_large(piece):
        return {}
    return object_members(piece) or {}


def _is_too_large(raw: bytes) -> bool:
    # Each item and its comma take two bytes at least.
    return len(raw) > 2 * MAX_ITEMS and has_more_items(raw, MAX_ITEMS)
