"""Request bodies: the media type, JSON into small structs, errors that name the field.

The structs are decoded by msgspec in one pass; parts that are the user's own (a result, an error)
stay raw bytes.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Final, TypeVar

import msgspec

from ojs_cluster.core.errors import InvalidPayload, InvalidRequest, OJSError, PayloadTooLarge
from ojs_cluster.core.limits import PayloadLimits
from ojs_cluster.core.raw_json import check_text
from ojs_cluster.http.messages import Request
from ojs_cluster.store.off_loop import LARGE, off_loop

T = TypeVar("T")

_ACCEPTED: Final = frozenset({"application/openjobspec+json", "application/json"})
_PATH: Final = re.compile(r" - at `\$\.?([^`]*)`$")


def require_json(request: Request) -> None:
    """Refuse a body that is declared to be something else than JSON.

    No Content-Type at all is taken for JSON, as RFC 9110 8.3 leaves to the recipient. The status
    is 400 because the HTTP binding (4.1) asks for it, not 415.

    Raises InvalidRequest.
    """
    declared = request.headers.get("content-type")
    if declared is not None and declared not in _ACCEPTED:
        media_type = declared.partition(";")[0].strip().lower()
        if media_type not in _ACCEPTED:
            raise InvalidRequest(
                f"the body must be application/openjobspec+json or application/json, "
                f"not '{media_type[:100]}'",
                field="headers.content-type",
            )
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
    around: int = 0,
) -> T:
    """As `decode`, for routes whose bodies may be large."""
    read = partial(_decode, decoder, request, limits, optional=optional, around=around)
    return await off_loop(read, len(request.body))


def decode(
    decoder: msgspec.json.Decoder[T],
    request: Request,
    limits: PayloadLimits,
    *,
    optional: bool = False,
) -> T:
    """Decode the request's body. Unknown members are ignored.

    With ``optional`` a request without a body counts as ``{}``.

    Raises InvalidPayload for what is not a JSON object, InvalidRequest for a member of the wrong
    type or value (``details.field`` is its path), PayloadTooLarge for what could only be meant to
    keep the server busy.
    """
    if len(request.body) > LARGE:
        raise PayloadTooLarge(f"the body has at most {LARGE} bytes here", field="body", limit=LARGE)
    return _decode(decoder, request, limits, optional=optional, around=0)


def _decode(
    decoder: msgspec.json.Decoder[T],
    request: Request,
    limits: PayloadLimits,
    *,
    optional: bool,
    around: int,
) -> T:
    """``around`` is how many levels of the body lie around what the limit on depth speaks of: 2 for
    the items of an array of its own.
    """
    body = request.body
    if not body.strip():
        if not optional:
            raise InvalidPayload("the request needs a JSON object as its body", field="body")
        body = b"{}"
    else:
        require_json(request)
        check_text(body, limits, around=around)
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise refused(error) from None
    except msgspec.DecodeError as error:
        raise InvalidPayload(f"the body is not valid JSON: {error}", field="body") from None


def refused(error: msgspec.ValidationError, *, what: str = "body") -> OJSError:
    """The refusal of JSON that is not what a decoder wants. ``what`` names the whole of it."""
    text = str(error)
    at = _PATH.search(text)
    if at is not None:
        field = at[1]
        return InvalidRequest(f"{field}: {text[: at.start()]}", field=field)
    field = text.rpartition("`")[0].rpartition("`")[2]
    if "required field" in text:
        return InvalidRequest(f"'{field}' is required", field=field)
    if "unknown field" in text:
        return InvalidRequest(f"'{field[:100]}' is not known here", field=field)
    return InvalidPayload(f"the {what} must be a JSON object", field=what)
