"""Parse a workflow request into its plan (spec: ojs-workflows 3 to 6 and 10).

Clients spell a workflow differently. The spec has ``type`` with ``steps`` or ``jobs`` and
``callbacks``. The Python SDK sends no type but ``depends_on`` and ``options.callback_type``. The
JavaScript SDK nests workflows. A step may lack ``args`` or have its ``queue`` beside its type. This
module turns all of them into the nodes of a ``Plan``.

The definition of a step is an enqueue request in the client's bytes. ``parse_job`` validates it
now, and parses it again when the step is enqueued.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import msgspec

from ojs_cluster.core.errors import InvalidRequest, OJSError, PayloadTooLarge
from ojs_cluster.core.jobs.envelope import NewJob, parse_job
from ojs_cluster.core.jobs.trace_context import TRACE_MEMBERS, add_trace
from ojs_cluster.core.payload_limits import DEFAULT_LIMITS, PayloadLimits
from ojs_cluster.core.raw_json import (
    Raw,
    array_items,
    join,
    members,
    object_members,
    show,
    string,
)
from ojs_cluster.core.workflow import (
    CALLBACK_STEPS,
    INNER_KINDS,
    TRIGGERS,
    Cycle,
    Plan,
    WorkflowNode,
)

MAX_LEVELS: Final = 5
"""Maximum number of levels of nested workflows. The outermost workflow is the first level."""
_MAX_TOTAL_JOBS: Final = 16
"""All definitions of a workflow together may be as large as this number of jobs of maximum size.
Each definition repeats the workflow's options, so the definitions of a small request could be a
thousand times as large as the request."""
MAX_DEPENDENCIES: Final = 10_000
"""Maximum number of dependencies between the steps of a workflow. Every response with the workflow
names all of them. A callback without ``depends_on`` depends on every step beside it."""
_MAX_NAME_CHARACTERS: Final = 255
_NULL: Final = Raw(b"null")


@dataclass(frozen=True, slots=True)
class NewWorkflow:
    """A valid workflow.

    Args:
        type: chain, group, batch or dag.
        name: name of the workflow; '' for none.
        plan: plan of the workflow, without job ids.
        definitions: one enqueue request per job of the plan, as JSON. Each has its tenant.
        declares_limit: numbers of the jobs that declare a rate limit for their queue.
        limit_keys: rate limit keys that jobs name.
        warned: numbers of the jobs that have warnings.
    """

    type: str
    name: str
    plan: Plan
    definitions: Sequence[bytes]
    declares_limit: Collection[int] = ()
    limit_keys: Collection[str] = ()
    warned: Collection[int] = ()


def parse_workflow(
    raw: bytes,
    *,
    limits: PayloadLimits = DEFAULT_LIMITS,
    trace: bytes = b"",
    tenant: str = "",
) -> NewWorkflow:
    """Parse a workflow from the body of a request.

    Args:
        raw: the body.
        limits: limits of the jobs.
        trace: members that ``trace_context`` has returned. They become part of the meta of each job
            that has no trace context.
        tenant: the tenant of the request, '' for none. All jobs get it.

    Raises:
        OJSError: the workflow is invalid; ``details.field`` names the field.
    """
    attributes = members(raw, limits, outer_levels=2 * MAX_LEVELS)
    name = _text(attributes.get("name"), "name")
    reader = _Reader(limits, _object(attributes.get("options"), "options"), trace, tenant)
    reader.composite(attributes, parent=-1, path="", level=1)
    try:
        plan = Plan(reader.nodes)
    except Cycle as cycle:
        path = reader.paths[cycle.numbers[0]]
        raise InvalidRequest(
            "the step waits for itself, directly or through others", field=f"{path}.depends_on"
        ) from None
    kind, definitions = reader.nodes[0].kind, reader.definitions
    return NewWorkflow(
        *(kind, name, plan, definitions),
        *(reader.declares_limit, reader.limit_keys, reader.warned),
    )


@dataclass(slots=True)
class _Item:
    """A step of a request, before the ids in its ``depends_on`` are resolved.

    Args:
        attributes: the members of the step.
        path: the field that errors name.
        labels: the step's id and name; other steps may use either in ``depends_on``.
        waits_for: labels of the steps that it waits for.
        callback: on_complete, on_success or on_failure; '' for a step that is no callback.
    """

    attributes: dict[str, Raw]
    path: str
    labels: list[str]
    waits_for: list[str]
    callback: str


@dataclass(slots=True)
class _Reader:
    """Collects the nodes and definitions of a workflow while it reads the request.

    A node's number is its index in ``nodes``, and ``paths`` has its field for errors.
    """

    limits: PayloadLimits
    defaults: Mapping[str, Raw]
    trace: bytes = b""
    tenant: str = ""
    nodes: list[WorkflowNode] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    definitions: list[bytes] = field(default_factory=list)
    declares_limit: set[int] = field(default_factory=set)
    limit_keys: set[str] = field(default_factory=set)
    warned: set[int] = field(default_factory=set)
    total_bytes: int = 0
    dependencies: int = 0

    def composite(self, attributes: dict[str, Raw], parent: int, path: str, level: int) -> int:
        """Add a chain, group, batch or graph with its children; return its number.

        Args:
            attributes: its members.
            parent: number of the parent, -1 for the root.
            path: the field that errors name.
            level: its level, 1 for the outermost.
        """
        if level > MAX_LEVELS:
            raise InvalidRequest(f"workflows nest {MAX_LEVELS} levels at most", field=path)
        prefix = f"{path}." if path else ""
        items = self._items(attributes, prefix)
        if "type" not in attributes:
            _find_callback_steps(items)
        callbacks = _callbacks(attributes.get("callbacks"), f"{prefix}callbacks")
        kind = _kind(attributes.get("type"), items, bool(callbacks), prefix)
        if kind == "batch" and not callbacks and not any(item.callback for item in items):
            raise InvalidRequest(
                "a batch needs at least one of on_complete, on_success and on_failure",
                field=f"{prefix}callbacks",
            )
        if not any(not item.callback for item in items):
            raise InvalidRequest("a workflow needs a step that is no callback", field=path or None)
        number = self._add(WorkflowNode(kind, parent), path)
        added = [self._child(item, number, level) for item in items]
        self._link(kind, items, added)
        jobs = tuple(n for n, item in zip(added, items, strict=True) if not item.callback)
        for name, item in callbacks:
            child = self._child(item, number, level)
            self._change(child, deps=jobs, trigger=TRIGGERS[name], callback=name)
        return number

    def _items(self, attributes: dict[str, Raw], prefix: str) -> list[_Item]:
        # Clients send "jobs" or "steps" for every type. Without both, the error names one.
        parallel = string(attributes.get("type", _NULL)) in ("group", "batch")
        key = (
            "jobs" if "jobs" in attributes or (parallel and "steps" not in attributes) else "steps"
        )
        listed = array_items(attributes[key]) if key in attributes else None
        if not listed:
            raise InvalidRequest(f"{key} must be a non-empty array", field=f"{prefix}{key}")
        if len(self.nodes) + len(listed) > 2 * self.limits.batch_jobs:
            raise self._too_many(f"{prefix}{key}")
        return [_item(piece, f"{prefix}{key}[{i}]") for i, piece in enumerate(listed)]

    def _child(self, item: _Item, parent: int, level: int) -> int:
        attributes = item.attributes
        # The type does not tell a nested workflow from a job, because a job's type may be "chain".
        if "steps" in attributes or "jobs" in attributes:
            number = self.composite(attributes, parent, item.path, level + 1)
        else:
            number = self._job(attributes, parent, item.path)
        self._change(number, label=item.labels[0] if item.labels else "")
        return number

    def _job(self, attributes: dict[str, Raw], parent: int, path: str) -> int:
        if len(self.definitions) >= self.limits.batch_jobs:
            raise self._too_many(path)
        attributes.setdefault("args", Raw(b"[]"))
        options = dict(_object(attributes.get("options"), f"{path}.options"))
        options.pop("callback_type", None)
        # An option of the step has priority over that of the workflow, also outside of `options`.
        defaults = {k: v for k, v in self.defaults.items() if k not in attributes}
        if options or defaults:
            attributes["options"] = Raw(b"{%b}" % join({**defaults, **options}))
        if self.tenant:
            self._inherit_tenant(attributes, options)
        definition = b"{%b}" % join(attributes)
        # `_with_trace` adds the trace context of the request below, so its bytes count.
        self.total_bytes += len(definition) + len(self.trace)
        if self.total_bytes > _MAX_TOTAL_JOBS * self.limits.envelope_bytes:
            raise PayloadTooLarge(
                "the steps, each with the workflow's options, are more than "
                f"{_MAX_TOTAL_JOBS} times as large as a job may be",
                field=path,
                limit=_MAX_TOTAL_JOBS * self.limits.envelope_bytes,
            )
        try:
            job = parse_job(definition, limits=self.limits, tenant=self.tenant)
        except OJSError as error:
            inner = "" if error.field in (None, "body") else f".{error.field}"
            error.details["field"] = path + inner
            error.message = f"{path}: {error.message}"
            error.args = (error.message,)
            raise
        node = WorkflowNode(
            "job",
            parent,
            type=job.type,
            queue=job.queue,
            job=len(self.definitions),
            tenant=job.tenant,
        )
        self._check_tenant(node, path)
        if job.warnings:
            self.warned.add(node.job)
        if job.rate_limit is not None and job.rate_limit.max_per_second is not None:
            self.declares_limit.add(node.job)
        if job.rate_limit is not None and job.rate_limit.key:
            self.limit_keys.add(job.rate_limit.key)
        if self.trace:
            definition = self._with_trace(attributes, definition, job)
        self.definitions.append(definition)
        return self._add(node, path)

    def _inherit_tenant(self, attributes: dict[str, Raw], options: Mapping[str, Raw]) -> None:
        """Give a job's definition the tenant of the request, unless it names a tenant itself."""
        meta = attributes.get("meta", _NULL)
        present = object_members(meta)
        if present is None and bytes(meta) != b"null":
            return  # `parse_job` refuses it
        named = {**(object_members(options.get("metadata", _NULL)) or {}), **(present or {})}
        if "tenant_id" not in named:
            tenant = Raw(b'"%b"' % self.tenant.encode())
            attributes["meta"] = Raw(b"{%b}" % join({**(present or {}), "tenant_id": tenant}))

    def _check_tenant(self, node: WorkflowNode, path: str) -> None:
        """Check that a job has the tenant of the jobs before it (spec: ojs-multi-tenancy 15.2).

        Raises:
            InvalidRequest: it has another one.
        """
        first = next((other for other in self.nodes if other.job == 0), node)
        if node.tenant != first.tenant:
            raise InvalidRequest(
                f"{path}: all jobs of a workflow have the same tenant; send the header "
                "X-OJS-Tenant, or name it in the meta of each job",
                field=f"{path}.meta.tenant_id",
            )

    def _with_trace(self, attributes: dict[str, Raw], definition: bytes, job: NewJob) -> bytes:
        """Return a job's definition with the trace context of the request.

        Args:
            attributes: members of the definition.
            definition: the definition.
            job: the job that ``definition`` describes.

        Returns:
            The new definition. ``definition`` unchanged if the job has its own trace context, in
            ``meta`` or in the option ``metadata``, or if its fingerprint covers the trace context.
        """
        if job.unique is not None and not TRACE_MEMBERS.isdisjoint(job.unique.meta_keys):
            return definition
        options = _object(attributes.get("options"), "options")
        metadata = object_members(options.get("metadata", _NULL)) or {}
        if not TRACE_MEMBERS.isdisjoint(metadata):
            return definition
        meta = bytes(attributes.get("meta", _NULL))
        traced = add_trace(b"{}" if meta == b"null" else meta, self.trace, self.limits.meta_bytes)
        return b"{%b}" % join({**attributes, "meta": Raw(traced)})

    def _link(self, kind: str, items: Sequence[_Item], added: Sequence[int]) -> None:
        """Set the dependencies of each child.

        A child waits for the steps in its ``depends_on``. A step of a chain also waits for the step
        before it, and a callback without ``depends_on`` waits for all other steps.

        Args:
            kind: kind of the parent.
            items: the children.
            added: their numbers.
        """
        number_of: dict[str, int] = {}
        for item, number in zip(items, added, strict=True):
            for label in item.labels:
                if label in number_of and number_of[label] != number:
                    raise InvalidRequest(f"two steps are called {show(label)}", field=item.path)
                number_of[label] = number
        steps = [n for n, item in zip(added, items, strict=True) if not item.callback]
        previous: int | None = None
        for item, number in zip(items, added, strict=True):
            deps: dict[int, None] = {}
            for index, label in enumerate(item.waits_for):
                if label not in number_of:
                    raise InvalidRequest(
                        f"there is no step {show(label)}", field=f"{item.path}.depends_on[{index}]"
                    )
                deps[number_of[label]] = None
            if item.callback:
                deps = deps or dict.fromkeys(steps)
                self._count(deps, item)
                trigger = TRIGGERS[item.callback]
                self._change(number, deps=tuple(deps), trigger=trigger, callback=item.callback)
                continue
            if kind == "chain" and previous is not None:
                deps[previous] = None
            previous = number
            self._count(deps, item)
            self._change(number, deps=tuple(deps))

    def _count(self, deps: Collection[int], item: _Item) -> None:
        """Count the dependencies of a step.

        Raises:
            PayloadTooLarge: the workflow has too many.
        """
        self.dependencies += len(deps)
        if self.dependencies > MAX_DEPENDENCIES:
            raise PayloadTooLarge(
                f"the steps of a workflow have at most {MAX_DEPENDENCIES} dependencies: "
                "let a chain of groups order many steps",
                field=f"{item.path}.depends_on",
                limit=MAX_DEPENDENCIES,
            )

    def _add(self, node: WorkflowNode, path: str) -> int:
        self.nodes.append(node)
        self.paths.append(path)
        return len(self.nodes) - 1

    def _change(self, number: int, **changes: object) -> None:
        self.nodes[number] = msgspec.structs.replace(self.nodes[number], **changes)

    def _too_many(self, path: str) -> PayloadTooLarge:
        limit = self.limits.batch_jobs
        return PayloadTooLarge(f"a workflow has at most {limit} jobs", field=path, limit=limit)


