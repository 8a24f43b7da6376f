"""Hide values of client data before a page uses them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from ojs_cluster.core.jobs.envelope import SYSTEM_FIELDS
from ojs_cluster.core.jobs.options import SHOWN, TOP_LEVEL
from ojs_cluster.core.raw_json import Raw
from ojs_cluster.store.ground.off_loop import off_loop
from ojs_cluster.ui.redaction.function import Function, Redactor
from ojs_cluster.ui.redaction.rules import ALIASES, ANY, HIDDEN_JSON, ROOTS, Path, parse_rules

_LARGE: Final = 8 * 1024
"""Size in bytes of the values of a page above which a thread compares them with the rules."""
_MEMBERS: Final = ROOTS - {"worker", "attributes"}
"""Members of a job that clients choose, and that begin a path."""
_KNOWN: Final = SYSTEM_FIELDS | TOP_LEVEL | {"id", "type"}
"""Members of a job that the server writes or checks."""
SENT: Final = ("args", "meta", *SHOWN)
"""Members of a job that a copy of it has, and that clients choose."""
ERROR: Final = ("errors", ANY)
"""One error, of which the page does not know the number."""
ERROR_MESSAGE: Final = (*ERROR, "message")
ERROR_TYPE: Final = (*ERROR, "type")
_TENANT: Final = ("meta", "tenant_id")


@dataclass(frozen=True, slots=True)
class Value:
    """A value that a page wants to show.

    Attributes:
        raw: its JSON.
        path: lower-case names that lead to it, of which the first is one of ``ROOTS``; ``*`` for
            one that is not known.
        job_type: the type of the job; empty if it is not known.
    """

    raw: bytes
    path: Path
    job_type: str = ""


class Redaction:
    """What the operator hides.

    Args:
        words: the entries of ``OJS_UI_REDACT``.
        function: the function of ``OJS_UI_REDACTOR``; None for none.
    """

    def __init__(
        self, words: frozenset[str] = frozenset(), function: Function | None = None
    ) -> None:
        self.rules = parse_rules(words)
        self._redactor = None if function is None else Redactor(function)

    @property
    def active(self) -> bool:
        """Whether anything may be hidden."""
        rules = self.rules
        return bool(rules.names or rules.paths or rules.patterns or self._redactor)

    @property
    def by_value(self) -> bool:
        """Whether it depends on values what is hidden. A search could then find them by guesses."""
        return bool(self.rules.patterns or self._redactor)

    @property
    def hides_tenants(self) -> bool:
        """Whether an entry hides of which tenant a job is, whatever its name."""
        return self.hides_tenant("")  # no pattern finds anything in an empty text

    def hides_tenant(self, tenant: str) -> bool:
        """Return whether an entry hides a tenant or a part of its name; the function is not asked.

        The name is the address of its page, so the page is hidden then.
        """
        raw = msgspec.json.encode(tenant)
        return self.rules.json(raw, "", _TENANT) is not raw

    async def apply(self, values: Sequence[Value]) -> list[bytes]:
        """Return the JSON of values to show: ``HIDDEN_JSON`` stands for what is hidden.

        Returns:
            JSON; the same object for a value in which nothing is hidden.
        """
        raws = [value.raw for value in values]
        if not self.active or not raws:
            return raws
        if self._redactor is not None:
            named = [(value.job_type, value.path[0], value.raw) for value in values]
            raws = await self._redactor.apply(named)
        rules = self.rules

        def hide() -> list[bytes]:
            pairs = zip(raws, values, strict=True)
            return [rules.json(raw, value.job_type, value.path) for raw, value in pairs]

        return await off_loop(hide, sum(map(len, raws)), large=_LARGE)

    async def members(self, members: Mapping[str, Raw], job_type: str) -> dict[str, Raw]:
        """Return the members of a job or a cron job with hidden values replaced."""
        paths = {name: path for name in members if (path := path_of(name)) is not None}
        values = [Value(bytes(members[name]), path, job_type) for name, path in paths.items()]
        shown = await self.apply(values)
        found = dict(members)
        for name, value, raw in zip(paths, values, shown, strict=True):
            if raw is not value.raw:
                found[name] = Raw(raw)
        return found

    async def hides_attributes(self, members: Mapping[str, Raw], job_type: str) -> bool:
        """Return whether a value is hidden in the members of a job that only clients know."""
        values = [
            Value(bytes(raw), ("attributes", name.lower()), job_type)
            for name, raw in members.items()
            if path_of(name) is None and name not in _KNOWN
        ]
        shown = await self.apply(values)
        return any(new is not value.raw for new, value in zip(shown, values, strict=True))

    async def texts(self, texts: Iterable[str], path: Path, job_type: str = "") -> list[str]:
        """Return texts such as messages of errors, without what is hidden in them."""
        return await self.texts_of((text, path, job_type) for text in texts)

    async def texts_of(self, texts: Iterable[tuple[str, Path, str]]) -> list[str]:
        """Return texts, each given with its path and the type of its job, as ``texts`` does.

        The operator's own function gets all of them in one turn.
        """
        given = list(texts)
        if not self.active:
            return [text for text, _, _ in given]
        values = [
            Value(msgspec.json.encode(text.encode(errors="replace").decode()), path, job_type)
            for text, path, job_type in given
        ]
        found = []
        for (text, _, _), value, new in zip(given, values, await self.apply(values), strict=True):
            if new is value.raw:
                found.append(text)
            else:
                decoded = msgspec.json.decode(new)
                found.append(decoded if isinstance(decoded, str) else HIDDEN_JSON.decode()[1:-1])
        return found


def path_of(name: str) -> Path | None:
    """Return the path of a member of a job; None for one that the server writes."""
    if name in SHOWN:
        return ("options", name)
    root = ALIASES.get(name, name)
    if root not in _MEMBERS:
        return None
    return ERROR if name == "error" else (root,)


NOTHING: Final = Redaction()
"""Hides nothing."""


def hides_any(old: Mapping[str, Raw], new: Mapping[str, Raw], names: Iterable[str] = ()) -> bool:
    """Return whether a value is hidden in the members that ``Redaction.members`` has returned.

    Args:
        old: the members before.
        new: the members after.
        names: the members that count; all if there is none.
    """
    return any(old[name] is not new[name] for name in names or old if name in old)
