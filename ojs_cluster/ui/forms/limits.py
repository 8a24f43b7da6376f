"""The fields of a form for limits, which queues and rate limit keys have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ojs_cluster.ui.forms.form import number_or_text

_PERIODS: Final = {"PT1S": "second", "PT1M": "minute", "PT1H": "hour", "P1D": "day"}
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
    """Return a period as a word if there is one: ``minute`` for ``PT1M``."""
    return _PERIODS.get(period, period)


def period_of(words: str) -> str:
    """Return the ISO 8601 duration of a word such as ``minute``; other text as it is."""
    return next((period for period, word in _PERIODS.items() if word == words), words)


def limits_in_words(limits: Mapping[str, Any]) -> list[str]:
    """Return limits in words, such as ``5 jobs at the same time`` and ``10 starts per minute``."""
    values = values_of(limits)
    words = []
    if "concurrency" in values:
        words.append(f"{_jobs(values['concurrency'])} at the same time")
    if "rate" in values:
        words.append(f"{_starts(values['rate'])} per {values['rate_period']}")
    if "throttle" in values:
        words.append(f"{_starts(values['throttle'])} per {values['throttle_period']}, evenly")
    return words


def _jobs(count: str) -> str:
    return "1 job" if count == "1" else f"{int(count):,} jobs"


def _starts(count: str) -> str:
    return "1 start" if count == "1" else f"{int(count):,} starts"
