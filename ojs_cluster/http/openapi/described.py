"""How the tables of ``openapi.operations`` describe what a handler reads and returns.

Everything else comes from the handler's docstring and from the route table.
"""

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


@dataclass(frozen=True, slots=True)
class OperationDetails:
    """What a handler reads and returns.

    Attributes:
        answers: the successful responses by status. A type stands for ``Answer`` with this shape.
        body: the type of the request body; None if the handler ignores it.
        body_required: whether a request must have a body.
        parameters: parameters of the query and the headers.
        errors: the statuses of errors that not every operation may return
            (``openapi.responses.EVERYWHERE``), such as 409.
    """

    answers: Mapping[int, Any]
    body: Any = None
    body_required: bool = True
    parameters: tuple[Parameter, ...] = ()
    errors: tuple[int, ...] = ()
