"""Schemas of job args in responses."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from ojs_cluster.http.shapes.common import Count, JobType, Moment, Pagination
from ojs_cluster.http.shapes.keywords import keywords

Mode = Annotated[str, keywords(enum=["strict", "warn", "off"])]
SchemaCompatibility = Literal["backward", "forward", "full", "none"]


class JobSchemaMembers(TypedDict):
    """The members of a schema except its version."""

    type: JobType
    job_type: JobType
    uri: str
    schema: dict[str, Any] | bool
    created_at: Moment
    updated_at: Moment


class JobSchema(JobSchemaMembers):
    """A schema of job args. The version is a text, as the SDKs decode it."""

    version: str


class JobSchemaAnswer(TypedDict):
    """The schema in `schema`."""

    schema: JobSchema


class JobSchemaList(TypedDict):
    """A page of schemas by type, newest version first."""

    schemas: list[JobSchema]
    total: Count
    pagination: Pagination


class AdminJobSchema(JobSchemaMembers):
    """A schema of job args. A version that is one number is an integer."""

    version: str | int


class ShownPolicy(TypedDict):
    """How a type is validated."""

    mode: Mode
    compatibility: SchemaCompatibility


class LatestJobSchema(AdminJobSchema, ShownPolicy):
    """The latest schema of a type, and how the type is validated."""


class JobSchemaType(LatestJobSchema):
    """The latest schema of a type, and the number of its versions."""

    version_count: Count


class JobSchemaTypeList(TypedDict):
    """A page of job types that have a schema."""

    schemas: list[JobSchemaType]
    items: list[JobSchemaType]
    total: Count
    pagination: Pagination


class JobSchemaVersion(TypedDict):
    """One version of a type."""

    version: str | int
    uri: str
    created_at: Moment
    is_latest: bool


class JobSchemaVersionList(ShownPolicy):
    """The versions of a type, newest first."""

    type: JobType
    versions: list[JobSchemaVersion]


class JobSchemaPolicy(ShownPolicy):
    """How a type is validated."""

    type: JobType


class JobSchemaDeleted(TypedDict):
    """The version that was deleted."""

    deleted: Literal[True]
    type: JobType
    version: str | int
    uri: NotRequired[str]
