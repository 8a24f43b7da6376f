"""The errors that the fake server answers."""

from __future__ import annotations

from typing import Any


class Refusal(Exception):
    """A request is refused.

    Args:
        status: the HTTP status.
        code: the error code.
        message: what is wrong.
        **details: further members of the error.
    """

    def __init__(self, status: int, code: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = details

    def json(self) -> dict[str, Any]:
        """Return the error of a response."""
        return {
            "code": self.code,
            "message": self.message,
            "retryable": False,
            "details": self.details,
        }


def invalid(message: str, field: str) -> Refusal:
    """Return the refusal of a request that is not well formed."""
    return Refusal(400, "invalid_request", message, field=field)


def not_allowed(message: str, field: str) -> Refusal:
    """Return the refusal of a policy that is well formed but not allowed."""
    return Refusal(422, "validation_error", message, field=field)


def not_found(kind: str, id: str) -> Refusal:
    """Return the refusal of a request for an object that does not exist."""
    return Refusal(404, "not_found", f"{kind} '{id}' does not exist", resource=kind, id=id)


def conflict(message: str, **details: Any) -> Refusal:
    """Return the refusal of a request that the state of an object does not allow."""
    return Refusal(409, "conflict", message, **details)


def duplicate(message: str, **details: Any) -> Refusal:
    """Return the refusal of a job that conflicts with another one."""
    return Refusal(409, "duplicate", message, **details)
