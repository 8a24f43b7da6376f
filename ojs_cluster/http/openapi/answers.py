"""Answers that routes of several tables have."""

from __future__ import annotations

from typing import Final

from ojs_cluster.http.routing.described import Answer
from ojs_cluster.http.shapes.bulk import BulkResult
from ojs_cluster.http.shapes.common import Error

STREAM: Final = Answer(
    str, "Server-sent events, until the client disconnects.", "text/event-stream"
)
BATCH_SIZE: Final = {"X-OJS-Batch-Size": "The number of items of the request."}
BULK: Final = {
    200: BulkResult,
    202: Answer(
        BulkResult,
        "The scheduler continues the operation.",
        headers={"Location": "The path of the operation, if the API key may read it."},
    ),
}
"""The answers of a request about many jobs."""
BULK_CHANGE: Final = {
    **BULK,
    207: Answer(BulkResult, "Some jobs were not changed.", headers=BATCH_SIZE),
    422: Answer((BulkResult, Error), "No job was changed, or the request is not possible."),
}
"""The answers if the request also lists jobs."""
