"""Read a search for jobs, and decide which jobs it finds.

A search is a list of terms, separated by blanks. A job must match all of them::

    queue:mail,bulk type:email.* state:discarded error:"connection reset"* attempt:>3 args.user:42

* A word without a field, or a quoted text, is part of the id, the type, the queue, or of the type,
  code or message of an error. Upper and lower case are the same.
* ``id queue type state tag worker error`` compare text. A comma separates alternatives. A value is
  exact, or a prefix that ends in ``*``. A quoted value may hold blanks and commas; a backslash
  escapes a quote or a backslash in it. An asterisk inside the quotes is an ordinary character.
* ``args.NAME`` and ``meta.NAME`` compare a member in the same way. Dots lead to inner members.
  ``args.0`` is the first argument; another name is a member of any argument. Numbers compare by
  their text, so large ones stay exact. An array matches if one of its items does. How much of a
  large job is compared is limited (``core.searched_content``).
* ``priority`` and ``attempt`` compare whole numbers: ``5``, ``>5``, ``>=5``, ``<5``, ``<=5``.
* ``since`` and ``until`` are RFC 3339 times, or how long ago as ``90s``, ``15m``, ``2h``, ``7d``.

This module neither reads a clock nor knows how jobs are stored. ``searched_content.SearchedJob``
says what it needs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.search_fields import FIELDS, STARTS, Kind
from ojs_cluster.core.searched_content import SearchedContent, SearchedFields, SearchedJob
from ojs_cluster.core.timestamps import parse_timestamp

MAX_CHARACTERS: Final = 2000
"""Maximum length of a search."""
MAX_TERMS: Final = 20
"""Maximum number of terms of a search."""
MAX_VALUES: Final = 100
"""Maximum number of values of a term."""
MAX_PATH_NAMES: Final = 6
"""Maximum number of names in the path of an argument or a meta value."""

_WORD: Final = "word"
"""Name of a term without a field."""

_NAME: Final = re.compile(r"([a-z][a-z0-9_-]*)((?:\.[^\s:,\"]+)?):")
_OPERATOR: Final = re.compile(r"[.!]*[:=<>~]")
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\.)*+)"(\*?)')
_BARE: Final = re.compile(r'[^\s,"]+')
_WITHOUT_FIELD: Final = re.compile(r"[^\s\"]+")
_NUMBER: Final = re.compile(r"(>=|<=|>|<|=|)(-?[0-9]{1,9})")
_AGO: Final = re.compile(r"([0-9]{1,6})([smhd])")
_UNIT_MS: Final = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


@dataclass(frozen=True, slots=True)
class TextPattern:
    """An exact text, or the prefix of a text."""

    text: str
    is_prefix: bool = False

    def admits(self, value: str) -> bool:
        """Return whether ``value`` matches."""
        return value.startswith(self.text) if self.is_prefix else value == self.text


@dataclass(frozen=True, slots=True)
class NumberPattern:
    """A comparison with a whole number."""

    operator: str
    number: int

    def admits(self, value: int) -> bool:
        """Return whether ``value`` matches."""
        match self.operator:
            case ">":
                return value > self.number
            case ">=":
                return value >= self.number
            case "<":
                return value < self.number
            case "<=":
                return value <= self.number
        return value == self.number


@dataclass(frozen=True, slots=True)
class Term:
    """A field with its alternatives.

    Args:
        name: the field, or ``word`` for a term without a field.
        path: names that lead to the member, for ``args`` and ``meta``.
        texts: the alternatives of a text field.
        numbers: the alternatives of a number field.

    Attributes:
        needs_content: whether the term reads the content of a job.
    """

    name: str
    path: tuple[str, ...] = ()
    texts: tuple[TextPattern, ...] = ()
    numbers: tuple[NumberPattern, ...] = ()
    needs_content: bool = field(init=False, compare=False)
    _exact: frozenset[str] = field(init=False, repr=False, compare=False)
    _prefixes: tuple[str, ...] = field(init=False, repr=False, compare=False)
    _word: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Sort the texts, so that a value is compared with all of them at once."""
        exact = frozenset(pattern.text for pattern in self.texts if not pattern.is_prefix)
        prefixes = tuple(pattern.text for pattern in self.texts if pattern.is_prefix)
        object.__setattr__(self, "_exact", exact)
        object.__setattr__(self, "_prefixes", prefixes)
        word = self.texts[0].text.casefold() if self.name == _WORD else ""
        object.__setattr__(self, "_word", word)
        needs_content = self.name == _WORD or bool(FIELDS[self.name].content)
        object.__setattr__(self, "needs_content", needs_content)

    @property
    def admits_all(self) -> bool:
        """Whether every job matches, such as with ``type:*``."""
        return self.name != _WORD and FIELDS[self.name].always_set and "" in self._prefixes

    def admits(self, job: SearchedFields) -> bool:
        """Return whether a property of ``job`` matches one of the alternatives."""
        value = getattr(job, self.name)
        if self.numbers:
            return any(pattern.admits(value) for pattern in self.numbers)
        return bool(value) and self._admits_any((value,))

    def admits_content(self, content: SearchedContent) -> bool:
        """Return whether the content of a job matches one of the alternatives."""
        return self._admits_any(content.values(self.name, self.path))

    def admits_text(self, value: str) -> bool:
        """Return whether the value of a text field matches one of the alternatives."""
        return self._admits_any((value,))

    def _admits_any(self, values: Sequence[str]) -> bool:
        if self._word:
            return any(self._word in value for value in values)
        if not self._exact.isdisjoint(values):
            return True
        prefixes = self._prefixes
        return bool(prefixes) and any(value.startswith(prefixes) for value in values)


