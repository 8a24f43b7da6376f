"""``ojsctl doctor``: check the connection, the key, and what the server says about itself."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import urlsplit

import click

from ojs_client.ctl.api import ADMIN, V1
from ojs_client.ctl.errors import Exit, exit_of
from ojs_client.ctl.output import Column, Row, member
from ojs_client.ctl.session import Leaf, Session
from ojs_client.ctl.text import ago, short_span
from ojs_client.errors import ApiError, ConnectionFailed, NotFound, OJSError

_NO_JOB: Final = "00000000-0000-7000-8000-000000000000"
"""An id that no job has. A request about it changes nothing on any server."""
_PROBES: Final = (
    ("ojs:data:read", "GET", f"{V1}/jobs?limit=1", None),
    ("ojs:data:write", "DELETE", f"{V1}/jobs/{_NO_JOB}", None),
    ("ojs:worker", "POST", f"{V1}/workers/ack", {"job_id": _NO_JOB}),
    ("ojs:admin:read", "GET", f"{ADMIN}/stats", None),
    ("ojs:admin:write", "POST", f"{ADMIN}/jobs/{_NO_JOB}/retry", None),
    ("ojs:admin:purge", "POST", f"{V1}/jobs/bulk/delete", {"job_ids": [_NO_JOB]}),
)
_SKEW_S: Final = 5.0
"""A larger difference of the clocks is a warning. The server's time comes in whole seconds."""
_PERSISTENCE: Final = "the API does not report it: redis-cli config get appendonly"

COLUMNS = (
    Column("STATUS", member("status"), is_state=True),
    Column("CHECK", member("check")),
    Column("DETAIL", member("detail"), shrink=20),
)


def _check(check: str, status: str, detail: str) -> dict[str, str]:
    return {"check": check, "status": status, "detail": detail}


@click.command(
    cls=Leaf,
    watch=True,
    examples="""
    doctor
    doctor -o json
    """,
)
@click.pass_obj
def doctor(session: Session) -> None:
    """Check the server and your access to it.

    It lists every problem that the overview of the dashboard shows. The exit code is 1 if a check
    fails or a critical problem is open, and 5 if the server does not answer. The scopes of the key
    are checked by requests about a job that does not exist.
    """
    checks = list(_connection(session))
    if session.exit_code is Exit.OK:
        for part in (_scopes, _clock, _problems, _durability):
            checks += part(session)
        checks.append(_check("persistence", "skipped", _PERSISTENCE))
        if any(each["status"] == "error" for each in checks):
            session.exit_code = Exit.FAILED
    session.output.rows(checks, COLUMNS, name="check")


def _connection(session: Session) -> Iterator[dict[str, str]]:
    connection = session.connection
    try:
        health = session.api.request("GET", f"{V1}/health", also=(503,))
    except OJSError as error:
        session.exit_code = exit_of(error)
        yield _check("connection", "error", f"{error} (from {connection.source})")
        return
    version = health.get("version", "unknown")
    detail = f"{connection.url} from {connection.source}, version {version}"
    yield _check("connection", "ok", detail)
    parts = urlsplit(connection.url)
    local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if connection.api_key and parts.scheme == "http" and not local:
        yield _check("encryption", "warning", "the key goes over http in clear text: use https")
    backend = health.get("backend", {})
    status = backend.get("status", "unknown")
    detail = f"{backend.get('type', 'backend')} is {status}"
    if "latency_ms" in backend:
        detail += f", {backend['latency_ms']} ms"
    yield _check("backend", "ok" if status == "ok" else "error", detail)


def _scopes(session: Session) -> Iterator[dict[str, str]]:
    given, lacking, failures = [], [], []
    for scope, method, path, body in _PROBES:
        try:
            session.api.request(method, path, body, also=(404, 409, 422))
            given.append(scope)
        except ApiError as error:
            if error.status == 401:
                yield _check("key", "error", error.message)
                return
            if error.status == 403:
                lacking.append(scope)
            else:
                failures.append(f"{scope}: {error.message}")
        except ConnectionFailed as error:
            failures.append(f"{scope}: {error}")
    key = "the key has" if session.connection.api_key else "without a key you have"
    yield _check("key", "ok" if given else "error", f"{key} {', '.join(given) or 'no scope'}")
    if lacking:
        yield _check("scopes", "warning", f"missing: {', '.join(lacking)}")
    for failure in failures:
        yield _check("scopes", "error", failure)


def _clock(session: Session) -> Iterator[dict[str, str]]:
    before = datetime.now(UTC)
    try:
        session.api.get("/ojs/manifest")
    except OJSError as error:
        yield _check("clock", "skipped", f"no manifest: {error}")
        return
    # The server's time lies between the request and its response.
    middle = before + (datetime.now(UTC) - before) / 2
    try:
        server = parsedate_to_datetime(session.api.last_headers["date"])
    except (KeyError, ValueError):
        yield _check("clock", "skipped", "the server sends no date")
        return
    skew_s = (server - middle).total_seconds()
    ahead = "ahead of" if skew_s > 0 else "behind"
    if abs(skew_s) > _SKEW_S:
        detail = f"the server is {short_span(abs(skew_s))} {ahead} this machine"
        yield _check("clock", "warning", detail)
    else:
        yield _check("clock", "ok", f"differs by less than {_SKEW_S:g} s")


def _problems(session: Session) -> Iterator[dict[str, str]]:
    """List what the server knows to be wrong, which its dashboard shows, too."""
    try:
        found: list[Row] = session.api.get(f"{ADMIN}/problems")["items"]
    except NotFound:
        yield _check("problems", "skipped", "the server does not list its problems (before 0.2)")
        return
    except (OJSError, KeyError, TypeError) as error:
        yield _check("problems", "skipped", str(error))
        return
    if not found:
        yield _check("problems", "ok", "the server knows none")
    for each in found:
        since = f" (for {ago(each['since'])})" if "since" in each else ""
        status = "error" if each["severity"] == "critical" else "warning"
        if each.get("state", "open") != "open":
            status = each["state"]
        detail = f"{each['text']}{since}. {each['action']}"
        yield {**_check(each["id"], status, detail), "link": each.get("link", "")}


def _durability(session: Session) -> Iterator[dict[str, str]]:
    try:
        items: list[Row] = session.api.get(f"{ADMIN}/system/config")["items"]
        value = next(item["value"] for item in items if item["name"] == "OJS_DURABILITY")
    except (OJSError, KeyError, TypeError, StopIteration):
        yield _check("durability", "skipped", "the server does not tell its configuration")
        return
    meanings = {
        "async": "responses wait for no replica and no disk",
        "replica": "responses wait for a replica",
        "fsync": "responses wait for the disk",
    }
    yield _check("durability", "ok", f"{value}: {meanings.get(str(value), 'unknown')}")
