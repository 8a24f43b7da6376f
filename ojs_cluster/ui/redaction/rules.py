"""What ``OJS_UI_REDACT`` hides in JSON: members by name, values by path, and texts by pattern."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from ojs_cluster.ui.json_view import HIDDEN, MAX_SHOWN, end_of_value, name_of, tokens_of
from ojs_cluster.ui.redaction.patterns import Replace, pattern

HIDDEN_JSON: Final = b'"hidden"'
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
"""Members of a job that have a part of what is in another one."""
_MAX_RULES: Final = 100

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
        """Return whether the rule is for jobs of a type; for all types if it is empty."""
        return not (self.types and job_type) or fnmatchcase(job_type, self.types)

    def covers(self, path: Path) -> bool:
        """Return whether a value at ``path`` is a hidden value or a part of one."""
        return len(path) >= len(self.path) and _agree(self.path, path)


def _agree(one: Path, other: Path) -> bool:
    """Return whether two paths may be the same, as far as the shorter one leads."""
    return all(a == b or ANY in (a, b) for a, b in zip(one, other, strict=False))


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
        text = raw.decode(errors="replace")
        found = list(self._pieces(tokens_of(text), rules, path))
        return "".join(piece for piece, _ in found).encode() if any(c for _, c in found) else raw

    def _pieces(
        self, tokens: Sequence[str], rules: Sequence[PathRule], path: Path
    ) -> Iterator[tuple[str, bool]]:
        """Yield the tokens, and whether each differs from the original."""
        paths: dict[int, list[Path]] = {}
        for rule in rules:
            paths.setdefault(len(rule.path), []).append(rule.path)
        places: list[str | int] = []  # a number in an array, a name in an object
        at = 0
        while at < len(tokens):
            piece, is_name = tokens[at], tokens[at + 1 : at + 2] == [":"]
            if piece in ("]", "}"):
                places.pop()
            elif piece == ",":
                place = places[-1]
                if isinstance(place, int):
                    places[-1] = place + 1
            elif is_name:
                places[-1] = name_of(piece)
                shown = self._scalar(piece)
                yield shown, shown != piece
                at += 1
                continue
            elif piece != ":":
                if self._is_hidden(paths, path, places):
                    yield f'"{HIDDEN}"', True
                    at = end_of_value(tokens, at)
                    continue
                if piece in ("[", "{"):
                    places.append(0 if piece == "[" else "")
                else:
                    shown = self._scalar(piece)
                    yield shown, shown != piece
                    at += 1
                    continue
            yield piece, False
            at += 1

    def _is_hidden(
        self, paths: dict[int, list[Path]], path: Path, places: Sequence[str | int]
    ) -> bool:
        if places and places[-1] in self.names:
            return True
        rules = paths.get(len(path) + len(places))
        if not rules:
            return False
        whole = (*path, *map(str, places))
        return any(_agree(rule, whole) for rule in rules)

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
        words: lower-case entries: a name, a path such as ``args.0.card``, ``type:email.*/args.1``,
            or ``value:`` with a pattern.

    Raises:
        ValueError: an entry is none of these, or there are too many.
    """
    if len(words) > _MAX_RULES:
        raise ValueError(f"at most {_MAX_RULES} entries")
    names, paths, patterns = set(), [], []
    for word in sorted(words):
        if word.startswith("value:"):
            patterns.append(pattern(word.removeprefix("value:")))
            continue
        types = ""
        if word.startswith("type:"):
            types, _, word = word.removeprefix("type:").partition("/")
            if not types or word.partition(".")[0] not in ROOTS:
                raise ValueError("a type and a path, such as type:email.*/args.1")
        path = tuple(word.split("."))
        if path[0] in ROOTS and (len(path) > 1 or types):
            if "" in path:
                raise ValueError("a path such as args.0.card")
            paths.append(PathRule(types, path))
        else:
            names.add(word)
            if word in ALIASES:
                names.add(ALIASES[word])
    return Rules(frozenset(names), tuple(paths), tuple(patterns))
