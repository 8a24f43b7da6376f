"""Pages and redirects that say why something was refused."""

from __future__ import annotations

from collections.abc import Iterable

from ojs_cluster.ui.languages.translate import _
from ojs_cluster.ui.visit import Answer, ApiError, Page, SeeOther, Visit, local_target


def read_only() -> Page:
    """Return the page that refuses all changes."""
    context = {
        "what": _("This dashboard is read-only"),
        "why": "",
        "hint": _("The operator has set OJS_UI=read. Use the API, or ask for OJS_UI=full."),
    }
    return Page("error.html", context, 403)


def foreign_form() -> Page:
    """Return the page that refuses a form of another site."""
    context = {
        "what": _("The form was not sent by this dashboard"),
        "why": _("The header with its origin is missing, or it names another site."),
        "hint": _(
            "Open the page again. Behind a proxy, keep the Host header, or send "
            "X-Forwarded-Host and name the proxy in OJS_TRUSTED_PROXIES."
        ),
    }
    return Page("error.html", context, 403)


def lacking_scope(visit: Visit, missing: Iterable[str]) -> Page:
    """Return the page that says which scopes the user lacks."""
    scopes = ", ".join(missing)
    context = {
        "what": _("You may not do this"),
        "why": _("'%(user)s' lacks %(scopes)s.", user=visit.principal.name, scopes=scopes),
        "hint": _(
            "Log in with a key that has it, or ask the operator to add it to your key or role."
        ),
    }
    return Page("error.html", context, 403)


def failed_call(visit: Visit, error: ApiError) -> Answer:
    """Return to the page of a refused action, or show why there is no page."""
    if visit.head.method == "POST":
        back = local_target(visit.form.get("back", ""))
        return SeeOther(visit.root + back, error.sentence, failed=True)
    context = {"what": error.what, "why": "", "hint": error.advice}
    return Page("error.html", context, error.status)