@dataclass(frozen=True, slots=True)
class Search:
    """A parsed search.

    Args:
        terms: the terms; a job must match all.
        since_ms: Unix time in ms, None for any. The caller finds only jobs of this time or later.
        until_ms: Unix time in ms, None for any. The caller finds only jobs before this time.
        untimed: the text of the search without ``since`` and ``until``.
    """

    terms: tuple[Term, ...] = ()
    since_ms: int | None = None
    until_ms: int | None = None
    untimed: str = field(default="", compare=False)

    @property
    def needs_content(self) -> bool:
        """Whether a term reads the content of a job."""
        return any(term.needs_content for term in self.terms)

    @property
    def admits_all(self) -> bool:
        """Whether the search has no condition: no time, and only terms that every job matches."""
        has_time = self.since_ms is not None or self.until_ms is not None
        return not has_time and all(term.admits_all for term in self.terms)

    def admits_without_content(self, job: SearchedFields) -> bool:
        """Return whether ``job`` matches all terms that do not read its content."""
        return all(term.admits(job) for term in self.terms if not term.needs_content)

    def admits(self, job: SearchedJob) -> bool:
        """Return whether ``job`` matches all terms. The caller compares the times."""
        return self.admits_without_content(job) and self.admits_content(job)

    def admits_content(self, job: SearchedJob) -> bool:
        """Return whether ``job`` matches all terms that read its content."""
        content = SearchedContent(job)
        return all(term.admits_content(content) for term in self.terms if term.needs_content)

    def has_field(self, name: str) -> bool:
        """Return whether a term has the field ``name``."""
        return any(term.name == name for term in self.terms)

    def exact_values(self, name: str) -> frozenset[str] | None:
        """Return all values that field ``name`` may have in a matching job.

        Returns:
            The values; None if the terms do not list them.
        """
        found: frozenset[str] | None = None
        for term in self.terms:
            if term.name == name and not any(pattern.is_prefix for pattern in term.texts):
                values = frozenset(pattern.text for pattern in term.texts)
                found = values if found is None else found & values
        return found

    def values_among(self, name: str, values: Iterable[str]) -> list[str]:
        """Return which of ``values`` all terms with the field ``name`` admit; none without any."""
        terms = [term for term in self.terms if term.name == name]
        return [
            value for value in values if terms and all(term.admits_text(value) for term in terms)
        ]


def parse_search(text: str, *, now_ms: int) -> Search:
    """Parse a search.

    Args:
        text: the search; an empty one finds every job.
        now_ms: the time now in Unix milliseconds, for times such as ``2h``.

    Raises:
        InvalidRequest: the text is not a search; the message says where and why.
    """
    if len(text) > MAX_CHARACTERS:
        raise _rejected(f"has more than {MAX_CHARACTERS} characters")
    terms: list[Term] = []
    since: list[int] = []
    until: list[int] = []
    untimed: list[str] = []
    position = _skip_blanks(text, 0)
    while position < len(text):
        if len(terms) + len(since) + len(until) >= MAX_TERMS:
            raise _rejected(f"has more than {MAX_TERMS} terms")
        match = _NAME.match(text, position)
        start = position
        if match is None:
            word, position = _parse_word(text, position)
            terms.append(Term(_WORD, texts=(TextPattern(word),)))
            untimed.append(text[start:position])
            position = _skip_blanks(text, position)
            continue
        name, path = match[1], tuple(match[2][1:].split(".")) if match[2] else ()
        kind = _kind_of(name, path)
        values, position = _parse_values(text, match.end())
        if kind is Kind.TIME:
            (since if name == "since" else until).append(_time_of(name, values, now_ms))
        elif kind is Kind.NUMBER:
            terms.append(Term(name, numbers=tuple(_number_of(name, value) for value in values)))
        else:
            terms.append(Term(name, path, tuple(values)))
        if kind is not Kind.TIME:
            untimed.append(text[start:position])
        position = _skip_blanks(text, position)
    for term in terms:
        if term.name == "state":
            _check_states(term)
    return Search(
        tuple(terms), max(since, default=None), min(until, default=None), " ".join(untimed)
    )


