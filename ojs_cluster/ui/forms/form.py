"""Forms: what the user has typed, and what the API says about each field.

A refused form is shown again with everything that was typed. The message of the API stands beside
the field that it names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ojs_cluster.ui.languages.translate import _
from ojs_cluster.ui.visit import ApiError, Page, Visit

MAX_EDITED: Final = 16 * 1024
"""Maximum size in bytes of a value that a form shows; a form has 64 KiB at most."""
MAX_DIGITS: Final = 18
"""A number of more digits has more than 64 bits."""
_path_before: Final = re.compile(r"[a-z_]+(?:\.[a-z_]+)* (?=must |has |is |needs )").match


@dataclass(frozen=True, slots=True)
class Form:
    """A form.

    Attributes:
        values: the text of each field.
        errors: what is wrong with a field, by its name.
        refusal: why the form was refused, if no field of it is wrong.
    """

    values: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)
    refusal: str = ""


def refused(visit: Visit, error: ApiError, fields: Mapping[str, str]) -> Form:
    """Return the form that was sent, with the error of the API.

    Args:
        visit: the request with the form.
        error: the error.
        fields: the field of the form by the path that the API gives it.
    """
    # Of a value that is one field, the API may name a member: options.priority.
    name = fields.get(error.field) or fields.get(error.field.partition(".")[0])
    if name is None:
        return Form(visit.form, refusal=error.sentence)
    return Form(visit.form, {name: beside_field(error.message)})


def beside_field(message: str) -> str:
    """Return a message of the API without the path of the field, which stands beside it."""
    if "Expected `int" in message:  # the words of a decoder, not of a person
        return _("Must be a whole number")
    path = _path_before(message)
    text = message[path.end() :] if path else message
    return text[:1].upper() + text[1:]


def number_or_text(text: str) -> int | str:
    """Return a whole number, or the text itself, which the API then explains."""
    text = text.strip()
    is_number = text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS
    return int(text) if is_number else text[: MAX_DIGITS + 1]


def confirmation(
    visit: Visit,
    what: str,
    consequence: str,
    button: str,
    back: str,
    more: Sequence[tuple[str, str]] = (),
) -> Page:
    """Return a page that asks before it sends the same form again, also the chosen boxes.

    Args:
        visit: the request with the form.
        what: the question.
        consequence: what the change does.
        button: the text of the button that confirms.
        back: the address of the page to return to without a change.
        more: names and values of further fields.
    """
    context: dict[str, Any] = {
        "what": what,
        "consequence": consequence,
        "button": button,
        "fields": [
            *((name, value) for name, value in visit.form.items() if name != "id"),
            *(("id", value) for value in visit.chosen),
            *more,
        ],
        "target": visit.root + visit.here,
        "back": back,
    }
    return Page("confirm.html", context)


def is_confirmed(visit: Visit) -> bool:
    """Return whether the user has confirmed the form on the page of ``confirmation``."""
    return bool(visit.form.get("confirmed"))
