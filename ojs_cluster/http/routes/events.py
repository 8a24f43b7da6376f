"""The routes of events and their streams."""

from __future__ import annotations

from typing import Final

from ojs_cluster.http.handlers import event_streams, events
from ojs_cluster.http.openapi import parameters as p
from ojs_cluster.http.openapi.answers import STREAM
from ojs_cluster.http.query import MAX_OFFSET
from ojs_cluster.http.routing import access as a
from ojs_cluster.http.routing.described import Answer
from ojs_cluster.http.routing.router import Route, table
from ojs_cluster.http.shapes import events as shapes

_OVER: Final = Answer(description="The job has ended, and the client has read its last event.")

ROUTES: Final = table(
    Route(
        "GET /ojs/v1/events",
        events.list_events,
        a.READ_BY_HANDLER_OF_TENANT,
        {200: shapes.EventList},
        parameters=(
            *p.TYPES,
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
    Route(
        "GET /ojs/v1/events/stream",
        event_streams.stream_events,
        a.READ_BY_HANDLER_OF_TENANT,
        {200: STREAM, 204: _OVER},
        parameters=(
            p.text("channel", "`job:ID`, `queue:NAME` or `all`.", default="all"),
            *p.TYPES,
            p.text("queue", "Names of queues, separated by commas."),
            p.LAST_EVENT_ID,
        ),
        errors=(404,),
    ),
    Route(
        "GET /ojs/v1/ws",
        event_streams.upgrade,
        a.READ_BY_HANDLER_OF_TENANT,
        {101: Answer(description="The connection is a WebSocket from now on.")},
        errors=(426,),
    ),
)
