"""Events and their streams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ojs_cluster.http.handlers import event_streams, events
from ojs_cluster.http.openapi import parameters as p
from ojs_cluster.http.openapi.described import Answer, OperationDetails
from ojs_cluster.http.query import MAX_OFFSET
from ojs_cluster.http.routing.router import Handler
from ojs_cluster.http.shapes import events as shapes

_STREAM: Final = Answer(
    str, "Server-sent events, until the client disconnects.", "text/event-stream"
)
_OVER: Final = Answer(description="The job has ended, and the client has read its last event.")

OPERATIONS: Final[Mapping[Handler, OperationDetails]] = {
    events.list_events: OperationDetails(
        {200: shapes.EventList},
        parameters=(
            p.TYPES,
            p.text("type", "An alias of `types`."),
            p.text("queues", "Names of queues, separated by commas."),
            p.text("job_types", "Job types, separated by commas."),
            p.SINCE,
            p.text("after", "The `cursor` of the page before."),
            p.text("cursor", "An alias of `after`."),
            p.limit(100, 1000),
            p.number("page", "Number of the page.", low=1, high=MAX_OFFSET, default=1),
            p.number("per_page", "Number of events of a page.", low=1, high=1000, default=50),
        ),
    ),
    event_streams.stream_events: OperationDetails(
        {200: _STREAM, 204: _OVER},
        parameters=(
            p.text("channel", "`job:ID`, `queue:NAME` or `all`.", default="all"),
            p.TYPES,
            p.text("queue", "Names of queues, separated by commas."),
            p.LAST_EVENT_ID,
        ),
        errors=(404,),
    ),
    event_streams.stream_job: OperationDetails(
        {200: _STREAM, 204: _OVER}, parameters=(p.TYPES, p.LAST_EVENT_ID)
    ),
    event_streams.stream_queue: OperationDetails(
        {200: _STREAM}, parameters=(p.TYPES, p.LAST_EVENT_ID)
    ),
    event_streams.stream_progress: OperationDetails({200: _STREAM}),
    event_streams.upgrade: OperationDetails(
        {101: Answer(description="The connection is a WebSocket from now on.")}, errors=(426,)
    ),
}
