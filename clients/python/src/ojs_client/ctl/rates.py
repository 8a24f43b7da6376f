"""Limits on the command line: concurrency, rate and throttle (spec: ojs-rate-limiting)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Final

import click

from ojs_client.ctl.command import F
from ojs_client.ctl.output import Row
from ojs_client.ctl.text import ago, parse_duration
from ojs_client.options import iso_duration

_RATE: Final = re.compile(r"([0-9]{1,15})/(.+)")
_UNITS: Final = frozenset({"ms", "s", "m", "h", "d"})


def limit_options(function: F) -> F:
    """Add the options that set limits."""
    for option in (
        click.option("--throttle", metavar="N/TIME", help="The same, evenly spaced."),
        click.option("--rate", metavar="N/TIME", help="Starts per time, such as 100/1m."),
        click.option("--concurrency", type=click.IntRange(0), help="Jobs that run at once."),
    ):
        function = option(function)
    return function


def limits_body(
    *, concurrency: int | None, rate: str | None, throttle: str | None
) -> dict[str, Any]:
    """Return the limits as the server reads them; empty without any."""
    body: dict[str, Any] = {} if concurrency is None else {"concurrency": concurrency}
    for name, text in (("rate", rate), ("throttle", throttle)):
        if text is not None:
            body[name] = rate_body(name, text)
    return body


def rate_body(name: str, text: str) -> dict[str, Any]:
    """Return a rate such as ``100/1m`` as the server reads it.

    Args:
        name: the option, for the error.
        text: what the user has written.

    Raises:
        BadParameter: the text is no rate.
    """
    match = _RATE.fullmatch(text)
    if match is None:
        hint = "write a number and a time, such as 100/1m"
        raise click.BadParameter(hint, param_hint=f"--{name}")
    period = match[2] if match[2] not in _UNITS else f"1{match[2]}"
    try:
        seconds = parse_duration(period)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=f"--{name}") from None
    return {"limit": int(match[1]), "period": iso_duration(timedelta(seconds=seconds))}


def usage_fields(limits: Row) -> Iterator[tuple[str, Any]]:
    """Yield titles and texts of limits, and how much of them is used."""
    concurrency = limits.get("concurrency")
    if isinstance(concurrency, dict):
        yield "Concurrency", f"{concurrency['limit']}, {concurrency['active']} active"
    elif concurrency is not None:
        yield "Concurrency", concurrency
    rate = limits.get("rate")
    if rate:
        used = f", {rate['current_count']} started" if "current_count" in rate else ""
        yield "Rate", f"{rate['limit']} per {rate['period']}{used}"
    throttle = limits.get("throttle")
    if throttle:
        later = throttle.get("next_allowed_at")
        following = f", next {ago(later)}" if later else ""
        yield "Throttle", f"{throttle['limit']} per {throttle['period']}{following}"
    if limits.get("max_per_second") is not None:
        yield "Per second", f"{limits['max_per_second']}, declared by jobs"
