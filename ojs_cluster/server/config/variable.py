"""What is known about one environment variable."""

from __future__ import annotations

from dataclasses import dataclass

from ojs_cluster.server.config.env_values import Parser


@dataclass(frozen=True, slots=True)
class Variable:
    """One environment variable.

    Attributes:
        name: as the operator writes it.
        target: section and field that it fills, `listen.port`.
        parse: text to value; raises ValueError with what is accepted.
        default: as text, in the same form that the operator would write; empty is "not set".
        summary: one line for the table of variables.
        reference: the reference server has a variable of the same name.
        secret: never shown.
    """

    name: str
    target: str
    parse: Parser
    default: str
    summary: str
    reference: bool = False
    secret: bool = False
