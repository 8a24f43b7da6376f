"""The comparison of responses with the document finds what differs."""

from __future__ import annotations

import pytest

from ojs_cluster.http.messages import Response
from tests.http.openapi.answers import check_answer

_TYPE = (("Content-Type", "application/openjobspec+json"),)
_ALIVE = b'{"status":"ok"}'


def test_a_described_answer_is_accepted() -> None:
    check_answer("GET", "/live", Response(200, _ALIVE, _TYPE))
    check_answer("GET", "/ojs/v1/unknown", Response(404, b"", _TYPE))
    check_answer("DELETE", "/ojs/v1/admin/dead-letter/x", Response(204, b""))


@pytest.mark.parametrize(
    ("method", "path", "response"),
    [
        ("GET", "/live", Response(418, _ALIVE, _TYPE)),
        ("GET", "/live", Response(200, b'{"status":"fine"}', _TYPE)),
        ("GET", "/live", Response(200, b"{}", _TYPE)),
        ("GET", "/live", Response(200, b'{"status":"ok","more":1}', _TYPE)),
        ("GET", "/live", Response(400, b'{"error":"no"}', _TYPE)),
        ("GET", "/metrics", Response(200, b"", (("Content-Type", "text/html"),))),
        ("DELETE", "/ojs/v1/admin/dead-letter/x", Response(204, b"{}")),
        ("GET", "/ojs/v1/jobs/x", Response(200, b'{"job":{}}', _TYPE)),
    ],
)
def test_another_answer_is_found(method: str, path: str, response: Response) -> None:
    with pytest.raises(AssertionError, match=f"{method} /"):
        check_answer(method, path, response)
