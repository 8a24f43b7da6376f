"""Read the summary and the description of an operation from the docstring of its handler."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, Final

_SECTION: Final = re.compile(r"^(Args|Raises|Returns|Yields):$", re.MULTILINE)
_CODE: Final = re.compile(r"``(.+?)``", re.DOTALL)
_SPEC: Final = re.compile(r"\(spec: ([^)]+)\)\.?")
_MODULE: Final = re.compile(r" \(`(?:core|store)\.[\w.]+`\)")


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
    """Return the paragraphs after the summary, without the section of the specification."""
    rest = paragraphs(handler)[1:]
    return "\n\n".join(markdown(text) for text in rest if not _SPEC.fullmatch(text))


def spec(handler: Callable[..., Any]) -> str:
    """Return the section of the specification, a paragraph of its own; empty if none."""
    found = filter(None, map(_SPEC.fullmatch, paragraphs(handler)))
    return next((match[1] for match in found), "")


def markdown(text: str) -> str:
    """Return a paragraph of a docstring as Markdown, without names of modules."""
    return _MODULE.sub("", _CODE.sub(r"`\1`", text))
