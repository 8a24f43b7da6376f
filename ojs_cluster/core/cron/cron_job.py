"""Cron jobs: the registered definition, and the job of each occurrence (spec: ojs-cron 2, 6).

An *occurrence* is one time at which a cron job is due. A definition keeps the job to enqueue as the
bytes that the client has sent. At each occurrence ``parse_job`` parses these bytes like an enqueue
request, so every option has the same meaning in a cron job and in an enqueue request.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import orjson

from ojs_cluster.core import raw_json
from ojs_cluster.core.cron.schedule import Schedule, parse_schedule
from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.jobs.envelope import NewJob, parse_job
from ojs_cluster.core.jobs.ids import new_job_id
from ojs_cluster.core.payload_limits import DEFAULT_LIMITS, PayloadLimits
from ojs_cluster.core.raw_json import Raw
from ojs_cluster.core.timestamps import format_ms

MAX_NAME: Final = 255
MAX_DESCRIPTION: Final = 4096
_is_name: Final = re.compile(r"[a-z0-9][a-z0-9\-.]*").fullmatch
EXPRESSION_KEYS: Final = ("expression", "cron", "schedule")
OVERLAP_POLICIES: Final = frozenset({"skip", "allow", "cancel_previous", "enqueue"})
_OVERLAP: Final = {
    "skip": "skip",
    "allow": "allow",
    "cancel": "cancel_previous",
    "cancel_previous": "cancel_previous",
    "enqueue": "enqueue",
}
_CRON_MEMBERS: Final = frozenset(
    {*EXPRESSION_KEYS, "name", "timezone", "overlap_policy", "enabled", "description"}
    | {"job_template"}
)
"""Members of a definition that configure the cron job. The other members describe the job."""
_SERVER_MEMBERS: Final = frozenset(
    {"id", "status", "last_run_at", "next_run_at", "run_count", "created_at", "updated_at"}
)
"""Members that the server writes. A client that sends them back changes nothing."""


@dataclass(frozen=True, slots=True)
class CronDefinition:
    """A checked definition.

    Args:
        name: name of the cron job.
        schedule: cron expression and time zone.
        overlap: overlap policy: skip, allow, cancel_previous or enqueue.
        enabled: whether the cron job fires at its occurrences.
        description: a JSON string, or ``null``.
        job: the members of the enqueue request as a JSON object; its values byte for byte as sent.
        type: the type of the job.
        queue: the queue of the job.
        tenant: the tenant of the job, '' for none.
        warnings: the warnings of the job, if the definition was parsed from a request.
    """

    name: str
    schedule: Schedule
    overlap: str
    enabled: bool
    description: bytes
    job: bytes
    type: str
    queue: str
    tenant: str = ""
    warnings: tuple[str, ...] = ()


def is_cron_name(text: str) -> bool:
    """Return whether ``text`` can name a cron job."""
    return len(text) <= MAX_NAME and _is_name(text) is not None


def parse_cron(
    raw: bytes, *, limits: PayloadLimits = DEFAULT_LIMITS, tenant: str = ""
) -> CronDefinition:
    """Return the definition that the body of a registration describes.

    The names of members may be those of the spec or those of an SDK, such as ``EXPRESSION_KEYS``.

    Args:
        raw: the body.
        limits: limits of the job.
        tenant: the tenant of the request, '' for none. The job gets it.

    Raises:
        OJSError: the definition is invalid; ``details.field`` names the field.
    """
    return _definition(raw_json.members(raw, limits), limits, tenant)


def patch_cron(
    old: CronDefinition, raw: bytes, *, limits: PayloadLimits = DEFAULT_LIMITS, tenant: str = ""
) -> CronDefinition:
    """Return a definition with the changes of a PATCH body. The name cannot be changed.

    Args:
        old: the present definition.
        raw: the body.
        limits: limits of the job.
        tenant: the tenant of the request, '' for none. The job gets it.

    Raises:
        OJSError: the new definition is invalid; ``details.field`` names the field.
    """
    changes = raw_json.members(raw, limits)
    changes.pop("name", None)
    merged = {
        "name": Raw(orjson.dumps(old.name)),
        "timezone": Raw(orjson.dumps(old.schedule.timezone)),
        "overlap_policy": Raw(orjson.dumps(old.overlap)),
        "enabled": Raw(b"true" if old.enabled else b"false"),
        "description": Raw(old.description),
    }
    if not any(key in changes for key in EXPRESSION_KEYS):
        merged["expression"] = Raw(orjson.dumps(old.schedule.expression))
    if "job_template" not in changes:
        merged |= raw_json.object_members(old.job) or {}
    return _definition({**merged, **changes}, limits, tenant)


def job_of_occurrence(
    job: bytes,
    name: str,
    occurrence_ms: int,
    *,
    limits: PayloadLimits = DEFAULT_LIMITS,
    tenant: str = "",
) -> NewJob:
    """Return the job of an occurrence: that of the definition, with cron name and time in its meta.

    Args:
        job: the members of the enqueue request.
        name: name of the cron job.
        occurrence_ms: Unix time of the occurrence in ms.
        limits: size limits of the job.
        tenant: see ``parse_job``.

    Raises:
        OJSError: the job is invalid; ``details.field`` names the field.
    """
    members = raw_json.object_members(job) or {}
    options = raw_json.object_members(members.get("options", Raw(b"{}"))) or {}
    job_meta: dict[str, Raw] = {}
    # The cron spec has a job's meta inside of its options, all other specs have it beside the
    # options.
    option = options.pop("meta", None)
    if option is not None:
        members["options"] = Raw(b"{%b}" % raw_json.join(options))
    for meta in (option, members.get("meta")):
        if meta is not None:
            job_meta |= raw_json.object_members(meta) or {}
    job_meta["cron_name"] = Raw(orjson.dumps(name))
    job_meta["cron_triggered_at"] = Raw(b'"%b"' % format_ms(occurrence_ms))
    members["meta"] = Raw(b"{%b}" % raw_json.join(job_meta))
    return parse_job(b"{%b}" % raw_json.join(members), limits=limits, tenant=tenant)


def occurrence_job_id(name: str, occurrence_ms: int, shard: int, shards: int) -> str:
    """Return the id of an occurrence's job, which is the same in every process.

    Args:
        name: the cron job's name.
        occurrence_ms: the occurrence, in milliseconds.
        shard: index of the shard of the job's queue.
        shards: number of shards.
    """
    digest = sha256(b"%d %b" % (occurrence_ms, name.encode())).digest()
    return new_job_id(shard, shards, occurrence_ms, digest[:10])


def _definition(given: dict[str, Raw], limits: PayloadLimits, tenant: str) -> CronDefinition:
    name = _text(given, "name")
    if name is None or not is_cron_name(name):
        raise InvalidRequest(
            f"name must be 1 to {MAX_NAME} of a-z, 0-9, '-' and '.', "
            "and start with a letter or digit",
            field="name",
        )
    key = next((key for key in EXPRESSION_KEYS if key in given), EXPRESSION_KEYS[0])
    expression = _text(given, key)
    if expression is None:
        raise InvalidRequest("a cron job needs an expression", field=key)
    zone = _text(given, "timezone")
    schedule = parse_schedule(expression, "UTC" if zone is None else zone, field=key)
    overlap = _OVERLAP.get(_text(given, "overlap_policy") or "skip")
    if overlap is None:
        raise InvalidRequest(
            "overlap_policy must be skip, allow, cancel_previous or enqueue",
            field="overlap_policy",
        )
    members = _job_members(given)
    if tenant:
        _inherit_tenant(members, tenant)
    job = b"{%b}" % raw_json.join(members)
    # An error is raised now, and not at each occurrence.
    checked_job = job_of_occurrence(job, name, 0, limits=limits, tenant=tenant)
    return CronDefinition(
        name=name,
        schedule=schedule,
        overlap=overlap,
        enabled=_enabled(given.get("enabled")),
        description=_description(given),
        job=job,
        type=checked_job.type,
        queue=checked_job.queue,
        tenant=checked_job.tenant,
        warnings=checked_job.warnings,
    )


def _job_members(given: Mapping[str, Raw]) -> dict[str, Raw]:
    template = given.get("job_template")
    if template is None or bytes(template) == b"null":
        members = {
            key: value
            for key, value in given.items()
            if key not in _CRON_MEMBERS and key not in _SERVER_MEMBERS
        }
    else:
        found = raw_json.object_members(template)
        if found is None:
            raise InvalidRequest("job_template must be an object", field="job_template")
        # The job's id is left out, because the jobs of all occurrences would have the same id.
        members = {key: value for key, value in found.items() if key != "id"}
    members.setdefault("args", Raw(b"[]"))
    meta = members.get("meta")
    if meta is not None:
        if bytes(meta) == b"null":
            del members["meta"]
        elif raw_json.object_members(meta) is None:
            raise InvalidRequest("meta must be an object", field="meta")
    return members


def _inherit_tenant(members: dict[str, Raw], tenant: str) -> None:
    """Give a job the tenant of the request, unless it names a tenant in one of its metas."""
    options = raw_json.object_members(members.get("options", Raw(b"null"))) or {}
    meta = raw_json.object_members(members.get("meta", Raw(b"null"))) or {}
    metas = (options.get("metadata"), options.get("meta"), members.get("meta"))
    for piece in metas:
        if piece is not None and "tenant_id" in (raw_json.object_members(piece) or {}):
            return
    members["meta"] = Raw(b"{%b}" % raw_json.join({**meta, "tenant_id": _quoted(tenant)}))


def _quoted(text: str) -> Raw:
    return Raw(orjson.dumps(text))


def _enabled(piece: Raw | None) -> bool:
    text = b"true" if piece is None else bytes(piece)
    if text not in (b"true", b"false"):
        raise InvalidRequest("enabled must be true or false", field="enabled")
    return text == b"true"


def _description(given: Mapping[str, Raw]) -> bytes:
    text = _text(given, "description")
    if text is None:
        return b"null"
    if len(text) > MAX_DESCRIPTION:
        raise InvalidRequest(
            f"description has at most {MAX_DESCRIPTION} characters", field="description"
        )
    return orjson.dumps(text)


def _text(given: Mapping[str, Raw], key: str) -> str | None:
    """Return a member that is text; None when it is absent or null."""
    piece = given.get(key)
    if piece is None or bytes(piece) == b"null":
        return None
    text = raw_json.string(piece)
    if text is None:
        raise InvalidRequest(f"{key} must be a string", field=key)
    return text
