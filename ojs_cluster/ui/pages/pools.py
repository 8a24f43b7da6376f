"""The worker pools: their strategies and queues, their numbers, and forms to change them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from ojs_cluster.core.access.scopes import QueuePatterns, Scope
from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.pools.pool import (
    MAX_WEIGHT,
    ROUND_ROBIN,
    WEIGHTED,
    Pool,
    check_pool_name,
)
from ojs_cluster.core.timestamps import format_ms
from ojs_cluster.store.context import Store
from ojs_cluster.store.ground.process_state import pools as store_pools
from ojs_cluster.store.ground.process_state.pool_table import read_counts
from ojs_cluster.ui.forms.form import (
    MAX_DIGITS,
    Form,
    beside_field,
    confirmation,
    is_confirmed,
    refused,
)
from ojs_cluster.ui.languages.translate import _, later
from ojs_cluster.ui.visit import Answer, ApiError, Page, SeeOther, Visit

_CONFLICT: Final = 409
_PER_PAGE: Final = 10
"""Number of pools of a page. A pool has up to 64 queues, each in a row."""
STRATEGIES: Final = {
    "round-robin": later("each queue in turn"),
    "weighted": later("in proportion to the weights"),
    "least-loaded": later("the longest queue first"),
    "strict": later("in this order"),
}
"""What each strategy does, in English."""
_FIELDS: Final = {"name": "name", "strategy": "strategy", "queues": "queues", "weights": "queues"}
"""The field of the form by the path that the API names in an error."""


async def show_all(visit: Visit) -> Answer:
    """List the worker pools by name, with the queues of each.

    Viewers of the whole cluster share what is read. A key for some queues sees the pools of which
    it may access all queues.
    """
    visit.app.access.count_request(visit.principal)
    store, page, queues = visit.app.store, visit.page, visit.principal.queues
    if queues is None:
        name = f"pools {page}"
        if visit.follows_change:
            visit.snapshots.forget(name)
        raw = await visit.snapshots.get(name, lambda: _read(store, page, None))
    else:
        raw = await _read(store, page, queues)
    found = orjson.loads(raw)
    may_write = visit.may_change(Scope.ADMIN_WRITE)
    context = {**found, "page": page, "words": STRATEGIES, "may_write": may_write}
    return Page("queues/pools.html", context)


async def show_one(visit: Visit, name: str) -> Answer:
    """Show one pool, with the form that changes it."""
    return await _page(visit, name)


async def show_new(visit: Visit) -> Answer:
    """Show an empty form."""
    return _new_page(Form({"strategy": ROUND_ROBIN}))


async def create(visit: Visit) -> Answer:
    """Create a pool, if there is none of its name."""
    name = visit.form.get("name", "").strip()
    try:
        check_pool_name(name)
        body = _body(visit.form)
    except InvalidRequest as error:
        wrong = {str(error.details["field"]): beside_field(error.message)}
        return _new_page(Form(visit.form, wrong), 400)
    try:
        await visit.send("PUT", "admin", "pools", name, body={**body, "updated_at": None})
    except ApiError as error:
        if error.status == _CONFLICT:
            taken = {"name": _("A pool of this name exists. Change it on its page.")}
            return _new_page(Form(visit.form, taken), _CONFLICT)
        return _new_page(refused(visit, error, _FIELDS), error.status)
    return SeeOther(visit.url("pools", name), _("The pool %(name)s is created.", name=name))


async def change(visit: Visit, name: str) -> Answer:
    """Replace the strategy and the queues of a pool; ask before it loses a queue."""
    here, old = visit.url("pools", name), await _get(visit, name)
    try:
        body = _body(visit.form)
    except InvalidRequest as error:
        wrong = {str(error.details["field"]): beside_field(error.message)}
        return await _page(visit, name, Form(visit.form, wrong), 400)
    seen = visit.form.get("seen", "")
    if seen != old["updated_at"]:
        return await _outdated(visit, name, old)
    if body == {each: old.get(each, {}) for each in body}:
        return SeeOther(here, _("Nothing was changed."))
    lost = [queue for queue in old["queues"] if queue not in body["queues"]]
    if lost and not is_confirmed(visit):
        return confirmation(
            visit,
            _("Take %(queues)s out of the pool %(name)s?", queues=", ".join(lost), name=name),
            _(
                "Workers that fetch by the pool get no further jobs of these queues. Jobs wait "
                "there until other workers fetch them."
            ),
            _("Change the pool"),
            here,
        )
    try:
        await visit.send("PUT", "admin", "pools", name, body={**body, "updated_at": seen})
    except ApiError as error:
        if error.status == _CONFLICT:  # it was changed after it was read above
            return await _outdated(visit, name, await _get(visit, name))
        return await _page(visit, name, refused(visit, error, _FIELDS), error.status)
    note = _(
        "The pool %(name)s is changed. All API processes use the change within two seconds.",
        name=name,
    )
    return SeeOther(here, note)


async def _outdated(visit: Visit, name: str, present: Mapping[str, Any]) -> Page:
    """Return the page with the form that was sent, and with what another user has changed."""
    why = _(
        "The pool was changed since you opened this page. It now has the strategy %(strategy)s "
        "and the queues %(queues)s.",
        strategy=present["strategy"],
        queues=", ".join(_lines(present)),
    )
    values = {**visit.form, "seen": present["updated_at"]}
    return await _page(visit, name, Form(values, refusal=why), _CONFLICT)


async def delete(visit: Visit, name: str) -> Answer:
    """Delete a pool. Its queues and their jobs stay."""
    await visit.send("DELETE", "admin", "pools", name)
    note = _("The pool %(name)s is deleted. Its queues stay.", name=name)
    return SeeOther(visit.url("pools"), note)


async def _get(visit: Visit, name: str) -> dict[str, Any]:
    """Return a pool as the API returns it, if the user may access all its queues."""
    found: dict[str, Any] = orjson.loads(await visit.get("admin", "pools", name))["pool"]
    return found


async def _page(visit: Visit, name: str, form: Form | None = None, status: int = 200) -> Page:
    """Return the page of a pool.

    Args:
        visit: the request.
        name: the pool.
        form: the form that was sent and refused; None to show the pool as it is.
        status: the status of the response.
    """
    found, store = await _get(visit, name), visit.app.store  # refuses a pool of others
    shared = f"pool {name}"
    if visit.follows_change:
        visit.snapshots.forget(shared)
    raw = await visit.snapshots.get(shared, lambda: _read_counts(store, name))
    counted: dict[str, int] = orjson.loads(raw)
    values = {
        "strategy": found["strategy"],
        "queues": "\n".join(_lines(found)),
        "seen": found["updated_at"],
    }
    context = {
        "name": name,
        "pool": found,
        "fetches": counted.get("#", 0),
        "jobs": sum(counted.get(queue, 0) for queue in found["queues"]),
        "words": STRATEGIES,
        "choices": _choices(),
        "form": form or Form(values),
        "refused": form is not None,
        "may_write": visit.may_change(Scope.ADMIN_WRITE),
    }
    return Page("queues/pool.html", context, status)


def _new_page(form: Form, status: int = 200) -> Page:
    context = {"name": "", "form": form, "choices": _choices(), "refused": True, "may_write": True}
    return Page("queues/pool.html", context, status)


def _choices() -> list[tuple[str, str]]:
    """Return each strategy, and what it does in the language of the request."""
    return [(name, f"{name}: {_(words)}") for name, words in STRATEGIES.items()]


def _body(form: Mapping[str, str]) -> dict[str, Any]:
    """Return the body of the API for a sent form: a queue in each line, or a queue and its weight.

    Raises:
        InvalidRequest: a weight is not a number.
    """
    queues, weights = [], {}
    for line in form.get("queues", "").split("\n"):
        queue, has_weight, weight = (part.strip() for part in line.partition("="))
        if not queue and not has_weight:
            continue
        queues.append(queue)
        if has_weight:
            if not (weight.isascii() and weight.isdigit() and len(weight) <= MAX_DIGITS):
                words = _(
                    "The weight of '%(queue)s' must be a whole number from 1 to %(most)s",
                    queue=queue,
                    most=MAX_WEIGHT,
                )
                raise InvalidRequest(words, field="queues")
            weights[queue] = int(weight)
    return {"strategy": form.get("strategy", ""), "queues": queues, "weights": weights}


def _lines(pool: Mapping[str, Any]) -> list[str]:
    """Return the lines of the form for the queues of a pool, each with its weight if it has one."""
    weights = pool.get("weights", {})
    return [f"{queue}={weights[queue]}" if queue in weights else queue for queue in pool["queues"]]


async def _read_counts(store: Store, name: str) -> bytes:
    """Return how many jobs fetches got from each queue of a pool, and the number of fetches."""
    await store.pools.flush(store)
    return orjson.dumps((await read_counts(store, [name]))[name])


async def _read(store: Store, page: int, queues: QueuePatterns | None) -> bytes:
    """Return one page of the pools, without the counts of pools on other pages."""
    pools = (await store_pools.read_all(store)).records.values()
    seen = [pool for pool in pools if queues is None or all(map(queues.admits, pool.queues))]
    first = (page - 1) * _PER_PAGE
    shown = seen[first : first + _PER_PAGE]
    await store.pools.flush(store)
    counts = await read_counts(store, [pool.name for pool in shown])
    return orjson.dumps(
        {
            "pools": [_pool(pool, counts[pool.name]) for pool in shown],
            "total": len(seen),
            "has_more": len(seen) > first + _PER_PAGE,
        }
    )


def _pool(pool: Pool, counted: Mapping[str, int]) -> dict[str, Any]:
    shares, jobs = pool.shares, sum(counted.get(queue, 0) for queue in pool.queues)
    all_shares = sum(shares.values())
    return {
        "name": pool.name,
        "strategy": pool.strategy,
        "since": format_ms(pool.updated_ms).decode(),
        "fetches": counted.get("#", 0),
        "jobs": jobs,
        "queues": [
            {
                "name": queue,
                "weight": shares[queue] if pool.strategy == WEIGHTED else None,
                "jobs": counted.get(queue, 0),
                "part": counted.get(queue, 0) / jobs if jobs else None,
                "planned": shares[queue] / all_shares if all_shares else None,
            }
            for queue in pool.queues
        ],
    }
