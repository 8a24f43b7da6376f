"""The routes of what the users of the dashboard share."""

from __future__ import annotations

from typing import Final

from ojs_cluster.http.handlers.admin import marks, problems
from ojs_cluster.http.openapi import parameters as p
from ojs_cluster.http.routing import access as a
from ojs_cluster.http.routing.router import Route, table
from ojs_cluster.http.shapes import dashboard as shapes
from ojs_cluster.http.shapes import system as system_shapes

ROUTES: Final = table(
    Route(
        "GET /ojs/v1/admin/marks",
        marks.list_marks,
        a.ADMIN_READ,
        {200: shapes.MarkList},
        parameters=(
            p.text("since", f"Only marks at or after this time. {p.AGE}"),
            p.text("until", f"Only marks at or before this time. {p.AGE}"),
        ),
    ),
    Route(
        "POST /ojs/v1/admin/marks",
        marks.add,
        a.ADMIN_WRITE,
        {201: shapes.Mark},
        body=marks.MarkBody,
        action="mark.add",
    ),
    Route(
        "DELETE /ojs/v1/admin/marks/{id}",
        marks.drop,
        a.ADMIN_WRITE,
        {200: shapes.MarkDeleted},
        action="mark.delete",
    ),
    Route(
        "GET /ojs/v1/admin/problems",
        problems.list_problems,
        a.ADMIN_READ,
        {200: system_shapes.ProblemList},
    ),
    Route(
        "PUT /ojs/v1/admin/problems/{id}/mute",
        problems.mute,
        a.ADMIN_WRITE,
        {200: system_shapes.MutedProblem},
        optional_body=problems.MuteBody,
        action="problem.mute",
    ),
    Route(
        "DELETE /ojs/v1/admin/problems/{id}/mute",
        problems.unmute,
        a.ADMIN_WRITE,
        {200: system_shapes.UnmutedProblem},
        action="problem.unmute",
    ),
)
