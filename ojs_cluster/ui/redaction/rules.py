"""What ``OJS_UI_REDACT`` hides in JSON: members by name, values by path, and texts by pattern."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from ojs_cluster.ui.json_view import HIDDEN, MAX_SHOWN, end_of_value, name_of, tokens_of
from ojs_cluster.ui.redaction.patterns import Replace, pattern

HIDDEN_JSON: Final = b'"%b"' % HIDDEN.encode()
"""What stands for a hidden value."""
ROOTS: Final = frozenset(
    {
        *("args", "meta", "result", "options", "errors", "progress_data", "parent_results"),
        *("worker", "attributes"),
    }
)
"""The first segments of paths."""
ANY: Final = "*"
ALIASES: Final = {"error": "errors", "parent_results_by_id": "parent_results"}
"""Other names of roots: the member ``error`` of a job is one of its ``errors``."""
_MAX_RULES: Final = 100
_FIRST_PLACES: Final[Mapping[str, str | int]] = {"[": 0, "{": ""}
"""What begins an array or an object, and where its first value is; a name is not read yet."""
_ENDS: Final = frozenset("]}")
_PUNCTUATION: Final = frozenset("[]{},:")

Path = tuple[str, ...]
"""Lower-case names and numbers; ``*`` stands for any one, and in the path of a value for one that
the page does not know, such as the number of an error."""


@dataclass(frozen=True, slots=True)
class PathRule:
    """A path whose values are hidden.

    Attributes:
        types: a pattern of the types of jobs whose values are hidden; empty for all.
        path: the path.
    """

    types: str
    path: Path

    def applies_to(self, job_type: str) -> bool:
        """Return whether the rule applies to a value of a job.

        Args:
            job_type: the type of the job. It is empty if the page does not know it; then every rule
                applies, because any of them may be meant.
        """
        if not self.types or not job_type:
            return True
        return fnmatchcase(job_type, self.types)

    def covers(self, path: Path) -> bool:
        """Return whether a value at ``path`` is a hidden value or a part of one."""
        return len(path) >= len(self.path) and _agree(self.path, path)


def _agree(one: Path, other: Path) -> bool:
    """Return whether two paths may be the same, as far as the shorter one leads."""
    return all(a == b or ANY in (a, b) for a, b in zip(one, other, strict=False))


def _by_length(paths: Iterable[Path]) -> Mapping[int, Sequence[Path]]:
    """Return paths by their length: a walk compares each value only with those of its depth."""
    found: dict[int, list[Path]] = {}
    for path in paths:
        found.setdefault(len(path), []).append(path)
    return found


@dataclass(frozen=True, slots=True)
class Rules:
    """The parsed setting.

    Attributes:
        names: lower-case names of members.
        paths: the paths.
        patterns: what hides texts.
    """

    names: frozenset[str] = frozenset()
    paths: tuple[PathRule, ...] = ()
    patterns: tuple[Replace, ...] = ()

    def text(self, text: str) -> str:
        """Return a text without what the patterns find."""
        for hide in self.patterns:
            text = hide(text)
        return text

    def json(self, raw: bytes, job_type: str, path: Path) -> bytes:
        """Return JSON whose hidden values are replaced by ``HIDDEN_JSON``.

        Args:
            raw: valid JSON. More than ``MAX_SHOWN`` bytes are hidden as a whole.
            job_type: the type of the job. If it is empty, the paths of all types count.
            path: where the value is, such as ``("args",)``. A rule for what it is a part of hides
                it as a whole.

        Returns:
            ``raw`` itself if nothing is hidden.
        """
        rules = [rule for rule in self.paths if rule.applies_to(job_type)]
        is_part = not self.names.isdisjoint(path) or any(rule.covers(path) for rule in rules)
        if is_part or len(raw) > MAX_SHOWN:  # the walk below compares only what is inside
            return HIDDEN_JSON
        tokens = tokens_of(raw.decode(errors="replace"))
        pieces = list(self._pieces(tokens, [rule.path for rule in rules], path))
        is_any_hidden = any(is_hidden for _, is_hidden in pieces)
        return "".join(text for text, _ in pieces).encode() if is_any_hidden else raw

    def _pieces(
        self, tokens: Sequence[str], hidden_paths: Sequence[Path], start: Path
    ) -> Iterator[tuple[str, bool]]:
        """Yield the text to show for each token, and whether it hides something.

        A hidden array or object is one piece.

        Args:
            tokens: the tokens of a JSON value.
            hidden_paths: the paths of the rules that apply to it.
            start: the path of the value.
        """
        of_length = _by_length(hidden_paths)
        inside: list[str | int] = []  # leads from the value to a piece: names, and array indexes
        at = 0
        while at < len(tokens):
            piece = tokens[at]
            if tokens[at + 1 : at + 2] == [":"]:
                inside[-1] = name_of(piece)
            elif piece == ",":
                if isinstance(index := inside[-1], int):
                    inside[-1] = index + 1
            elif piece in _ENDS:
                inside.pop()
            elif piece != ":":  # it begins a value
                if self._is_hidden(inside, start, of_length):
                    yield f'"{HIDDEN}"', True
                    at = end_of_value(tokens, at)
                    continue
                if piece in _FIRST_PLACES:
                    inside.append(_FIRST_PLACES[piece])
            shown = piece if piece in _PUNCTUATION else self._scalar(piece)
            yield shown, shown != piece
            at += 1

    def _is_hidden(
        self, inside: Sequence[str | int], start: Path, of_length: Mapping[int, Sequence[Path]]
    ) -> bool:
        """Return whether a value is hidden by its name or by a path that ends at it.

        Args:
            inside: leads from the outer value to this one.
            start: the path of the outer value.
            of_length: the paths of rules, by their length.
        """
        if inside and inside[-1] in self.names:
            return True
        candidates = of_length.get(len(start) + len(inside))
        if not candidates:
            return False
        path = (*start, *map(str, inside))
        return any(_agree(candidate, path) for candidate in candidates)

    def _scalar(self, token: str) -> str:
        """Return a string without what the patterns find; a number that they find is hidden."""
        if not self.patterns:
            return token
        if token[0] != '"':
            return token if self.text(token) == token else f'"{HIDDEN}"'
        try:
            text = str(json.loads(token, strict=False))
        except ValueError:
            return f'"{HIDDEN}"'
        shown = self.text(text)
        return token if shown == text else json.dumps(shown)


def parse_rules(words: frozenset[str]) -> Rules:
    """Return the rules of the entries of ``OJS_UI_REDACT``.

    Args:
        words: lower-case entries: a name, ``name:`` with one that has dots, a path such as
            ``args.0.card``, ``type:email.*/args.1``, or ``value:`` with a pattern.

    Raises:
        ValueError: an entry is none of these, or there are too many. The message says what is
            expected.
    """
    if len(words) > _MAX_RULES:
        raise ValueError(f"at most {_MAX_RULES} entries")
    names: set[str] = set()
    paths: list[PathRule] = []
    patterns: list[Replace] = []
    for word in sorted(words):
        if word.startswith("value:"):
            patterns.append(pattern(word.removeprefix("value:")))
        elif word.startswith("type:"):
            paths.append(_rule_of_types(word.removeprefix("type:")))
        elif word.startswith("name:"):
            names.add(_name(word.removeprefix("name:")))
        elif "." in word:
            paths.append(PathRule("", _path(word)))
        else:
            names.add(word)
    names |= {ALIASES[name] for name in names if name in ALIASES}
    return Rules(frozenset(names), tuple(paths), tuple(patterns))


def _rule_of_types(text: str) -> PathRule:
    """Return the rule of what follows ``type:``, such as ``email.*/args.1``."""
    types, _, path = text.partition("/")
    if not types or not path:
        raise ValueError("a type and a path, such as type:email.*/args.1")
    return PathRule(types, _path(path))


def _name(text: str) -> str:
    """Return what follows ``name:``."""
    if not text:
        raise ValueError("a name, such as name:card.number")
    return text


def _path(text: str) -> Path:
    """Return the path of an entry.

    A first segment that is not a root is refused. It is probably misspelt, and would hide nothing.
    """
    path = tuple(text.split("."))
    if path[0] not in ROOTS:
        raise ValueError(
            f"{text!r} to begin with one of {', '.join(sorted(ROOTS))}, such as args.0.card; "
            "a name with dots is written name:card.number"
        )
    if "" in path:
        raise ValueError(f"a path such as args.0.card, not {text!r}")
    return path
