"""Changes of a waiting job: validate them, and apply them to the stored envelope of the job.

Each value is validated as in an enqueue request, so an edited job is one that could be enqueued.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from ojs_cluster.core.errors import InvalidRequest, PayloadTooLarge, ValidationFailed
from ojs_cluster.core.jobs.envelope import args_of, meta_of
from ojs_cluster.core.jobs.options import JobOptions, parse_options
from ojs_cluster.core.jobs.retry import parse_retry
from ojs_cluster.core.jobs.tenant import add_tenant, tenant_of
from ojs_cluster.core.payload_limits import PayloadLimits
from ojs_cluster.core.raw_json import Raw, join, members, object_members, value

_OPTIONS: Final = ("priority", "timeout_ms", "scheduled_at", "expires_at", "tags")
EDITABLE: Final = ("args", "meta", "max_attempts", *_OPTIONS)
"""The members that an edit may name."""
_REMOVABLE: Final = ("timeout_ms", "expires_at", "tags")
"""The members that null removes."""


@dataclass(frozen=True, slots=True)
class JobEdit:
    """A valid change of a job.

    Attributes:
        given: the values of the members to change; null removes a member.
        options: the same members, as those of an enqueue request.
        limits: the limits of the edited job.
    """

    given: dict[str, Raw]
    options: JobOptions
    limits: PayloadLimits

    @property
    def changes_only_priority(self) -> bool:
        """Whether the edit names the priority and nothing else."""
        return self.given.keys() == {"priority"}

    @property
    def changes_content(self) -> bool:
        """Whether the edit changes what the fingerprint of a unique job may cover."""
        return not self.given.keys().isdisjoint(("args", "meta"))

    def removes(self, name: str) -> bool:
        """Return whether the edit removes a member."""
        return bytes(self.given.get(name, b"")) == b"null"

    def apply(self, stored: bytes, attempts: int) -> EditedJob:
        """Return the edited job.

        Args:
            stored: the members of the job that the store keeps as JSON, without braces.
            attempts: number of attempts that the job has had.

        Raises:
            InvalidRequest: the meta names another tenant.
            PayloadTooLarge: the job would be larger than a job may be.
            ValidationFailed: the job has had as many attempts as the new limit.
        """
        kept = object_members(b"{%b}" % stored) or {}
        for name in self.given.keys() - {"priority", "max_attempts"}:
            if name in _OPTIONS:
                kept.pop(name, None)
            elif name == "meta":
                meta = bytes(self.given[name])
                kept[name] = Raw(_with_tenant_of(bytes(kept.get(name, b"{}")), meta, self.limits))
            else:
                kept[name] = self.given[name]
        kept.update(object_members(b"{%b}" % self.options.members) or {})
        max_attempts = None
        if "max_attempts" in self.given:
            max_attempts = self._max_attempts(kept, attempts)
        envelope = join(kept)
        if len(envelope) > self.limits.envelope_bytes:
            limit = self.limits.envelope_bytes
            raise PayloadTooLarge(
                f"a job envelope has at most {limit} bytes", field="body", limit=limit
            )
        return EditedJob(envelope, max_attempts)

    def _max_attempts(self, kept: dict[str, Raw], attempts: int) -> int:
        """Change the retry policy among the members of the job; return its number of attempts."""
        policy: dict[str, Any] = value(kept["retry"]) if "retry" in kept else {}
        policy["max_attempts"] = value(self.given["max_attempts"])
        retry = parse_retry(policy, path="retry")
        if retry.max_attempts <= attempts:
            raise ValidationFailed(
                f"the job has had {attempts} attempts, so max_attempts must be larger",
                field="max_attempts",
            )
        kept["retry"] = Raw(retry.json())
        return retry.max_attempts


@dataclass(frozen=True, slots=True)
class EditedJob:
    """What an edit makes of a job.

    Attributes:
        envelope: the members of the job that the store keeps as JSON, without braces.
        max_attempts: the new maximum number of attempts; None to keep the present one.
    """

    envelope: bytes
    max_attempts: int | None


def _with_tenant_of(before: bytes, meta: bytes, limits: PayloadLimits) -> bytes:
    """Return the new meta with the tenant of the old one. A job never gets another tenant.

    Raises:
        InvalidRequest: the new meta names another tenant.
        PayloadTooLarge: the meta would be larger than its limit.
    """
    tenant = tenant_of(before)
    if tenant:
        return add_tenant(meta, tenant, limits.meta_bytes)
    if tenant_of(meta):
        raise InvalidRequest("the tenant of a job cannot be changed", field="meta.tenant_id")
    return meta


def parse_edit(raw: bytes, limits: PayloadLimits) -> JobEdit:
    """Parse the body of a request that edits a job. All errors have ``details.field``.

    Args:
        raw: the body.
        limits: limits of the edited job.

    Raises:
        InvalidPayload: the body is not strict JSON.
        InvalidRequest: a member is unknown or has a wrong form, or there is none.
        ValidationFailed: a value is not allowed.
        PayloadTooLarge: the meta is larger than its limit.
    """
    given = members(raw, limits)
    for name in given:
        if name not in EDITABLE:
            raise InvalidRequest(f"'{name[:100]}' is not a known field", field=name[:100])
    if not given:
        raise InvalidRequest(f"name at least one of {', '.join(EDITABLE)}", field="body")
    edit = JobEdit(given, JobOptions(), limits)
    for name in given:
        if edit.removes(name) and name not in _REMOVABLE:
            raise InvalidRequest(f"{name} must not be null", field=name)
    if "args" in given:
        args_of(given["args"])
    if "meta" in given:
        meta_of(given["meta"], None, limits)
    if "max_attempts" in given:
        try:
            attempts = value(given["max_attempts"])
        except OverflowError as error:
            raise InvalidRequest(f"max_attempts {error}", field="max_attempts") from None
        parse_retry(None, max_attempts=attempts, max_attempts_path="max_attempts")
    options = parse_options(None, {name: given[name] for name in _OPTIONS if name in given})
    return JobEdit(given, options, limits)
