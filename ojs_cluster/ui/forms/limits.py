"""The fields of a form for limits, which queues and rate limit keys have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ojs_cluster.ui.formats import number
from ojs_cluster.ui.forms.form import number_or_text
from ojs_cluster.ui.languages.translate import _, later, ngettext

_PERIODS: Final = {"PT1S": "second", "PT1M": "minute", "PT1H": "hour", "P1D": "day"}
"""The word by the period. Forms send it, so it is the same in all languages."""
_PER_PERIOD: Final = {
    "PT1S": later("per second"),
    "PT1M": later("per minute"),
    "PT1H": later("per hour"),
    "P1D": later("per day"),
}
FIELDS: Final = {
    "concurrency": "concurrency",
    "rate": "rate",
    "rate.limit": "rate",
    "rate.period": "rate_period",
    "throttle": "throttle",
    "throttle.limit": "throttle",
    "throttle.period": "throttle_period",
    "expires_at": "expires_at",
}
"""The field of the form by the path that the API names in an error."""


def values_of(limits: Mapping[str, Any]) -> dict[str, str]:
    """Return the texts of the fields for limits of the API.

    A number of jobs is an object in the usage of a key and of a queue, and a number in an override.
    """
    values: dict[str, str] = {}
    if "concurrency" in limits:
        most = limits["concurrency"]
        values["concurrency"] = str(most["limit"] if isinstance(most, dict) else most)
    for name in ("rate", "throttle"):
        if name in limits:
            values[name] = str(limits[name]["limit"])
            values[f"{name}_period"] = period_in_words(limits[name]["period"])
    return values


def body_of(form: Mapping[str, str]) -> dict[str, Any]:
    """Return the limits of a sent form; none if all fields are empty."""
    body: dict[str, Any] = {}
    if form.get("concurrency", "").strip():
        body["concurrency"] = number_or_text(form["concurrency"])
    for name in ("rate", "throttle"):
        if form.get(name, "").strip():
            period = form.get(f"{name}_period", "").strip() or "second"
            body[name] = {"limit": number_or_text(form[name]), "period": period}
    return body


def period_in_words(period: str) -> str:
    """Return a period as the word of forms if there is one: ``minute`` for ``PT1M``."""
    return _PERIODS.get(period, period)


def per_period(period: str) -> str:
    """Return how often: ``per minute`` for ``PT1M``, in the language of the request."""
    if period in _PER_PERIOD:
        return _(_PER_PERIOD[period])
    return _("per %(period)s", period=period)


def period_of(words: str) -> str:
    """Return the ISO 8601 duration of a word such as ``minute``; other text as it is."""
    return next((period for period, word in _PERIODS.items() if word == words), words)


def limits_in_words(limits: Mapping[str, Any]) -> list[str]:
    """Return limits in words, such as ``5 jobs at the same time`` and ``10 starts per minute``."""
    values = values_of(limits)
    words = []
    if "concurrency" in values:
        most = int(values["concurrency"])
        words.append(
            ngettext(
                "%(number)s job at the same time",
                "%(number)s jobs at the same time",
                most,
                number=number(most),
            )
        )
    if "rate" in values:
        most, per = int(values["rate"]), per_period(period_of(values["rate_period"]))
        words.append(
            ngettext(
                "%(number)s start %(per)s",
                "%(number)s starts %(per)s",
                most,
                number=number(most),
                per=per,
            )
        )
    if "throttle" in values:
        most, per = int(values["throttle"]), per_period(period_of(values["throttle_period"]))
        words.append(
            ngettext(
                "%(number)s start %(per)s, evenly",
                "%(number)s starts %(per)s, evenly",
                most,
                number=number(most),
                per=per,
            )
        )
    return words
