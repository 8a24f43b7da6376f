"""Rules about the clients that the server tells of events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from tests.chaos.history import Finding, History


def hooks(history: History) -> Iterator[Finding]:
    """A webhook gets each event that it selects, at least once.

    A transition writes the event and its delivery in one script. So no lost master excuses this.
    """
    hooked = history.hooked
    if hooked is None:
        return
    for event in history.events:
        selected = event.kind in hooked.kinds and event.at_ms >= hooked.since_ms
        if not selected:
            continue
        text = f"{event.kind} at {event.at_ms} ({event.id}) was not delivered"
        delivered = event.id in hooked.received
        yield Finding("webhook", event.job, "" if delivered else text, hooked.excuse)


def streams(history: History) -> Iterator[Finding]:
    """A reader that resumes gets each event once, unless it was told of a gap at that time."""
    streamed = history.streamed
    if streamed is None:
        return
    present = Counter(
        (event.kind, event.job, event.at_ms)
        for event in history.events
        if event.kind in streamed.kinds
        and streamed.queue in ("", event.queue)
        and event.at_ms >= streamed.since_ms
    )
    for (kind, job, at_ms), count in present.items():
        seen = streamed.seen[kind, job, at_ms]
        held = seen == count or any(begin <= at_ms <= end for begin, end in streamed.gaps)
        text = f"{kind} at {at_ms} came {seen} times over the stream, and happened {count} times"
        yield Finding("stream", job, "" if held else text)