def _item(piece: Raw, path: str) -> _Item:
    attributes = object_members(piece)
    if attributes is None:
        raise InvalidRequest("a step must be an object", field=path)
    labels = [
        label for key in ("id", "name") if (label := _text(attributes.get(key), f"{path}.{key}"))
    ]
    if not ("steps" in attributes or "jobs" in attributes):
        for key in ("id", "name"):
            attributes.pop(key, None)
    waits_for = _depends_on(attributes.pop("depends_on", None), f"{path}.depends_on")
    options = _object(attributes.get("options"), f"{path}.options")
    callback = _text(options.get("callback_type"), f"{path}.options.callback_type")
    if callback and callback not in TRIGGERS:
        raise InvalidRequest(
            f"callback_type must be one of {', '.join(TRIGGERS)}, not {show(callback)}",
            field=f"{path}.options.callback_type",
        )
    return _Item(attributes, path, labels, waits_for, callback)


def _find_callback_steps(items: Sequence[_Item]) -> None:
    """Mark the callbacks in a batch of the Go SDK, which sends no type.

    Its jobs wait for nothing. Its callbacks are steps with known ids (``CALLBACK_STEPS``) that wait
    for all jobs.
    """
    jobs: list[_Item] = []
    callbacks: list[_Item] = []
    for item in items:
        if item.callback or not item.labels:
            return
        if item.labels[0] in CALLBACK_STEPS:
            callbacks.append(item)
        elif item.waits_for:
            return
        else:
            jobs.append(item)
    numbers = {label: number for number, item in enumerate(jobs) for label in item.labels}
    all_jobs = set(range(len(jobs)))
    if jobs and all(
        {numbers.get(label) for label in item.waits_for or ()} == all_jobs for item in callbacks
    ):
        for item in callbacks:
            item.callback = CALLBACK_STEPS[item.labels[0]]


