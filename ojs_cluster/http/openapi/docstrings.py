"""Read the summary and the description of an operation from the docstring of its handler."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, Final

_SECTION: Final = re.compile(r"^(Args|Raises|Returns|Yields):$", re.MULTILINE)
_CODE: Final = re.compile(r"``(.+?)``", re.DOTALL)
_SPEC: Final = re.compile(r"\(spec: ([^)]+)\)")
_MODULE: Final = re.compile(r" \(`(?:core|store)\.[\w.]+`\)")
_QUERY: Final = re.compile(r"\?([A-Za-z_&]+)")


def paragraphs(documented: Callable[..., Any] | type) -> list[str]:
    """Return the paragraphs of a docstring before its first section, as Markdown."""
    text = inspect.cleandoc(documented.__doc__ or "")
    text = _SECTION.split(text)[0].strip()
    return [" ".join(part.split()) for part in text.split("\n\n") if part.strip()]


def summary(handler: Callable[..., Any]) -> str:
    """Return the first paragraph of a handler's docstring, without the period at its end."""
    found = paragraphs(handler)
    return markdown(found[0]).rstrip(".") if found else ""


def description(handler: Callable[..., Any]) -> str:
    """Return the paragraphs between the summary and the one that names the endpoint."""
    return "\n\n".join(map(markdown, filter(lambda text: not _is_endpoint(text), _rest(handler))))


def spec(handler: Callable[..., Any]) -> str:
    """Return the section of the specification that a handler's docstring names; empty if none."""
    for text in paragraphs(handler):
        found = _SPEC.search(text)
        if found is not None and _is_endpoint(text):
            return found[1]
    return ""


def query_names(handler: Callable[..., Any]) -> set[str]:
    """Return the parameters of the query that a handler's docstring names after its path."""
    names: set[str] = set()
    for text in filter(_is_endpoint, paragraphs(handler)):
        for part in _QUERY.findall(text.replace("\n", "").replace(" &", "&")):
            names.update(filter(None, part.split("&")))
    return names


def markdown(text: str) -> str:
    """Return a paragraph of a docstring as Markdown, without names of modules."""
    return _MODULE.sub("", _CODE.sub(r"`\1`", text))


def _rest(handler: Callable[..., Any]) -> list[str]:
    return paragraphs(handler)[1:]


def _is_endpoint(text: str) -> bool:
    return re.match(r"``(GET|POST|PUT|PATCH|DELETE)\b", text) is not None
