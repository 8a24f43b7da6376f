"""Translate the texts of the dashboard. ``make messages`` collects the calls of these functions.

A text is always a format: a value is written as ``%(name)s``, and a percent sign as ``%%``. Pass
whole sentences, because words have another order in other languages.
"""

from __future__ import annotations

from ojs_cluster.ui.languages.language import current


def _(text: str, /, **values: object) -> str:
    """Return a text in the language of the request, with its values.

    Args:
        text: the text in English, a literal.
        **values: the values in it.
    """
    return current().gettext(text) % values


def ngettext(one: str, many: str, count: int, /, **values: object) -> str:
    """Return a text about a number of things in the language of the request.

    Args:
        one: the text for one thing, a literal.
        many: the text for any other number, a literal. Languages may have more forms.
        count: the number of things.
        **values: the values in the text.
    """
    return current().ngettext(one, many, count) % values


def later(text: str) -> str:
    """Mark a literal of a constant, which ``_`` translates when a request shows it."""
    return text
