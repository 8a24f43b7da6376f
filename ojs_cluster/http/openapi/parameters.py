"""The parameters that several operations have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from ojs_cluster.core.jobs.options import MAX_QUEUE_LENGTH
from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.jobs.tenant import MAX_TENANT_LENGTH
from ojs_cluster.core.rate_limit import MAX_KEY_LENGTH
from ojs_cluster.http.fields import MAX_WORKER_ID
from ojs_cluster.http.query import MAX_OFFSET
from ojs_cluster.http.routing.described import Parameter
from ojs_cluster.http.shapes.common import JOB_ID_PATTERN, QUEUE_PATTERN
from ojs_cluster.store.operators.dashboard.problem_records import MAX_ID

_QUEUE: Final = {"type": "string", "pattern": QUEUE_PATTERN, "maxLength": MAX_QUEUE_LENGTH}
_JOB_ID: Final = {"type": "string", "pattern": JOB_ID_PATTERN}
_TEXT: Final = {"type": "string", "minLength": 1}
_TENANT: Final = {
    "type": "string",
    "pattern": r"^[a-zA-Z0-9][a-zA-Z0-9._:\-]*$",
    "maxLength": MAX_TENANT_LENGTH,
}
_TIME: Final = {"type": "string", "format": "date-time"}
BOOLEAN: Final = {"type": "boolean"}


def text(name: str, description: str, **keywords: Any) -> Parameter:
    """Return a parameter of the query that is text.

    Args:
        name: its name.
        description: its meaning.
        keywords: further keywords of its schema.
    """
    return Parameter(name, description, {"type": "string", **keywords})


def flag(name: str, description: str) -> Parameter:
    """Return a parameter of the query that is true or false."""
    return Parameter(name, description, {"type": "boolean", "default": False})


def number(name: str, description: str, *, low: int, high: int, default: int) -> Parameter:
    """Return a parameter of the query that is a whole number; a larger one counts as ``high``."""
    schema = {"type": "integer", "minimum": low, "maximum": high, "default": default}
    return Parameter(name, description, schema)


def limit(default: int = 50, high: int = 200) -> Parameter:
    """Return the parameter ``limit``."""
    meaning = "Number of entries of a page. A larger number counts as the maximum."
    return number("limit", meaning, low=1, high=high, default=default)


def offset(high: int = MAX_OFFSET) -> Parameter:
    """Return the parameter ``offset``."""
    meaning = "Number of entries before the page."
    return number("offset", meaning, low=0, high=high, default=0)


CURSOR: Final = text("cursor", "The `next_cursor` of the page before. It has priority.")


def page(default: int = 50, high: int = 200) -> tuple[Parameter, ...]:
    """Return the parameters that ``query.page`` reads."""
    return (limit(default, high), offset(), CURSOR)


def numbered_page(default: int = 20, high: int = 100) -> tuple[Parameter, ...]:
    """Return the parameters that ``query.numbered_page`` reads."""
    size = number("per_page", "Number of entries of a page.", low=1, high=high, default=default)
    first = number("page", "Number of the page.", low=1, high=MAX_OFFSET, default=1)
    return (first, size, *page(default, high))


STATE: Final = text("state", "Only jobs in this state.", enum=[state.value for state in State])
QUEUE: Final = Parameter("queue", "Only this queue.", _QUEUE)
TYPE: Final = text("type", "Only jobs of this type; a `*` at its end stands for any text.")
SEARCH: Final = text("query", "A search, such as `type:email.send state:retryable timeout`.")
INDEX: Final = Parameter(
    "index",
    "Whether the search may use its index. With `false` it reads all jobs.",
    {"type": "boolean", "default": True},
)
SORT: Final = text(
    "sort", "The order.", enum=["created_at", "scheduled_at", "started_at", "priority"]
)
ORDER: Final = text("order", "The direction of the order.", enum=["asc", "desc"], default="desc")
SINCE: Final = Parameter("since", "Only entries at or after this time.", _TIME)
UNTIL: Final = Parameter("until", "Only entries before this time.", _TIME)
AGE: Final = "A time, or an age such as `24h`."
TYPES: Final = (
    text("types", "Names of events, separated by commas."),
    text("event_types", "An alias of `types`."),
    text("type", "An alias of `types`."),
)
TENANT: Final = Parameter(
    "X-OJS-Tenant",
    "The tenant that the request is for. An API key may be bound to a tenant.",
    _TENANT,
    location="header",
)
LAST_EVENT_ID: Final = Parameter(
    "Last-Event-ID", "The id of the last event that the client has read.", location="header"
)
IDEMPOTENCY_KEY: Final = Parameter(
    "Idempotency-Key",
    "A repetition with the same key and body gets the same response for 24 hours.",
    {"type": "string", "minLength": 1, "maxLength": 256},
    location="header",
)
IF_NONE_MATCH: Final = Parameter(
    "If-None-Match", "The `ETag` of the copy that the client has.", location="header"
)

_PATH: Final = {
    ("jobs", "id"): Parameter("id", "The id of a job.", _JOB_ID),
    ("events", "id"): Parameter("id", "The id of a job.", _JOB_ID),
    ("agents", "id"): Parameter("id", "The id of the job that runs the agent.", _JOB_ID),
    ("checkpoints", "id"): Parameter("id", "The id of a job.", _JOB_ID),
    ("dead-letter", "id"): Parameter("id", "The id of a job that is a dead letter.", _JOB_ID),
    ("queues", "name"): Parameter("name", "The name of a queue.", _QUEUE),
    ("workers", "id"): Parameter(
        "id", "The id of a worker.", {**_TEXT, "maxLength": MAX_WORKER_ID}
    ),
    ("tenants", "id"): Parameter("id", "The id of a tenant.", _TENANT),
    ("workflows", "id"): Parameter("id", "The id of a workflow.", _TEXT),
    ("cron", "name"): Parameter("name", "The name of a cron job.", _TEXT),
    ("crons", "name"): Parameter("name", "The name of a cron job.", _TEXT),
    ("rate-limits", "key"): Parameter(
        "key", "A rate limit key.", {**_TEXT, "maxLength": MAX_KEY_LENGTH}
    ),
    ("subscriptions", "id"): Parameter("id", "The id of a webhook subscription.", _TEXT),
    ("deliveries", "id"): Parameter("id", "The id of a delivery of a webhook.", _TEXT),
    ("schemas", "name"): Parameter("name", "The URI of a schema, or a job type.", _TEXT),
    ("schemas", "type"): Parameter("type", "A job type.", _TEXT),
    ("schemas", "version"): Parameter("version", "A version, such as `2` or `2.0.1`.", _TEXT),
    ("pools", "name"): Parameter("name", "The name of a worker pool.", _QUEUE),
    ("marks", "id"): Parameter("id", "The id of a mark.", _TEXT),
    ("problems", "id"): Parameter(
        "id", "The id of a problem, percent-encoded.", {**_TEXT, "maxLength": MAX_ID}
    ),
    ("bulk", "id"): Parameter("id", "The id of a bulk operation.", _TEXT),
}
"""Parameters of paths, by the segment before the parameter and its name."""


class UnknownParameter(LookupError):
    """A template has a parameter that ``openapi.parameters`` does not describe."""


def of_path(template: str) -> list[Parameter]:
    """Return the parameters in the template of a route.

    Raises:
        UnknownParameter: a parameter is not described.
    """
    found: list[Parameter] = []
    before = ""
    for segment in template.split("/"):
        if segment.startswith("{"):
            name = segment[1:-1]
            described = _PATH.get((before, name))
            if described is None:
                raise UnknownParameter(
                    f"describe the path parameter {segment} after '{before}' of {template} in "
                    "_PATH of ojs_cluster/http/openapi/parameters.py"
                )
            found.append(replace(described, location="path", required=True))
        else:
            before = segment
    return found
