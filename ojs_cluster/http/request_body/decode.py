"""Decode the JSON of request bodies into structs.

An error names the field of the body that is wrong. msgspec decodes a struct in one pass. It leaves
user data, such as the result of a job, as raw bytes.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Final, TypeVar

import msgspec

from ojs_cluster.core.errors import InvalidPayload, InvalidRequest, OJSError, PayloadTooLarge
from ojs_cluster.core.payload_limits import PayloadLimits
from ojs_cluster.core.raw_json import check_text
from ojs_cluster.http.messages import Request
from ojs_cluster.store.ground.off_loop import LARGE, off_loop

T = TypeVar("T")

_ACCEPTED: Final = frozenset({"application/openjobspec+json", "application/json"})
_ERROR_PATH: Final = re.compile(r" - at `\$\.?([^`]*)`$")  # the end of a message of msgspec


def is_json(content_type: str) -> bool:
    """Return whether a value of ``Content-Type`` declares JSON."""
    return content_type in _ACCEPTED or _media_type(content_type) in _ACCEPTED


def undeclared_json(request: Request) -> InvalidRequest:
    """Return the error for a body that must be declared as JSON, and is not."""
    return _no_json(request.headers.get("content-type", ""))


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _no_json(content_type: str) -> InvalidRequest:
    found = f"not '{_media_type(content_type)[:100]}'" if content_type else "and declared as such"
    return InvalidRequest(
        f"the body must be application/openjobspec+json or application/json, {found}",
        field="headers.content-type",
    )


def require_json(request: Request) -> None:
    """Check that the body is declared as JSON.

    A body without Content-Type counts as JSON, which RFC 9110 8.3 allows, unless a web page may
    have sent it (``access.browsers``). The status of the error is 400 instead of 415, because the
    HTTP binding (4.1) requires it.

    Raises:
        InvalidRequest: the media type is not JSON, or the body is compressed.
    """
    declared = request.headers.get("content-type")
    if declared is not None and not is_json(declared):
        raise _no_json(declared)
    encoding = request.headers.get("content-encoding")
    if encoding is None:
        return
    encoding = encoding.strip().lower()
    if encoding != "identity":
        raise InvalidRequest(
            f"the content encoding '{encoding[:100]}' is not supported: send the body as it is",
            field="headers.content-encoding",
        )


async def decode_large(
    decoder: msgspec.json.Decoder[T],
    request: Request,
    limits: PayloadLimits,
    *,
    optional: bool = False,
    outer_levels: int = 0,
) -> T:
    """Decode a body that may have more than ``LARGE`` bytes, which is the limit of ``decode``.

    A body above ``LARGE`` is decoded in a thread, so that it does not block the event loop.

    Args:
        decoder: the decoder of the struct.
        request: the request.
        limits: limits of the JSON text.
        optional: whether a request without a body counts as ``{}``.
        outer_levels: number of outer levels of the body that the limit on nesting does not count,
            such as 2 for an object that contains an array of jobs.

    Raises:
        InvalidPayload: as ``decode`` raises it.
        InvalidRequest: as ``decode`` raises it.
    """
    if len(request.body) <= LARGE:
        return _decode(decoder, request, limits, optional=optional, outer_levels=outer_levels)
    read = partial(_decode, decoder, request, limits, optional=optional, outer_levels=outer_levels)
    return await off_loop(read, len(request.body))


def decode(
    decoder: msgspec.json.Decoder[T],
    request: Request,
    limits: PayloadLimits,
    *,
    optional: bool = False,
) -> T:
    """Decode the request's body. Unknown members are ignored.

    Args:
        decoder: the decoder of the struct.
        request: the request.
        limits: limits of the JSON text.
        optional: whether a request without a body counts as ``{}``.

    Raises:
        InvalidPayload: the body is not a JSON object.
        InvalidRequest: a member has the wrong type or value; ``details.field`` is its path.
        PayloadTooLarge: the body has more than ``LARGE`` bytes.
    """
    if len(request.body) > LARGE:
        raise PayloadTooLarge(
            f"the body of this request may have at most {LARGE} bytes", field="body", limit=LARGE
        )
    return _decode(decoder, request, limits, optional=optional, outer_levels=0)


def _decode(
    decoder: msgspec.json.Decoder[T],
    request: Request,
    limits: PayloadLimits,
    *,
    optional: bool,
    outer_levels: int,
) -> T:
    body = request.body
    if not body.strip():
        if not optional:
            raise InvalidPayload("the request needs a JSON object as its body", field="body")
        body = b"{}"
    else:
        require_json(request)
        check_text(body, limits, outer_levels=outer_levels)
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise decode_error(error) from None
    except msgspec.DecodeError as error:
        raise InvalidPayload(f"the body is not valid JSON: {error}", field="body") from None


def decode_error(error: msgspec.ValidationError, *, what: str = "body") -> OJSError:
    """Return the OJS error for an error of msgspec; ``what`` names the JSON text in its message."""
    text = str(error)
    path = _ERROR_PATH.search(text)
    if path is not None:
        field = path[1]
        return InvalidRequest(f"{field}: {text[: path.start()]}", field=field)
    field = text.rpartition("`")[0].rpartition("`")[2]
    if "required field" in text:
        return InvalidRequest(f"'{field}' is required", field=field)
    if "unknown field" in text:
        return InvalidRequest(f"'{field[:100]}' is not a known field", field=field)
    return InvalidPayload(f"the {what} must be a JSON object", field=what)
