"""Choose the language of the dashboard."""

from __future__ import annotations

from typing import Final

from ojs_cluster.ui.languages.catalogs import languages
from ojs_cluster.ui.visit import Answer, SeeOther, Visit, local_target

COOKIE: Final = "ojs_ui_language"


async def choose(visit: Visit) -> Answer:
    """Keep the choice in a cookie of this browser, and return to the page.

    Any other value than the code of a language follows the browser again.
    """
    given = visit.form.get("language", "")
    target = visit.root + local_target(visit.form.get("back", ""))
    return SeeOther(target, cookie=(COOKIE, given if given in languages() else ""))