def _callbacks(piece: Raw | None, path: str) -> list[tuple[str, _Item]]:
    found = []
    for name, job in _object(piece, path).items():
        if name not in TRIGGERS:
            raise InvalidRequest(
                f"a callback is one of {', '.join(TRIGGERS)}, not {show(name)}",
                field=f"{path}.{name}"[:200],
            )
        if bytes(job) != b"null":
            item = _item(job, f"{path}.{name}")
            item.labels = item.labels or [name]
            found.append((name, item))
    return found


def _kind(piece: Raw | None, items: Sequence[_Item], callbacks: bool, prefix: str) -> str:
    """Return the type of a workflow, or else the kind that its dependencies imply."""
    if piece is not None and bytes(piece) != b"null":
        kind = string(piece)
        if kind not in INNER_KINDS:
            raise InvalidRequest(
                f"type must be chain, group, batch or dag, not {show(kind)}", field=f"{prefix}type"
            )
        return kind
    steps = [item for item in items if not item.callback]
    has_dependencies = any(item.waits_for for item in steps)
    if callbacks or len(steps) < len(items):
        return "dag" if has_dependencies else "batch"
    if not has_dependencies:
        return "group"
    linear = not steps[0].waits_for and all(
        len(item.waits_for) == 1 and item.waits_for[0] in before.labels
        for before, item in pairwise(steps)
    )
    return "chain" if linear else "dag"


def _depends_on(piece: Raw | None, path: str) -> list[str]:
    if piece is None or bytes(piece) == b"null":
        return []
    listed = array_items(piece)
    names = [string(item) for item in listed or ()]
    if listed is None or not all(names):
        raise InvalidRequest("depends_on must be an array of step ids", field=path)
    return [name for name in names if name]


def _object(piece: Raw | None, path: str) -> Mapping[str, Raw]:
    if piece is None or bytes(piece) == b"null":
        return {}
    found = object_members(piece)
    if found is None:
        raise InvalidRequest("must be an object", field=path)
    return found


def _text(piece: Raw | None, path: str) -> str:
    """Return an optional text, '' when absent."""
    if piece is None or bytes(piece) == b"null":
        return ""
    text = string(piece)
    if text is None or len(text) > _MAX_NAME_CHARACTERS:
        raise InvalidRequest(
            f"must be text of at most {_MAX_NAME_CHARACTERS} characters", field=path
        )
    return text
