"""Environment variables, declared as fields of the settings that they fill.

A field of a settings class is the only declaration of its variable. ``variable`` gives the field
its default. ``ojs_cluster.server.config`` collects the variables of all sections, reads the
environment, and makes the table of ``ojs-cluster config``. The page docs/configuration.md and the
schema of the Helm chart are generated from the same declarations. Only that package reads the
environment: every other part of the program gets the settings of its own section.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, Final

Parser = Callable[[str], Any]
"""Converts a text to a value; raises ValueError with what it accepts."""

_METADATA_KEY: Final = "variable"
"""Key of the ``Variable`` in the metadata of a dataclass field."""


@dataclass(frozen=True, slots=True)
class Variable:
    """One environment variable.

    Attributes:
        name: name of the environment variable.
        parse: function that converts the text of the variable to its value.
        default: default as text, in the form that an operator would write; '' for no default.
        summary: description for the table of variables, in one line.
        empty: the value when the variable is not set and has no default.
        reference: whether the OJS reference server has a variable of the same name.
        secret: whether the value is a secret, which is never shown.
    """

    name: str
    parse: Parser
    default: str
    summary: str
    empty: Any = ""
    reference: bool = False
    secret: bool = False

    def value(self, text: str) -> Any:
        """Return the value of ``text``, or of the default when ``text`` is empty.

        Raises:
            ValueError: the message says what is accepted.
        """
        text = text or self.default
        return self.parse(text) if text else self.empty


@dataclass(frozen=True, slots=True)
class ShownVariable:
    """A variable as operators see it.

    Args:
        name: name of the environment variable.
        value: its text, or the default; None if the value is hidden.
        default: the default as text, '' for none.
        is_set: whether the environment has a value.
        summary: its description.
    """

    name: str
    value: str | None
    default: str
    is_set: bool
    summary: str


def variable(
    name: str,
    parse: Parser,
    default: str,
    summary: str,
    *,
    empty: Any = "",
    reference: bool = False,
    secret: bool = False,
    lazy_default: bool = False,
) -> Any:
    """Declare a field of a settings dataclass, and the variable that fills it.

    Args:
        name: see ``Variable``.
        parse: see ``Variable``.
        default: see ``Variable``.
        summary: see ``Variable``.
        empty: see ``Variable``.
        reference: see ``Variable``.
        secret: see ``Variable``; the field is not part of the repr.
        lazy_default: the default depends on the machine, so it is parsed when it is needed.
    """
    declared = Variable(name, parse, default, summary, empty, reference, secret)
    metadata = {_METADATA_KEY: declared}
    factory = partial(declared.value, "")
    if not lazy_default:
        # Not ``default``: Python 3.11 refuses an immutable mapping there, because it has no hash.
        factory = partial(_same, factory())
    return field(default_factory=factory, repr=not secret, metadata=metadata)


def _same(value: Any) -> Any:
    return value


def variables_of(settings: type) -> dict[str, Variable]:
    """Return the variables of a settings dataclass, by the field that each fills."""
    return {
        each.name: each.metadata[_METADATA_KEY]
        for each in fields(settings)
        if _METADATA_KEY in each.metadata
    }
