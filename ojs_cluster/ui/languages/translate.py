"""Translate the texts of the dashboard. ``make messages`` collects the calls of these functions.

A text is always a format: a value is written as ``%(name)s``, and a percent sign as ``%%``. Pass
whole sentences, because words have another order in other languages.
"""

from __future__ import annotations

from markupsafe import Markup

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


def in_template(text: str, /, **values: object) -> Markup:
    """Return what ``_`` returns, for a template: the values are escaped.

    The extension of Jinja has such a function, too. Most texts have no value, and this one keeps
    them: a page has hundreds.
    """
    language = current()
    if values:
        # Texts are literals, and tests compare the markup of translations with theirs.
        return Markup(language.gettext(text)) % values  # noqa: S704
    found = language.shown.get(text)
    if found is None:
        found = language.shown[text] = Markup(language.gettext(text) % {})  # noqa: S704
    return found


def later(text: str) -> str:
    """Mark a literal of a constant, which ``_`` translates when a request shows it."""
    return text
