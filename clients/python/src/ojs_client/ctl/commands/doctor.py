"""``ojsctl doctor``: check the connection, the key, and what the server says about itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlsplit

import click

from ojs_client.ctl.api import ADMIN, V1
from ojs_client.ctl.errors import Exit, exit_of
from ojs_client.ctl.metrics import Sample, parse_metrics
from ojs_client.ctl.output import Column, Row, member
from ojs_client.ctl.session import Leaf, Session
from ojs_client.ctl.text import short_span
from ojs_client.errors import ApiError, ConnectionFailed, OJSError

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
_LATE_S: Final = 30.0
_OLD_S: Final = 300.0
_NOT_REPORTED: Final = (
    ("memory policy", "redis-cli config get maxmemory-policy (it must be noeviction)"),
    ("persistence", "redis-cli config get appendonly"),
    ("replicas", "redis-cli info replication"),
)
"""What the API does not report, and the command that reads it on each master."""

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

    The exit code is 1 if a check fails, and 5 if the server does not answer. The scopes of the key
    are checked by requests about a job that does not exist.
    """
    checks = list(_connection(session))
    if session.exit_code is Exit.OK:
        for part in (_scopes, _clock, _numbers, _maintenance, _durability):
            checks += part(session)
        checks += [
            _check(name, "skipped", f"the API does not report it: {how}")
            for name, how in _NOT_REPORTED
        ]
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


def _numbers(session: Session) -> Iterator[dict[str, str]]:
    """Check what the metrics of the server say."""
    names = ("shards", "scheduler", "oldest job", "outbox", "paused queues")
    try:
        metrics = parse_metrics(session.api.text("/metrics"))
    except OJSError as error:
        for name in names:
            yield _check(name, "skipped", f"no metrics: {error}")
        return
    parts: tuple[Callable[[list[Sample]], dict[str, str]], ...] = (
        _shards,
        _scheduler,
        _oldest,
        _outbox,
        _paused,
    )
    for name, part in zip(names, parts, strict=True):
        try:
            yield part(metrics)
        except ValueError:  # the maximum of no samples
            yield _check(name, "skipped", "the metrics of the server do not tell")


def _values(metrics: list[Sample], name: str) -> list[float]:
    return [sample.value for sample in metrics if sample.name == name]


def _shards(metrics: list[Sample]) -> dict[str, str]:
    masters = max(_values(metrics, "ojs_redis_masters"))
    covered = min(_values(metrics, "ojs_redis_covered"))
    unreachable = max(_values(metrics, "ojs_shards_unreachable"), default=0)
    if unreachable or not covered:
        return _check("shards", "error", f"{unreachable:g} shards do not answer")
    return _check("shards", "ok", f"all answer, on {masters:g} masters")


def _scheduler(metrics: list[Sample]) -> dict[str, str]:
    late_s = max(_values(metrics, "ojs_scheduler_late_seconds"))
    if late_s > _LATE_S:
        detail = f"due work waits since {short_span(late_s)}: does a scheduler run?"
        return _check("scheduler", "error", detail)
    return _check("scheduler", "ok", f"due work waits {late_s:.1f} s at most")


def _oldest(metrics: list[Sample]) -> dict[str, str]:
    found = [each for each in metrics if each.name == "ojs_queue_oldest_available_age_seconds"]
    oldest = max(found, key=lambda each: each.value, default=None)
    if oldest is None or not oldest.value:
        return _check("oldest job", "ok", "no job is available")
    detail = f"available since {short_span(oldest.value)}, in queue {oldest.labels.get('queue')}"
    return _check("oldest job", "warning" if oldest.value > _OLD_S else "ok", detail)


def _outbox(metrics: list[Sample]) -> dict[str, str]:
    waiting = max(_values(metrics, "ojs_outbox_waiting"))
    dead = max(_values(metrics, "ojs_outbox_dead_letters"))
    if dead:
        return _check("outbox", "error", f"{dead:g} dead letters: GET {ADMIN}/outbox")
    return _check("outbox", "ok", f"{waiting:g} effects wait, none has failed")


def _paused(metrics: list[Sample]) -> dict[str, str]:
    paused = [
        each.labels.get("queue", "")
        for each in metrics
        if each.name == "ojs_queue_paused" and each.value
    ]
    if paused:
        more = f" and {len(paused) - 5} more" if len(paused) > 5 else ""
        return _check("paused queues", "warning", ", ".join(paused[:5]) + more)
    return _check("paused queues", "ok", "none")


def _maintenance(session: Session) -> Iterator[dict[str, str]]:
    try:
        found: Row = session.api.get(f"{ADMIN}/system/maintenance")
    except OJSError as error:
        yield _check("maintenance", "skipped", str(error))
        return
    if found.get("enabled"):
        refused: Any = ", ".join(found.get("refused", ()))
        yield _check("maintenance", "warning", f"the server refuses {refused}")
    else:
        yield _check("maintenance", "ok", "off")


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
