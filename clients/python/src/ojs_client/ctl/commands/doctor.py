"""``ojsctl doctor``: check the connection, the key, and what the server says about itself."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, TypeAlias
from urllib.parse import urlsplit

import click

from ojs_client.ctl.api import ADMIN, V1, Api
from ojs_client.ctl.command import Leaf
from ojs_client.ctl.errors import Exit, exit_of
from ojs_client.ctl.output import Column, Row, member
from ojs_client.ctl.profile import Connection
from ojs_client.ctl.session import Session
from ojs_client.ctl.text import ago, short_span
from ojs_client.errors import ApiError, ConnectionFailed, NotFound, OJSError

Check: TypeAlias = dict[str, str]
"""The result of a check: its name, its status, and the details for people."""
COLUMNS: Final = (
    Column("STATUS", member("status"), is_state=True),
    Column("CHECK", member("check")),
    Column("DETAIL", member("detail"), shrink=20),
)
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
"""The scopes, and for each a request that needs it."""
_MAX_SKEW_S: Final = 5.0
"""A larger difference of the clocks is a warning. The server's time comes in whole seconds."""
_PERSISTENCE: Final = "the API does not report it: redis-cli config get appendonly"
_LOCAL_HOSTS: Final = ("localhost", "127.0.0.1", "::1")
_DURABILITY: Final = {
    "async": "responses wait for no replica and no disk",
    "replica": "responses wait for a replica",
    "fsync": "responses wait for the disk",
}
"""What the values of OJS_DURABILITY mean."""


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
    try:
        health = session.api.request("GET", f"{V1}/health", also=(503,))
    except OJSError as error:
        source = session.connection.source
        checks = [_result("connection", "error", f"{error} (from {source})")]
        session.exit_code = exit_of(error)
    else:
        checks = [
            *_check_connection(session.connection, health),
            *_check_key(session),
            _check_clock(session.api),
            *_check_problems(session.api),
            _check_durability(session.api),
            _result("persistence", "skipped", _PERSISTENCE),
        ]
        if any(each["status"] == "error" for each in checks):
            session.exit_code = Exit.FAILED
    session.output.rows(checks, COLUMNS, name="check")


def _result(check: str, status: str, detail: str) -> Check:
    return {"check": check, "status": status, "detail": detail}


def _check_connection(connection: Connection, health: Row) -> Iterator[Check]:
    version = health.get("version", "unknown")
    detail = f"{connection.url} from {connection.source}, version {version}"
    yield _result("connection", "ok", detail)
    address = urlsplit(connection.url)
    if connection.api_key and address.scheme == "http" and address.hostname not in _LOCAL_HOSTS:
        yield _result("encryption", "warning", "the key goes over http in clear text: use https")
    backend = health.get("backend", {})
    status = backend.get("status", "unknown")
    detail = f"{backend.get('type', 'backend')} is {status}"
    if "latency_ms" in backend:
        detail += f", {backend['latency_ms']} ms"
    yield _result("backend", "ok" if status == "ok" else "error", detail)


def _check_key(session: Session) -> Iterator[Check]:
    """Check which scopes the key has, by one request for each."""
    given, missing, failures = [], [], []
    for scope, method, path, body in _PROBES:
        try:
            session.api.request(method, path, body, also=(404, 409, 422))
            given.append(scope)
        except ApiError as error:
            if error.status == 401:
                yield _result("key", "error", error.message)
                return
            if error.status == 403:
                missing.append(scope)
            else:
                failures.append(f"{scope}: {error.message}")
        except ConnectionFailed as error:
            failures.append(f"{scope}: {error}")
    key = "the key has" if session.connection.api_key else "without a key you have"
    yield _result("key", "ok" if given else "error", f"{key} {', '.join(given) or 'no scope'}")
    if missing:
        yield _result("scopes", "warning", f"missing: {', '.join(missing)}")
    for failure in failures:
        yield _result("scopes", "error", failure)


def _check_clock(api: Api) -> Check:
    before = datetime.now(UTC)
    try:
        api.get("/ojs/manifest")
    except OJSError as error:
        return _result("clock", "skipped", f"no manifest: {error}")
    # The server's time lies between the request and its response.
    middle = before + (datetime.now(UTC) - before) / 2
    try:
        server = parsedate_to_datetime(api.last_headers["date"])
    except (KeyError, ValueError):
        return _result("clock", "skipped", "the server sends no date")
    skew_s = (server - middle).total_seconds()
    if abs(skew_s) <= _MAX_SKEW_S:
        return _result("clock", "ok", f"differs by less than {_MAX_SKEW_S:g} s")
    ahead = "ahead of" if skew_s > 0 else "behind"
    detail = f"the server is {short_span(abs(skew_s))} {ahead} this machine"
    return _result("clock", "warning", detail)


def _check_problems(api: Api) -> Iterator[Check]:
    """List what the server knows to be wrong, which its dashboard shows, too."""
    try:
        found: list[Row] = api.get(f"{ADMIN}/problems")["items"]
    except NotFound:
        yield _result("problems", "skipped", "the server does not list its problems (before 0.2)")
        return
    except (OJSError, KeyError, TypeError) as error:
        yield _result("problems", "skipped", str(error))
        return
    if not found:
        yield _result("problems", "ok", "the server knows none")
    for problem in found:
        since = f" (for {ago(problem['since'])})" if "since" in problem else ""
        detail = f"{problem['text']}{since}. {problem['action']}"
        result = _result(problem["id"], _status_of(problem), detail)
        yield {**result, "link": problem.get("link", "")}


def _status_of(problem: Row) -> str:
    state: str = problem.get("state", "open")
    if state != "open":
        return state
    return "error" if problem["severity"] == "critical" else "warning"


def _check_durability(api: Api) -> Check:
    try:
        items: list[Row] = api.get(f"{ADMIN}/system/config")["items"]
        value = next(item["value"] for item in items if item["name"] == "OJS_DURABILITY")
    except (OJSError, KeyError, TypeError, StopIteration):
        return _result("durability", "skipped", "the server does not tell its configuration")
    return _result("durability", "ok", f"{value}: {_DURABILITY.get(str(value), 'unknown')}")
