"""Request bodies: the media type, JSON into small structs, errors that name the field.

The structs are decoded by msgspec in one pass; parts that are the user's own (a result, an error)
stay raw bytes.
"""

from __future__ import annotations

import re
from typing import Final, TypeVar

import msgspec

from ojs_cluster.core.errors import InvalidPayload, InvalidRequest
from ojs_cluster.core.limits import Limits
from ojs_cluster.core.rawjson import check_text
from ojs_cluster.http.messages import Request

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
    if declared is not None:
        media_type = declared.partition(";")[0].strip().lower()
        if media_type not in _ACCEPTED:
            raise InvalidRequest(
                f"the body must be application/openjobspec+json or application/json, "
                f"not '{media_type[:100]}'",
                field="headers.content-type",
            )
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise InvalidRequest(
            f"the content encoding '{encoding[:100]}' is not supported: send the body as it is",
            field="headers.content-encoding",
        )


def decode(
    decoder: msgspec.json.Decoder[T], request: Request, limits: Limits, *, optional: bool = False
) -> T:
    """Decode the request's body. Unknown members are ignored.

    With ``optional`` a request without a body counts as ``{}``.

    Raises InvalidPayload for what is not a JSON object, InvalidRequest for a member of the wrong
    type or value (``details.field`` is its path).
    """
    body = request.body
    if not body.strip():
        if not optional:
            raise InvalidPayload("the request needs a JSON object as its body", field="body")
        body = b"{}"
    else:
        require_json(request)
        check_text(body, depth=limits.depth)
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        text = str(error)
        at = _PATH.search(text)
        if at is None:
            field = text.rpartition("`")[0].rpartition("`")[2]
            if "required field" in text:
                raise InvalidRequest(f"'{field}' is required", field=field) from None
            if "unknown field" in text:
                raise InvalidRequest(f"'{field[:100]}' is not known here", field=field) from None
            raise InvalidPayload("the body must be a JSON object", field="body") from None
        field = at[1]
        raise InvalidRequest(f"{field}: {text[: at.start()]}", field=field) from None
    except msgspec.DecodeError as error:
        raise InvalidPayload(f"the body is not valid JSON: {error}", field="body") from None
