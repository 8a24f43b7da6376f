"""The webhook subscriptions and their deliveries."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import orjson

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.ui import raw
from ojs_cluster.ui.json_view import HIDDEN
from ojs_cluster.ui.languages.translate import _, later
from ojs_cluster.ui.pages.shared.ordered import Sorts, by_number, by_time, order_of
from ojs_cluster.ui.visit import Answer, Page, SeeOther, Visit

_PER_PAGE: Final = 50
_STATES: Final = ("pending", "delivered", "dead")
_WORDS_OF_STATUS: Final = {
    "pending": later("to be sent"),
    "delivered": later("delivered"),
    "dead": later("given up"),
}
_NONE_OF_STATUS: Final = {
    "": later("No delivery yet."),
    "pending": later("No delivery is to be sent."),
    "delivered": later("No delivery is delivered."),
    "dead": later("No delivery is given up."),
}
"""What the list says if it is empty, by the chosen status."""
_SORTS: Final[Sorts] = {
    "url": lambda each: each["url"],
    **{name: by_number(name) for name in ("delivered", "failed", "dead")},
    "last_at": by_time("last_at"),
}
_OK: Final = range(200, 300)


async def show_all(visit: Visit) -> Answer:
    """List the subscriptions, and the newest deliveries of all or of one of them."""
    chosen = visit.query.get("subscription", "")
    status = visit.query.get("status", "")
    status = status if status in _STATES else ""
    listed = raw.members(await visit.get("webhooks", "subscriptions", limit=100))
    query = {"subscription_id": chosen, "status": status, "limit": _PER_PAGE}
    deliveries = orjson.loads(await visit.get("webhooks", "deliveries", **query))
    subscriptions = [
        _subscription(each, hides_query=visit.redaction.active)
        for each in raw.objects(listed, "items")
    ]
    kept = {name: visit.query.get(name, "") for name in ("show", "subscription", "status")}
    order = order_of(visit, "webhooks", _SORTS, kept=kept)
    failing = [each for each in subscriptions if each["failing_since"]]
    only_failing = kept["show"] == "failing"
    shown = [
        each
        for each in (failing if only_failing else subscriptions)
        if order.finds(each["url"], *each["events"])
    ]
    return Page(
        "webhooks.html",
        {
            "subscriptions": order.sorted(shown),
            "order": order,
            "total": len(subscriptions),
            "failing": len(failing),
            "only_failing": only_failing,
            "deliveries": deliveries["items"],
            "chosen": chosen,
            "status": status,
            "states": _STATES,
            "answer_of": answer_of,
            "words_of_status": _words_of_status,
            "none_of_status": _(_NONE_OF_STATUS[status]),
            "may_write": visit.may_change(Scope.ADMIN_WRITE),
        },
    )


def _words_of_status(status: str) -> str:
    return _(_WORDS_OF_STATUS[status]) if status in _WORDS_OF_STATUS else status


def answer_of(delivery: Mapping[str, Any]) -> str:
    """Return in words what the receiver has responded to the last attempt.

    Args:
        delivery: the members of a delivery, as the API shows them.

    Returns:
        The words with the HTTP status; empty if no attempt has ended.
    """
    status, error = delivery.get("status_code"), delivery.get("error") or ""
    if not status:
        return _("no response: %(error)s", error=error) if error else ""
    try:
        phrase = f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        phrase = str(status)
    if status in _OK:
        words = _("accepted (%(status)s)", status=phrase)
    else:
        words = _("refused (%(status)s)", status=phrase)
    return f"{words}: {error}" if error else words


async def test(visit: Visit, subscription_id: str) -> Answer:
    """Send a test event to a subscription."""
    raw_reply = await visit.send("POST", "webhooks", "subscriptions", subscription_id, "test")
    reply = raw.members(raw_reply)
    delivered = bytes(reply.get("success", reply.get("delivered", b"false"))) == b"true"
    status = raw.number(reply, "status_code")
    answer = answer_of(
        {"status_code": int(status) if status else None, "error": raw.text(reply, "error")}
    )
    answer = answer or _("no response")
    if delivered:
        note = _("The test event was delivered: %(answer)s.", answer=answer)
    else:
        note = _("The test event was not delivered: %(answer)s.", answer=answer)
    back = visit.back("", "webhooks")
    return SeeOther(back.target, note, failed=not delivered)


async def activate(visit: Visit, subscription_id: str) -> Answer:
    """Deliver events to a subscription again."""
    await _set_active(visit, subscription_id, True)
    return visit.back(_("The webhook is active again."), "webhooks")


async def deactivate(visit: Visit, subscription_id: str) -> Answer:
    """Stop deliveries to a subscription."""
    await _set_active(visit, subscription_id, False)
    return visit.back(_("The webhook gets no events any more."), "webhooks")


async def retry(visit: Visit, delivery_id: str) -> Answer:
    """Try a dead delivery again."""
    await visit.send("POST", "webhooks", "deliveries", delivery_id, "retry")
    return visit.back(_("The delivery is tried again."), "webhooks")


async def _set_active(visit: Visit, subscription_id: str, active: bool) -> None:
    body = {"active": active}
    await visit.send("PATCH", "webhooks", "subscriptions", subscription_id, body=body)


def _subscription(members: raw.Members, *, hides_query: bool) -> dict[str, Any]:
    """Return what the page shows of a subscription.

    Args:
        members: its members.
        hides_query: whether to hide the query of its URL. Receivers read tokens in it.
    """
    url, mark, query = raw.text(members, "url").partition("?")
    return {
        "url": f"{url}{mark}{HIDDEN if hides_query and query else query}",
        **{name: raw.text(members, name) for name in ("id", "disabled_reason")},
        "events": raw.texts(members, "events"),
        "active": bytes(members.get("active", b"")) == b"true",
        "delivered": raw.integer(members, "success_count"),
        "failed": raw.integer(members, "failure_count"),
        "dead": raw.integer(members, "dead_count"),
        "dropped": raw.integer(members, "dropped_count"),
        "last_at": raw.text(members, "last_delivery_at"),
        "failing_since": raw.text(members, "failing_since"),
        "answer": answer_of(
            {
                "status_code": raw.integer(members, "last_delivery_status"),
                "error": raw.text(members, "last_error"),
            }
        ),
    }
