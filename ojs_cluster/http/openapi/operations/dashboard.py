"""What the users of the dashboard share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ojs_cluster.http.handlers.admin import marks
from ojs_cluster.http.openapi import parameters as p
from ojs_cluster.http.openapi.described import OperationDetails
from ojs_cluster.http.routing.router import Handler
from ojs_cluster.http.shapes import dashboard as shapes

_AGE: Final = "A time, or an age such as `24h`."

OPERATIONS: Final[Mapping[Handler, OperationDetails]] = {
    marks.list_marks: OperationDetails(
        {200: shapes.MarkList},
        parameters=(
            p.text("since", f"Only marks at or after this time. {_AGE}"),
            p.text("until", f"Only marks at or before this time. {_AGE}"),
        ),
    ),
    marks.add: OperationDetails({201: shapes.Mark}, body=marks.MarkBody),
    marks.drop: OperationDetails({200: shapes.MarkDeleted}),
}
