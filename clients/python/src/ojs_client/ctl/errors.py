"""Exit codes, and the errors that end a command."""

from __future__ import annotations

import sys
from enum import IntEnum
from typing import IO, Any, Final

import click

from ojs_client.ctl.text import safe
from ojs_client.errors import ApiError, ConnectionFailed, OJSError

_LEAST_PAUSE_S: Final = 1.0
"""Least time in seconds until a request that has failed is sent again."""


class Exit(IntEnum):
    """The exit codes of ``ojsctl``."""

    OK = 0
    FAILED = 1
    """The command failed, the job failed, or a check of ``doctor`` failed."""
    USAGE = 2
    NOT_FOUND = 3
    REFUSED = 4
    """The server refused: the key, its scope, the request or the state of the object."""
    UNREACHABLE = 5
    """The server did not answer, or it cannot answer now."""
    PARTLY = 6
    """Some objects were changed, and others were not."""


class Failed(click.ClickException):
    """Ends a command with a message on stderr.

    Args:
        message: what happened, and what the user can do.
        code: the exit code.
    """

    def __init__(self, message: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(safe(message, keep_lines=True))
        self.code = code

    @property
    def exit_code(self) -> int:  # type: ignore[override]  # click reads it from the instance
        """The exit code, for click."""
        return int(self.code)

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the message."""
        click.echo(f"ojsctl: {self.message}", file=file or sys.stderr)


def failure(error: OJSError, url: str) -> Failed:
    """Return what an error of the client means for the user.

    Args:
        error: the error.
        url: the address of the server.
    """
    if isinstance(error, ConnectionFailed):
        return Failed(
            f"{error}\nIs the address right? Give it as --url, OJS_URL or a profile.",
            Exit.UNREACHABLE,
        )
    if not isinstance(error, ApiError):
        return Failed(str(error))
    lines = [error.message]
    if error.status == 401:
        lines.append("Give an API key as OJS_API_KEY, or in a profile (ojsctl profile add).")
    scope = error.details.get("required_scope")
    if scope and str(scope) not in error.message:
        lines.append(f"The key needs the scope {scope}.")
    if error.retry_after_s is not None:
        lines.append(f"Try again in {error.retry_after_s:g} s.")
    if error.status >= 500:
        lines.append(f"{url} answered {error.status} {error.code}, request {error.request_id}.")
    return Failed("\n".join(lines), exit_of(error))


def exit_of(error: OJSError) -> Exit:
    """Return the exit code of an error of the client."""
    if isinstance(error, ConnectionFailed):
        return Exit.UNREACHABLE
    if not isinstance(error, ApiError):
        return Exit.FAILED
    if error.status in (404, 410):
        return Exit.NOT_FOUND
    if error.status in (502, 503, 504):
        return Exit.UNREACHABLE
    if 400 <= error.status < 500 and error.status != 408:
        return Exit.REFUSED
    return Exit.FAILED


def pause_after(error: BaseException | None) -> float | None:
    """Return after how many seconds the same request may succeed; None if it never will.

    Args:
        error: why it has failed.
    """
    if isinstance(error, ConnectionFailed):
        return _LEAST_PAUSE_S
    if isinstance(error, ApiError) and error.retryable:
        return max(_LEAST_PAUSE_S, error.retry_after_s or 0.0)
    return None
