"""Render the templates. Every value is escaped unless it is ``Markup``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ojs_cluster import __version__
from ojs_cluster.ui import formats
from ojs_cluster.ui.forms.limits import limits_in_words
from ojs_cluster.ui.json_view import readable
from ojs_cluster.ui.languages.language import current
from ojs_cluster.ui.languages.translate import in_template
from ojs_cluster.ui.redaction.redaction import NOTHING, Redaction

FOLDER: Final = Path(__file__).parent / "templates"


class Templates:
    """The templates of all pages, compiled once.

    Args:
        redaction: what the operator hides; its patterns also hide parts of names and messages.
    """

    def __init__(self, redaction: Redaction = NOTHING) -> None:
        self._environment = Environment(
            loader=FileSystemLoader(FOLDER),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
            extensions=["jinja2.ext.i18n"],
        )
        self._environment.policies["ext.i18n.trimmed"] = True
        # The extension adds this function, and nothing else in its types names it.
        self._environment.install_gettext_callables(  # type: ignore[attr-defined]
            lambda text: current().gettext(text),
            lambda one, many, count: current().ngettext(one, many, count),
            newstyle=True,
        )
        self._environment.globals.update(gettext=in_template, _=in_template)
        self._environment.filters.update(
            number=formats.number,
            duration=formats.duration,
            size=formats.size,
            ago=formats.ago,
            moment=formats.moment,
            minute=formats.minute,
            clock_time=formats.clock_time,
            zone_name=formats.zone_name,
            state=formats.state,
            plain=formats.plain,
            limits=limits_in_words,
            readable=lambda text: readable(redaction.rules.text(str(text))),
        )
        self._environment.globals.update(version=__version__, state_glyphs=formats.STATES)

    def render(self, name: str, context: Mapping[str, Any]) -> bytes:
        """Return a page as UTF-8.

        Lone surrogates cannot be sent, so they become question marks.

        Args:
            name: the name of the template.
            context: the values in it. The zone of ``visit`` is that of the times.
        """
        return self._environment.get_template(name).render(context).encode(errors="replace")
