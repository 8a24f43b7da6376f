"""The problems of the cluster, which the overview of the dashboard shows, and their mutes."""

from __future__ import annotations

from typing import Annotated, Final, get_args
from urllib.parse import quote, urlencode

import msgspec

from ojs_cluster.core.durations import parse_duration_ms
from ojs_cluster.core.errors import InvalidRequest, NotFound, Unsupported
from ojs_cluster.http import replies
from ojs_cluster.http.app import App
from ojs_cluster.http.authorization.principals import principal_of
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.problems import Problem, Rule
from ojs_cluster.http.request_body.decode import decode
from ojs_cluster.http.shapes import system as shapes
from ojs_cluster.http.shapes.keywords import keywords
from ojs_cluster.redis.driven_coroutines import ensure_task
from ojs_cluster.store.operators.dashboard.problem_records import (
    MAX_ID,
    Mute,
    MuteDetails,
    mute_problem,
    unmute_problem,
)
from ojs_cluster.store.operators.operations.losses import forget_losses, record_losses

_MAX_REASON: Final = 200  # characters


class MuteBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long to mute the problem, as an ISO 8601 duration; without it until it ends."""

    duration: Annotated[str, keywords(format="duration")] | None = None
    reason: Annotated[str, keywords(maxLength=_MAX_REASON)] | None = None


_decoder = msgspec.json.Decoder(MuteBody)


async def list_problems(app: App, _request: Request) -> Response:
    """List the problems of the cluster: open ones first, and critical ones first among them.

    They are those of the overview of the dashboard, in English. The response also comes while
    masters of Redis are down.
    """
    if app.find_problems is None:
        raise Unsupported("this process does not look for problems")
    await ensure_task()
    items = [_members(problem) for problem in (await app.find_problems(app)).problems]
    listed: shapes.ProblemList = {"items": items, "total": len(items)}
    return replies.json_response(200, listed)


async def mute(app: App, request: Request, problem_id: str) -> Response:
    """Mute a problem for some time, or acknowledge it: mute it until it ends.

    It is still listed, and the alert and the event of its beginning leave it out. A further mute
    replaces the one before. A lost master's data is a problem that ends when it is acknowledged.
    """
    body = decode(_decoder, request, app.settings.limits, optional=True)
    _check_id(problem_id)
    reason = body.reason or ""
    if len(reason) > _MAX_REASON or not reason.isprintable():
        raise InvalidRequest(f"must be at most {_MAX_REASON} printable characters", field="reason")
    ends_ms = None
    if body.duration is not None:
        try:
            ends_ms = app.store.clock.now_ms() + parse_duration_ms(body.duration)
        except ValueError as error:
            raise InvalidRequest(f"duration {error}", field="duration") from None
    made = Mute(ends_ms, MuteDetails(reason, principal_of(app, request).name))
    if not (made.ends_ms is None and await _forget(app, problem_id)):
        await mute_problem(app.store, problem_id, made)
    muted: shapes.MutedProblem = {
        "id": problem_id,
        "state": made.state,
        "mute": _members_of_mute(made),
    }
    return replies.json_response(200, muted)


async def unmute(app: App, _request: Request, problem_id: str) -> Response:
    """End the mute of a problem."""
    _check_id(problem_id)
    await unmute_problem(app.store, problem_id)
    unmuted: shapes.UnmutedProblem = {"id": problem_id, "state": "open"}
    return replies.json_response(200, unmuted)


async def _forget(app: App, problem_id: str) -> bool:
    """End a problem that lasts only until operators know of it; return whether it was one."""
    rule, _, subject = problem_id.partition(":")
    if rule != "data_lost":
        return False
    if "@" not in subject:  # it may not be recorded yet, and would be a new problem then
        await record_losses(app.store)
    return await forget_losses(app.store, subject)


def _check_id(problem_id: str) -> None:
    """Check that the text may be the id of a problem.

    Raises:
        NotFound: no problem can have this id.
    """
    rule = problem_id.partition(":")[0]
    if rule not in get_args(Rule) or len(problem_id) > MAX_ID or not problem_id.isprintable():
        raise NotFound("problem", problem_id[:MAX_ID])


def _members(problem: Problem) -> shapes.ShownProblem:
    members: shapes.ShownProblem = {
        "id": problem.id,
        "rule": problem.rule,
        "severity": problem.severity,
        "state": problem.state,
        "text": problem.what,
        "action": problem.action,
    }
    if problem.since:
        members["since"] = problem.since
    if problem.path:
        page = "/".join(quote(segment, safe="") for segment in problem.path)
        query = f"?{urlencode(problem.query)}" if problem.query else ""
        members["link"] = f"ui/{page}{query}"
    if problem.mute is not None:
        members["mute"] = _members_of_mute(problem.mute)
    return members


def _members_of_mute(mute: Mute) -> shapes.ShownMute:
    members: shapes.ShownMute = {
        "reason": mute.details.reason,
        "muted_by": mute.details.principal,
    }
    if mute.ends_at:
        members["ends_at"] = mute.ends_at
    return members
