"""Show operators the tenants, and set their limits (spec: ojs-multi-tenancy 8 to 10)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Final

import msgspec

from ojs_cluster.core.durations import parse_duration_ms
from ojs_cluster.core.errors import Conflict, InvalidRequest, NotFound, Unsupported
from ojs_cluster.core.jobs.states import TERMINAL, State
from ojs_cluster.core.jobs.tenant import check_tenant
from ojs_cluster.core.tenants.settings import (
    MAX_LIMIT,
    MAX_RATE_PERIOD_MS,
    MAX_REASON_LENGTH,
    MAX_WEIGHT,
    MIN_WEIGHT,
    NO_LIMITS,
    NO_WEIGHT,
    QUEUE_DEPTH,
    SCHEDULED,
    EnqueueRate,
    TenantLimits,
    TenantSettings,
)
from ojs_cluster.http import query, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.cursor_kinds import TENANTS
from ojs_cluster.http.handlers.admin import tenant_views
from ojs_cluster.http.handlers.admin.jobs import listed
from ojs_cluster.http.handlers.job_order import with_order
from ojs_cluster.http.handlers.jobs import filter_of
from ojs_cluster.http.handlers.queues import state_counts
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.request_body.decode import decode
from ojs_cluster.http.shapes import tenants as shapes
from ojs_cluster.http.shapes.common import Duration
from ojs_cluster.http.shapes.keywords import between, keywords
from ojs_cluster.store.engine.tenants.admission import WAITING
from ojs_cluster.store.engine.tenants.tenant_counts import (
    read_counts,
    read_states,
)
from ojs_cluster.store.features.tenants import changes
from ojs_cluster.store.ground.process_state import tenants as store_tenants

_Limit = Annotated[int, between(0, MAX_LIMIT)]
_Weight = Annotated[float, keywords(minimum=MIN_WEIGHT, maximum=MAX_WEIGHT)]


class TenantRateBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """At most ``limit`` new jobs in any period, of at most a day."""

    limit: Annotated[int, between(1, MAX_LIMIT)]
    period: Duration


class TenantLimitsBody(msgspec.Struct, frozen=True):
    """The limits of a tenant over all queues. A limit that is left out stays; null removes it."""

    max_queue_depth: _Limit | msgspec.UnsetType | None = msgspec.UNSET
    max_scheduled: _Limit | msgspec.UnsetType | None = msgspec.UNSET
    max_enqueue_rate: TenantRateBody | msgspec.UnsetType | None = msgspec.UNSET
    reason: Annotated[str, keywords(maxLength=MAX_REASON_LENGTH)] = ""


class TenantChangesBody(TenantLimitsBody, frozen=True):
    """Changes of a tenant. What is left out stays; null removes a limit or the weight."""

    fairness_weight: _Weight | msgspec.UnsetType | None = msgspec.UNSET


class TenantBody(msgspec.Struct, frozen=True):
    """The settings of a tenant. They replace the present ones."""

    tenant_id: str | None = None
    limits: TenantLimitsBody = TenantLimitsBody()
    fairness_weight: _Weight | None = None


_UNSUPPORTED: Final = {
    "max_concurrency": "limit the concurrency of queues or of rate limit keys instead",
    "priority_boost": "send jobs with a priority instead",
}
"""Members of the specification that this server refuses, with what an operator can do."""
_tenant_decoder = msgspec.json.Decoder(TenantBody)
_changes_decoder = msgspec.json.Decoder(TenantChangesBody)
_members = msgspec.json.Decoder(dict[str, Any])


async def list_tenants(app: App, request: Request) -> Response:
    """List the known tenants with their numbers, the most recently active first.

    A tenant is known if it has settings, or if it had a new job in the last 30 days. At most
    100,000 tenants are listed.

    (spec: ojs-multi-tenancy 10.1)
    """
    page = query.numbered_page(query.parameters(request.query), TENANTS)
    found, total, last = await store_tenants.list_known(
        app.store, limit=page.limit, offset=page.offset, after=page.after
    )
    seen = dict(found)
    settings = (await store_tenants.read_all(app.store)).records
    counts = await read_states(app.store, list(seen))
    stats = await tenant_views.stats_of(app, counts)
    items: list[shapes.Tenant] = [
        {
            **tenant_views.members_of(tenant, settings.get(tenant), counts[tenant], seen[tenant]),
            "stats": stats[tenant],
        }
        for tenant in seen
    ]
    pagination = query.pagination(page, len(items), total, last)
    listed = shapes.TenantList(tenants=items, items=items, total=total, pagination=pagination)
    return replies.json_response(200, listed)


async def get(app: App, request: Request, tenant: str) -> Response:
    """Return a tenant with its limits and numbers. Only operators get ``stats``.

    (spec: ojs-multi-tenancy 10.1)
    """
    _check_own(request, tenant)
    settings = (await store_tenants.read_all(app.store)).records.get(tenant)
    seen_ms = await store_tenants.last_seen_ms(app.store, tenant)
    counts = (await read_states(app.store, [tenant]))[tenant]
    if settings is None and seen_ms is None and not any(counts.values()):
        raise NotFound("tenant", tenant)
    members = tenant_views.members_of(tenant, settings, counts, seen_ms)
    if request.tenant is None:
        members["stats"] = (await tenant_views.stats_of(app, {tenant: counts}))[tenant]
    return replies.json_response(200, shapes.TenantAnswer({"tenant": members, **members}))


async def put(app: App, request: Request, tenant: str) -> Response:
    """Set the settings of a tenant. A limit or a weight that is left out is removed.

    This process uses the new limits at once, other processes within two seconds. All fetches use
    the new weight at once.

    (spec: ojs-multi-tenancy 10.1)
    """
    check_tenant(tenant, field="id")
    given = decode(_members, request, app.settings.limits)
    _check_members(given, TenantBody.__struct_fields__, "")
    body = decode(_tenant_decoder, request, app.settings.limits)
    if body.tenant_id not in (None, tenant):
        raise InvalidRequest("'tenant_id' is not the tenant in the path", field="tenant_id")
    if "limits" in given:
        _check_members(given["limits"], TenantLimitsBody.__struct_fields__, "limits.")
    limits = _changed(NO_LIMITS, body.limits)
    weight = _weight(NO_WEIGHT, body.fairness_weight)
    wanted = TenantSettings(
        tenant_id=tenant, limits=limits, reason=body.limits.reason, fairness_weight=weight
    )
    replaced: dict[str, Any] = {}

    def changed(old: TenantSettings | None) -> TenantSettings:
        replaced.clear()  # a conflict calls this again
        if old is not None:
            replaced["limits"] = tenant_views.limits_of(old)
            if old.fairness_weight != NO_WEIGHT:
                replaced["fairness_weight"] = old.fairness_weight
        return wanted

    settings, is_new = await changes.change(app.store, tenant, changed)
    return await _changed_response(app, 201 if is_new else 200, settings, replaced)


async def put_limits(app: App, request: Request, tenant: str) -> Response:
    """Change limits or the weight of a tenant. What is left out stays; null removes it.

    This process uses the new limits at once, other processes within two seconds. All fetches use
    the new weight at once. ``reason`` is shown with the limits until their next change.

    (spec: ojs-multi-tenancy 9.3)
    """
    check_tenant(tenant, field="id")
    given = decode(_members, request, app.settings.limits)
    _check_members(given, TenantChangesBody.__struct_fields__, "")
    body = decode(_changes_decoder, request, app.settings.limits)
    replaced: dict[str, Any] = {}

    def changed(old: TenantSettings | None) -> TenantSettings:
        replaced.clear()  # a conflict calls this again
        if old is not None:
            before = {**tenant_views.limits_of(old), "fairness_weight": old.fairness_weight}
            replaced.update({name: before[name] for name in given if name in before})
        limits = _changed(NO_LIMITS if old is None else old.limits, body)
        weight = _weight(NO_WEIGHT if old is None else old.fairness_weight, body.fairness_weight)
        return TenantSettings(
            tenant_id=tenant, limits=limits, reason=body.reason, fairness_weight=weight
        )

    settings, _ = await changes.change(app.store, tenant, changed)
    return await _changed_response(app, 200, settings, replaced)


async def drop(app: App, _request: Request, tenant: str) -> Response:
    """Delete the settings of a tenant, and remove it from the list until its next job.

    A tenant with jobs that have not ended is refused: without its limits it could fill Redis.

    (spec: ojs-multi-tenancy 10.1)
    """
    check_tenant(tenant, field="id")
    counts = (await read_states(app.store, [tenant]))[tenant]
    unfinished = sum(counts[state.value] for state in State if state not in TERMINAL)
    if unfinished:
        raise Conflict(
            f"tenant '{tenant}' has {unfinished} jobs that have not ended; change its limits, or "
            "cancel the jobs first",
            tenant_id=tenant,
            unfinished=unfinished,
        )
    await changes.delete(app.store, tenant)
    app.store.tenants.forget(tenant)
    await app.store.tenants.try_read(app.store)
    return replies.json_response(200, shapes.TenantDeleted(deleted=True, tenant_id=tenant))


async def stats(app: App, request: Request, tenant: str) -> Response:
    """Return how many jobs a tenant has. For an unknown tenant all numbers are 0.

    ``total_jobs`` is the number of jobs that are stored now. ``totals`` counts what has happened,
    and begins again after the tenant has had no jobs for a week. ``limits`` has the limits on the
    number of jobs, with the jobs that count, and ``fairness`` the weight.

    (spec: ojs-multi-tenancy 10.2)
    """
    _check_own(request, tenant)
    numbers = await read_counts(app.store, tenant)
    settings = (await store_tenants.read_all(app.store)).records.get(tenant)
    by_state = {state.value: numbers[state.value] for state in State}
    uses: shapes.LimitUses = {}
    limits = tenant_views.limits_of(settings)
    if "max_queue_depth" in limits:
        waiting = sum(by_state[state] for state in WAITING)
        uses["max_queue_depth"] = {"limit": limits["max_queue_depth"], "current": waiting}
    if "max_scheduled" in limits:
        scheduled = by_state["scheduled"]
        uses["max_scheduled"] = {"limit": limits["max_scheduled"], "current": scheduled}
    return replies.json_response(
        200,
        shapes.TenantStats(
            tenant_id=tenant,
            total_jobs=sum(by_state.values()),
            jobs=state_counts(by_state),
            totals={
                "enqueued": numbers["enqueued"],
                "completed": numbers["acked"],
                "failed": numbers["failed"],
                "retried": numbers["retried_total"],
                "discarded": numbers["discarded_total"],
            },
            limits=uses,
            fairness={"weight": NO_WEIGHT if settings is None else settings.fairness_weight},
        ),
    )


async def list_jobs(app: App, request: Request, tenant: str) -> Response:
    """List the jobs of a tenant, as ``GET /ojs/v1/admin/jobs`` lists those of all tenants.

    (spec: ojs-multi-tenancy 10.3)
    """
    _check_own(request, tenant)
    given = query.parameters(request.query)
    wanted = replace(filter_of(given, request, app.store.clock.now_ms()), tenant=tenant)
    return await listed(app, with_order(wanted, given), given)


def _check_own(request: Request, tenant: str) -> None:
    """Check that a request for one tenant names no other one.

    Raises:
        InvalidRequest: the tenant has a wrong form.
        NotFound: the request is for another tenant.
    """
    if request.tenant not in (None, check_tenant(tenant, field="id")):
        raise NotFound("tenant", tenant)


def _check_members(given: object, known: Any, path: str) -> None:
    """Check that an object has no member that would have no effect.

    Raises:
        Unsupported: it asks for a feature of the specification that this server lacks.
        InvalidRequest: a member is unknown.
    """
    for member, value in given.items() if isinstance(given, dict) else ():
        if member in _UNSUPPORTED:
            if value is not None:
                raise Unsupported(
                    f"this server does not support '{member}' of a tenant: {_UNSUPPORTED[member]}",
                    field=path + member,
                )
        elif member not in known:
            raise InvalidRequest(
                f"'{member[:100]}' is not a setting of a tenant", field=path + member[:100]
            )


def _changed(old: TenantLimits, body: TenantLimitsBody) -> TenantLimits:
    """Return limits with the changes of a request.

    Raises:
        InvalidRequest: a value is out of range, or the reason is too long.
    """
    if len(body.reason) > MAX_REASON_LENGTH:
        raise InvalidRequest(f"reason has at most {MAX_REASON_LENGTH} characters", field="reason")
    changes: dict[str, Any] = {}
    for name in (QUEUE_DEPTH, SCHEDULED):
        value = getattr(body, name)
        if value is not msgspec.UNSET:
            if value is not None and not 0 <= value <= MAX_LIMIT:
                raise InvalidRequest(f"{name} must be from 0 to {MAX_LIMIT}", field=name)
            changes[name] = value
    rate = body.max_enqueue_rate
    if rate is not msgspec.UNSET:
        changes["max_enqueue_rate"] = None if rate is None else _rate(rate)
    return msgspec.structs.replace(old, **changes)


def _weight(old: float, given: float | msgspec.UnsetType | None) -> float:
    """Return a weight after a request.

    Raises:
        InvalidRequest: it is out of range.
    """
    if isinstance(given, msgspec.UnsetType):
        return old
    if given is None:
        return NO_WEIGHT
    if not MIN_WEIGHT <= given <= MAX_WEIGHT:
        raise InvalidRequest(
            f"fairness_weight must be from {MIN_WEIGHT} to {MAX_WEIGHT:g}", field="fairness_weight"
        )
    return given


def _rate(body: TenantRateBody) -> EnqueueRate:
    if not 1 <= body.limit <= MAX_LIMIT:
        raise InvalidRequest(
            f"the limit must be from 1 to {MAX_LIMIT}", field="max_enqueue_rate.limit"
        )
    try:
        period_ms = parse_duration_ms(body.period)
    except ValueError as error:
        raise InvalidRequest(str(error), field="max_enqueue_rate.period") from None
    if period_ms > MAX_RATE_PERIOD_MS:
        raise InvalidRequest("the period is at most a day", field="max_enqueue_rate.period")
    return EnqueueRate(body.limit, period_ms)


async def _changed_response(
    app: App, status: int, settings: TenantSettings, replaced: Mapping[str, Any]
) -> Response:
    await app.store.tenants.try_read(app.store)
    tenant = settings.tenant_id
    counts = (await read_states(app.store, [tenant]))[tenant]
    members = tenant_views.members_of(tenant, settings, counts, None)
    answer = shapes.TenantAnswer({"tenant": members, **members})
    return replies.json_response(status, answer, audit_old=replaced)
