"""Groups of errors for operators."""

from __future__ import annotations

from tests.http.api import Api

ERRORS = "/ojs/v1/admin/errors"


async def fail(api: Api, queue: str, kind: str, message: str) -> str:
    job = await api.active(queue)
    error = {"type": kind, "message": message}
    reply = await api.post("/ojs/v1/workers/nack", {"job_id": job["id"], "error": error})
    assert reply.status == 200
    return str(job["id"])


async def test_errors_are_listed_by_type_and_message(any_api: Api) -> None:
    assert (await any_api.get(ERRORS)).json["items"] == []
    for number in range(3):
        await fail(any_api, "mail", "SmtpError", f"timeout after {number} ms")
    last = await fail(any_api, "sms", "SmtpError", "timeout after 77 ms")
    await fail(any_api, "sms", "TlsError", "no certificate")

    page = (await any_api.get(ERRORS)).json

    assert (page["total"], page["pagination"]["has_more"]) == (2, False)
    # Newest first; the last two failures may be of the same millisecond.
    assert sorted(page["items"], key=lambda item: item["last_at"], reverse=True) == page["items"]
    [group] = [item for item in page["items"] if item["type"] != "TlsError"]
    assert (group["type"], group["message"], group["count"]) == (
        "SmtpError",
        "timeout after * ms",
        4,
    )
    assert group["queues"] == [{"name": "mail", "count": 3}, {"name": "sms", "count": 1}]
    assert group["job_id"] == last
    assert group["first_at"] <= group["last_at"]
    found = (await any_api.get(f"{ERRORS}?queue=mail")).json["items"]
    assert [(group["count"], len(group["queues"])) for group in found] == [(3, 1)]
    [second] = (await any_api.get(f"{ERRORS}?limit=1&offset=1")).json["items"]
    assert second == page["items"][1]


async def test_a_bad_parameter_is_refused(api: Api) -> None:
    for query in ("queue=No", "limit=x", "cursor=x"):
        assert (await api.get(f"{ERRORS}?{query}")).status == 400, query
