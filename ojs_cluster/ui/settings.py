"""The settings of the dashboard."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal
from urllib.parse import urlsplit

from ojs_cluster.core.config.parsers import one_of, words
from ojs_cluster.core.config.variable import variable
from ojs_cluster.ui.redaction.function import Function, load_function
from ojs_cluster.ui.redaction.rules import parse_rules
from ojs_cluster.ui.user_roles import group_roles

_is_header: Final = re.compile(r"[A-Za-z][A-Za-z0-9-]{2,63}").fullmatch
_RESERVED: Final = frozenset(
    {
        *("authorization", "cookie", "host", "origin", "user-agent", "content-type"),
        *("x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-prefix"),
        *("sec-fetch-site", "hx-request", "accept", "accept-encoding", "connection", "referer"),
    }
)
_is_base: Final = re.compile(r"(?:/[A-Za-z0-9._~-]{1,64}){1,8}").fullmatch

# Visible ASCII without the characters that a URL never has: "<>\\^`{|}
_is_address: Final = re.compile(r"[!#-;=?-\[\]_a-z~]{1,2000}").fullmatch


def base_path(text: str) -> str:
    """Accept the path under which a proxy publishes the server, such as ``/jobs``."""
    path = text.rstrip("/")
    if not _is_base(path) or "/.." in path or "/./" in path + "/":
        raise ValueError("a path such as /jobs")
    return path


def redactions(text: str) -> frozenset[str]:
    """Accept comma separated names, paths and patterns; they are compared in lower case."""
    found = frozenset(word.lower() for word in words(text))
    parse_rules(found)
    return found


def header_name(text: str) -> str:
    """Accept the name of a header that only a proxy sets, such as ``X-Forwarded-User``."""
    if not _is_header(text) or text.lower() in _RESERVED:
        raise ValueError("the name of a header that only the proxy sets, such as X-Forwarded-User")
    return text


def parse_trace_url(text: str) -> str:
    """Accept the address of a trace, with ``{trace_id}`` where its id belongs."""
    parts = urlsplit(text)
    is_web = parts.scheme in ("http", "https") and bool(parts.hostname)
    rest = text.replace("{trace_id}", "")
    if not is_web or rest == text or "{trace_id}" in parts.netloc or not _is_address(rest):
        raise ValueError("an http or https URL with {trace_id}")
    return text


@dataclass(frozen=True, slots=True)
class UiSettings:
    """Settings of the dashboard.

    Attributes:
        mode: ``off``: there are no pages. ``read``: pages without actions. ``full``: with actions.
        base: the path under which a proxy publishes the server; empty for none.
        redact: lower-case entries of what is hidden: names of members, paths, and patterns.
        redactor: the function that returns what is shown of a value; None for none.
        proxy_user: the header in which a trusted proxy names the user; empty for none.
        proxy_groups: the header in which it names the groups of the user; empty for none.
        proxy_roles: the role of each group.
        trace_url: the address of a trace, with ``{trace_id}`` in it; empty for none.
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
        redactions,
        "",
        "What the dashboard hides of client data, comma separated: names of members (`password`, "
        "`name:card.number`), paths (`args.0.card`, `meta.*`, `type:email.*/args.1`), and patterns "
        "of texts (`value:card`, `value:email`, `value:iban`, `value:jwt`, `value:sk_live_*`). The "
        "API hides nothing.",
        empty=frozenset(),
    )
    redactor: Function | None = variable(  # noqa: RUF009 - a declaration, as the others
        "OJS_UI_REDACTOR",
        load_function,
        "",
        "Your function, as `package.module:function`, that returns what the dashboard shows of a "
        'value. It gets the type of a job, and an object such as `{"args": [...]}`. See the '
        "guide of the dashboard.",
        empty=None,
    )
    proxy_user: str = variable(
        "OJS_UI_PROXY_USER",
        header_name,
        "",
        "Header in which a proxy in OJS_TRUSTED_PROXIES names the user that it has authenticated, "
        "such as `X-Forwarded-User`. Every such proxy must remove the header of its clients. The "
        "API ignores it.",
    )
    proxy_groups: str = variable(
        "OJS_UI_PROXY_GROUPS",
        header_name,
        "",
        "Header in which the same proxy names the groups of the user, comma separated, such as "
        "`X-Forwarded-Groups`.",
    )
    proxy_roles: Mapping[str, str] = variable(
        "OJS_UI_PROXY_ROLES",
        group_roles,
        "",
        "Roles of these groups, such as `ops=operator,*=viewer`: `viewer`, `operator` or `admin`. "
        "`*` stands for all users of the proxy. Without a role a user sees nothing.",
        empty=MappingProxyType({}),
    )

    trace_url: str = variable(
        "OJS_TRACE_URL",
        parse_trace_url,
        "",
        "Address of a trace in your tracing system, such as "
        "`https://tempo.example.com/trace/{trace_id}`: the page of a job whose meta has a "
        "`traceparent` links to it.",
    )

    @property
    def prefixes(self) -> tuple[str, ...]:
        """Prefixes of the paths of the dashboard; none if it is off."""
        if self.mode == "off":
            return ()
        bases = ("", self.base) if self.base else ("",)
        return tuple(f"{base}{path}" for base in bases for path in ("/ui", "/ojs/admin"))
