"""The settings of the dashboard."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from ojs_cluster.core.config.parsers import one_of, words
from ojs_cluster.core.config.variable import variable

_is_base: Final = re.compile(r"(?:/[A-Za-z0-9._~-]{1,64}){1,8}").fullmatch


def base_path(text: str) -> str:
    """Accept the path under which a proxy publishes the server, such as ``/jobs``."""
    path = text.rstrip("/")
    if not _is_base(path) or "/.." in path or "/./" in path + "/":
        raise ValueError("a path such as /jobs")
    return path


def key_names(text: str) -> frozenset[str]:
    """Accept comma separated names of members; they are compared in lower case."""
    return frozenset(word.lower() for word in words(text))


@dataclass(frozen=True, slots=True)
class UiSettings:
    """Settings of the dashboard.

    Attributes:
        mode: ``off``: there are no pages. ``read``: pages without actions. ``full``: with actions.
        base: the path under which a proxy publishes the server; empty for none.
        redact: lower-case names of members whose values are hidden: of args, meta, results, and of
            what workers report about themselves.
    """

    mode: Literal["off", "read", "full"] = variable(
        "OJS_UI",
        one_of("off", "read", "full"),
        "off",
        "Serve the dashboard at /ui/: `off`, `read` (no actions) or `full` (`dev`: full).",
    )
    base: str = variable(
        "OJS_UI_BASE",
        base_path,
        "",
        "Path under which a proxy publishes this server, such as `/jobs`; the dashboard is then at "
        "`/jobs/ui/`. Proxies in OJS_TRUSTED_PROXIES may send X-Forwarded-Prefix instead.",
    )
    redact: frozenset[str] = variable(
        "OJS_UI_REDACT",
        key_names,
        "",
        "Names of members of args, meta, results and heartbeats whose values the dashboard hides, "
        "comma separated, such as `password,token`.",
        empty=frozenset(),
    )

    @property
    def prefixes(self) -> tuple[str, ...]:
        """Prefixes of the paths of the dashboard; none if it is off."""
        if self.mode == "off":
            return ()
        bases = ("", self.base) if self.base else ("",)
        return tuple(f"{base}{path}" for base in bases for path in ("/ui", "/ojs/admin"))
