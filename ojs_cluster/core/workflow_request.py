"""Parse a workflow request into its plan (spec: ojs-workflows 3 to 6 and 10).

Clients spell a workflow differently: the spec has ``type`` with ``steps`` or ``jobs`` and
``callbacks``; the Python SDK sends no type but ``depends_on`` and ``options.callback_type``; the
JavaScript SDK nests workflows; a step may lack ``args`` or have its ``queue`` beside its type. All
become the tree of ``workflow``. A step's definition stays the client's bytes. ``parse_job``
validates them now and parses them again when the step is enqueued.
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
from ojs_cluster.core.workflow import CALLBACK_STEPS, TRIGGERS, Cycle, Plan, WorkflowNode

MAX_LEVELS: Final = 5
"""Maximum number of levels of nested workflows. The outermost workflow is the first level."""
_MAX_ENVELOPES: Final = 16
"""Maximum size of all definitions of a workflow, in multiples of the maximum size of one job. Each
definition repeats the workflow's options, so the definitions of a small request could be a thousand
times as large as the request."""
_NAME_LENGTH: Final = 255
_NULL: Final = Raw(b"null")
_KINDS: Final = frozenset({"chain", "group", "batch", "dag"})


@dataclass(frozen=True, slots=True)
class NewWorkflow:
    """A valid workflow.

    Args:
        type: chain, group, batch or dag.
        name: name of the workflow; '' for none.
        plan: plan of the workflow, without job ids.
        definitions: one enqueue request per job of the plan, as JSON.
        limiting: numbers of the jobs that declare a rate limit for their queue.
        limit_keys: rate limit keys that jobs name.
    """

    type: str
    name: str
    plan: Plan
    definitions: Sequence[bytes]
    limiting: Collection[int] = ()
    limit_keys: Collection[str] = ()


def parse_workflow(
    raw: bytes, *, limits: PayloadLimits = DEFAULT_LIMITS, trace: bytes = b""
) -> NewWorkflow:
    """Parse a workflow from the body of a request.

    Args:
        raw: the body.
        limits: limits of the jobs.
        trace: members that ``trace_context`` has returned. They become part of the meta of each job
            that has no trace context.

    Raises:
        OJSError: the workflow is invalid; ``details.field`` names the field.
    """
    attributes = members(raw, limits, outer_levels=2 * MAX_LEVELS)
    name = _text(attributes.get("name"), "name")
    reader = _Reader(limits, _object(attributes.get("options"), "options"), trace)
    reader.composite(attributes, -1, "", 1)
    try:
        plan = Plan(reader.nodes)
    except Cycle as cycle:
        path = reader.paths[cycle.numbers[0]]
        raise InvalidRequest(
            "the step waits for itself, directly or through others", field=f"{path}.depends_on"
        ) from None
    kind, definitions = reader.nodes[0].kind, reader.definitions
    return NewWorkflow(kind, name, plan, definitions, reader.limiting, reader.limit_keys)


@dataclass(slots=True)
class _Item:
    """A child as it was sent, before siblings are known."""

    attributes: dict[str, Raw]
    path: str
    labels: list[str]
    waits_for: list[str]
    callback: str


@dataclass(slots=True)
class _Reader:
    limits: PayloadLimits
    defaults: Mapping[str, Raw]
    trace: bytes = b""
    nodes: list[WorkflowNode] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    definitions: list[bytes] = field(default_factory=list)
    limiting: set[int] = field(default_factory=set)
    limit_keys: set[str] = field(default_factory=set)
    total_bytes: int = 0

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
        dot = f"{path}." if path else ""
        items = self._items(attributes, dot)
        if "type" not in attributes:
            _find_callback_steps(items)
        callbacks = _callbacks(attributes.get("callbacks"), f"{dot}callbacks")
        kind = _kind(attributes.get("type"), items, bool(callbacks), dot)
        if kind == "batch" and not callbacks and not any(item.callback for item in items):
            raise InvalidRequest(
                "a batch needs at least one of on_complete, on_success and on_failure",
                field=f"{dot}callbacks",
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

    def _items(self, attributes: dict[str, Raw], dot: str) -> list[_Item]:
        parallel = string(attributes.get("type", _NULL)) in ("group", "batch")
        key = (
            "jobs" if "jobs" in attributes or (parallel and "steps" not in attributes) else "steps"
        )
        listed = array_items(attributes[key]) if key in attributes else None
        if not listed:
            raise InvalidRequest(f"{key} must be a non-empty array", field=f"{dot}{key}")
        if len(self.nodes) + len(listed) > 2 * self.limits.batch_jobs:
            raise self._too_many(f"{dot}{key}")
        return [_item(piece, f"{dot}{key}[{i}]") for i, piece in enumerate(listed)]

    def _child(self, item: _Item, parent: int, level: int) -> int:
        attributes = item.attributes
        # By its members, not by its type: a job's type may be "chain".
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
        # An option of the step has priority over the workflow's default, whether the step has it in
        # ``options`` or outside.
        defaults = {k: v for k, v in self.defaults.items() if k not in attributes}
        if options or defaults:
            attributes["options"] = Raw(b"{%b}" % join({**defaults, **options}))
        definition = b"{%b}" % join(attributes)
        # Each job also gets the trace context of the request, so its bytes count.
        self.total_bytes += len(definition) + len(self.trace)
        if self.total_bytes > _MAX_ENVELOPES * self.limits.envelope_bytes:
            raise PayloadTooLarge(
                "the steps, each with the workflow's options, are more than "
                f"{_MAX_ENVELOPES} times as large as a job may be",
                field=path,
                limit=_MAX_ENVELOPES * self.limits.envelope_bytes,
            )
        try:
            job = parse_job(definition, limits=self.limits)
        except OJSError as error:
            inner = "" if error.field in (None, "body") else f".{error.field}"
            error.details["field"] = path + inner
            error.message = f"{path}: {error.message}"
            error.args = (error.message,)
            raise
        node = WorkflowNode(
            "job", parent, type=job.type, queue=job.queue, job=len(self.definitions)
        )
        if job.rate_limit is not None and job.rate_limit.max_per_second is not None:
            self.limiting.add(node.job)
        if job.rate_limit is not None and job.rate_limit.key:
            self.limit_keys.add(job.rate_limit.key)
        if self.trace:
            definition = self._with_trace(attributes, definition, job)
        self.definitions.append(definition)
        return self._add(node, path)

    def _with_trace(self, attributes: dict[str, Raw], definition: bytes, job: NewJob) -> bytes:
        """Return a job's definition with the trace context of the request.

        Returns:
            ``definition`` unchanged if the job has a trace context, in ``meta`` or in the option
            ``metadata``, or if its fingerprint would change.

        Args:
            attributes: members of the definition.
            definition: the definition.
            job: the job that ``definition`` describes.
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
        """What each child waits for: what it names, and what its kind implies."""
        named: dict[str, int] = {}
        for item, number in zip(items, added, strict=True):
            for label in item.labels:
                if label in named and named[label] != number:
                    raise InvalidRequest(f"two steps are called {show(label)}", field=item.path)
                named[label] = number
        plain = [n for n, item in zip(added, items, strict=True) if not item.callback]
        previous: int | None = None
        for item, number in zip(items, added, strict=True):
            deps: dict[int, None] = {}
            for at, label in enumerate(item.waits_for):
                if label not in named:
                    raise InvalidRequest(
                        f"there is no step {show(label)}", field=f"{item.path}.depends_on[{at}]"
                    )
                deps[named[label]] = None
            if item.callback:
                deps = deps or dict.fromkeys(plain)
                trigger = TRIGGERS[item.callback]
                self._change(number, deps=tuple(deps), trigger=trigger, callback=item.callback)
                continue
            if kind == "chain" and previous is not None:
                deps[previous] = None
            previous = number
            self._change(number, deps=tuple(deps))

    def _add(self, node: WorkflowNode, path: str) -> int:
        self.nodes.append(node)
        self.paths.append(path)
        return len(self.nodes) - 1

    def _change(self, number: int, **changes: object) -> None:
        self.nodes[number] = msgspec.structs.replace(self.nodes[number], **changes)

    def _too_many(self, path: str) -> PayloadTooLarge:
        max_jobs = self.limits.batch_jobs
        return PayloadTooLarge(
            f"a workflow has at most {max_jobs} jobs", field=path, limit=max_jobs
        )


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
    """Make the steps callbacks that have the ids of callbacks and wait for all other steps.

    The Go SDK sends a batch without a type. Its jobs wait for nothing, and its callbacks are steps
    that wait for all jobs.
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


def _kind(piece: Raw | None, items: Sequence[_Item], callbacks: bool, dot: str) -> str:
    if piece is not None and bytes(piece) != b"null":
        kind = string(piece)
        if kind not in _KINDS:
            raise InvalidRequest(
                f"type must be chain, group, batch or dag, not {show(kind)}", field=f"{dot}type"
            )
        return kind
    steps = [item for item in items if not item.callback]
    edges = any(item.waits_for for item in steps)
    if callbacks or len(steps) < len(items):
        return "dag" if edges else "batch"
    if not edges:
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
    """Return a text, '' when absent."""
    if piece is None or bytes(piece) == b"null":
        return ""
    text = string(piece)
    if text is None or len(text) > _NAME_LENGTH:
        raise InvalidRequest(f"must be text of at most {_NAME_LENGTH} characters", field=path)
    return text
