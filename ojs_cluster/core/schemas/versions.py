"""Versions of schemas (spec: ojs-schema-registry 6, ojs-job-versioning 5).

The documents and clients spell a version in several ways: ``2``, ``"2"``, ``"2.0"`` and ``"2.0.0"``
name the same version. Absent parts are 0. The order is that of Semantic Versioning 2.0.0.
"""

from __future__ import annotations

import re
from typing import Any, Final, Self

import msgspec

from ojs_cluster.core.errors import InvalidRequest

_MAX_CHARACTERS: Final = 64
_parse: Final = re.compile(
    r"(0|[1-9]\d{0,8})(?:\.(0|[1-9]\d{0,8}))?(?:\.(0|[1-9]\d{0,8}))?"
    r"(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?"
).fullmatch


class SchemaVersion(msgspec.Struct, frozen=True, eq=False):
    """A version, as the client spells it and as versions are compared.

    Args:
        text: the version as the client spells it.
        numbers: major, minor and patch.
        prerelease: the parts after the hyphen; empty for a release.
    """

    text: str
    numbers: tuple[int, int, int]
    prerelease: tuple[str, ...] = ()

    @classmethod
    def find(cls, text: str) -> Self | None:
        """Return the version with this text; None if it is not a version."""
        match = _parse(text) if len(text) <= _MAX_CHARACTERS and text.isascii() else None
        if match is None:
            return None
        major, minor, patch = (int(part or 0) for part in match.groups()[:3])
        prerelease = tuple(match[4].split(".")) if match[4] else ()
        return cls(text, (major, minor, patch), prerelease)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the version with this text.

        Raises:
            InvalidRequest: the text is not a version.
        """
        found = cls.find(text)
        if found is None:
            raise InvalidRequest(
                "a version is 1 to 3 numbers joined by dots, such as 2 or 2.0.1, with an optional "
                f"prerelease such as 2.0.0-rc.1, and at most {_MAX_CHARACTERS} characters",
                field="version",
            )
        return found

    @property
    def key(self) -> str:
        """The one spelling that all spellings of this version share."""
        release = ".".join(map(str, self.numbers))
        return f"{release}-{'.'.join(self.prerelease)}" if self.prerelease else release

    @property
    def order(self) -> tuple[Any, ...]:
        """The precedence of the version (Semantic Versioning 11)."""
        parts = tuple(
            (0, int(part), "") if part.isdigit() else (1, 0, part) for part in self.prerelease
        )
        return (self.numbers, not self.prerelease, parts)

    @property
    def place(self) -> tuple[Any, ...]:
        """The place in a list: different versions such as ``1-1`` and ``1-01`` have one order."""
        return self.order, self.key

    @property
    def shown(self) -> int | str:
        """The version as responses show it: an integer if it is one number."""
        return int(self.text) if self.text.isdigit() else self.text
