"""What the tables of routes say of parameters and answers; the OpenAPI document shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

MEDIA_TYPE: Final = "application/openjobspec+json"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of an operation.

    Attributes:
        name: its name.
        description: what it means.
        schema: its JSON Schema, as keywords.
        location: where a client sends it.
        required: whether a request must have it.
    """

    name: str
    description: str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})
    location: Literal["query", "header", "path"] = "query"
    required: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """One successful response of an operation.

    Attributes:
        shape: the type of the body, or a tuple of types of which it has one; None for no body.
        description: when the client gets it; empty to use the docstring of ``shape``.
        media_type: the media type of the body.
        headers: response headers of this operation, by name, with their meanings.
        also: other media types that a client may choose, with text as the body.
    """

    shape: Any = None
    description: str = ""
    media_type: str = MEDIA_TYPE
    headers: Mapping[str, str] = field(default_factory=dict)
    also: tuple[str, ...] = ()

    @property
    def shapes(self) -> tuple[Any, ...]:
        """The types of the body."""
        if self.shape is None:
            return ()
        return self.shape if isinstance(self.shape, tuple) else (self.shape,)