def quoted(text: str) -> str:
    """Return a text as a quoted value of a search, in which an asterisk has no meaning."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _skip_blanks(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def _parse_word(text: str, position: int) -> tuple[str, int]:
    """Return the text without a field that begins at ``position``, and the position after it.

    An asterisk at the end changes nothing, because the text is compared with every part of a value.
    A field in another spelling, such as ``QUEUE:mail``, ``queue=mail`` or ``attempt>3``, is more
    likely a mistake than a text.
    """
    if text[position] == '"':
        start = position
        values, position = _parse_values(text, position)
        if len(values) > 1:
            raise _rejected(f"has no field at {text[start:][:40]!r}: use {_field_names()}")
        word = values[0].text
    else:
        bare = _WITHOUT_FIELD.match(text, position)
        assert bare is not None  # noqa: S101 - neither a blank nor a quote is here
        word, position = bare[0].rstrip("*"), bare.end()
        named, *compared = _OPERATOR.split(word.lower().lstrip("-+!."), maxsplit=1)
        if compared and named.partition(".")[0] in FIELDS:
            raise _rejected(
                f"has no field at {bare[0][:40]!r}: use {_field_names()}, or quote a text"
            )
        if position < len(text) and not text[position].isspace():
            raise _rejected(f"needs a blank before {text[position:][:40]!r}")
    if not word.strip():
        raise _rejected(f"has an empty text before {text[position:][:40]!r}")
    return word, position


def _parse_values(text: str, position: int) -> tuple[list[TextPattern], int]:
    """Return the values that begin at ``position``, and the position after them."""
    values: list[TextPattern] = []
    while True:
        quoted = _QUOTED.match(text, position)
        if quoted is not None:
            inner = re.sub(r"\\(.)", r"\1", quoted[1], flags=re.DOTALL)
            values.append(TextPattern(inner, quoted[2] == "*"))
            position = quoted.end()
        else:
            bare = _BARE.match(text, position)
            if bare is None:
                raise _rejected(f"has no value, or an open quote, at {text[position:][:40]!r}")
            prefix = bare[0].endswith("*")
            values.append(TextPattern(bare[0][:-1] if prefix else bare[0], prefix))
            position = bare.end()
        if len(values) > MAX_VALUES:
            raise _rejected(f"has more than {MAX_VALUES} values of a field")
        if position == len(text) or text[position].isspace():
            return values, position
        if text[position] != ",":
            raise _rejected(f"needs a blank or a comma before {text[position:][:40]!r}")
        position += 1


def _kind_of(name: str, path: tuple[str, ...]) -> Kind:
    """Return the kind of a field; check that it exists, and has a path if it needs one."""
    field = FIELDS.get(name)
    if field is None or (path and not field.has_path):
        raise _rejected(
            f"has the unknown field '{'.'.join((name, *path))[:40]}': use {_field_names()}, or "
            "quote a text that has a colon"
        )
    if field.has_path and not all(path or [""]):
        raise _rejected(f"needs a name after '{name}.'")
    if len(path) > MAX_PATH_NAMES:
        raise _rejected(f"has more than {MAX_PATH_NAMES} names in a path")
    return field.kind


def _check_states(term: Term) -> None:
    for pattern in term.texts:
        if not any(pattern.admits(state.value) for state in State):
            raise _rejected(f"names no state: use {', '.join(State)}")


def _number_of(name: str, value: TextPattern) -> NumberPattern:
    match = None if value.is_prefix else _NUMBER.fullmatch(value.text)
    if match is None:
        raise _rejected(f"needs a number after '{name}:', such as 5 or >3")
    return NumberPattern(match[1] or "=", int(match[2]))


def _time_of(name: str, values: list[TextPattern], now_ms: int) -> int:
    if len(values) == 1 and not values[0].is_prefix:
        text = values[0].text
        ago = _AGO.fullmatch(text)
        if ago is not None:
            return now_ms - int(ago[1]) * _UNIT_MS[ago[2]]
        with suppress(ValueError):
            return parse_timestamp(text, allow_delay=False).ms
    raise _rejected(f"needs one time after '{name}:', such as 2030-01-01T00:00:00Z, 15m or 7d")


def _field_names() -> str:
    return ", ".join(f"{start}NAME:" if start.endswith(".") else start for start in STARTS)


def _rejected(reason: str) -> InvalidRequest:
    return InvalidRequest(f"the search {reason}", field="query")
