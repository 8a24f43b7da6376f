"""Ask before an action that cannot be taken back, without JavaScript."""

from __future__ import annotations

from collections.abc import Sequence

from ojs_cluster.ui.visit import Page, Visit, local_target


def confirm(
    visit: Visit,
    question: str,
    consequence: str,
    label: str,
    path: str,
    fields: Sequence[tuple[str, str]] = (),
    *,
    section: str,
) -> Page:
    """Return a page with a question, and a form that does what it asks about.

    Args:
        visit: the request. Its field or parameter ``back`` is the page to return to.
        question: the heading.
        consequence: what happens, and whether it can be taken back.
        label: the text of the button.
        path: the address of the form.
        fields: names and values of its hidden fields.
        section: the page that the menu marks.
    """
    back = local_target(visit.form.get("back") or visit.query.get("back", ""))
    return Page(
        "confirm.html",
        {
            "question": question,
            "consequence": consequence,
            "label": label,
            "path": path,
            "fields": [("back", back), *fields],
            "back": visit.root + back,
            "section": section,
        },
    )
