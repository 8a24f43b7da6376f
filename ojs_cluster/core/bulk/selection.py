"""Choose the jobs that a bulk operation changes (spec: ojs-bulk-operations 6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from ojs_cluster.core.access.scopes import QueuePatterns
from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.jobs.states import TERMINAL, State
from ojs_cluster.core.search import Search, parse_search


class BulkAction(StrEnum):
    """What a bulk operation does to each job. The value is the name in the API and in Redis."""

    CANCEL = "cancel"
    RETRY = "retry"
    DELETE = "delete"
    PURGE = "purge"
    """Delete jobs in any state but active. Waiting jobs are cancelled first."""
    PRIORITY = "priority"
    """Change the priority of waiting jobs."""
    DISCARD = "discard"
    """Discard jobs in any state that is not terminal. Only the deletion of a queue does it."""
    MOVE = "move"
    """Move waiting jobs to another queue. Only the deletion of a queue does it."""


REQUESTABLE: Final = tuple(
    action for action in BulkAction if action not in (BulkAction.DISCARD, BulkAction.MOVE)
)
"""The actions of the operations that clients create."""
_WAITING: Final = (State.PENDING, State.AVAILABLE, State.SCHEDULED, State.RETRYABLE)
ALLOWED_STATES: Final[Mapping[BulkAction, frozenset[State]]] = MappingProxyType(
    {
        BulkAction.CANCEL: frozenset({*_WAITING, State.ACTIVE}),
        BulkAction.RETRY: frozenset({State.DISCARDED}),
        BulkAction.DELETE: TERMINAL,
        BulkAction.PURGE: frozenset({*_WAITING, *TERMINAL}),
        BulkAction.PRIORITY: frozenset(_WAITING),
        BulkAction.DISCARD: frozenset({*_WAITING, State.ACTIVE}),
        BulkAction.MOVE: frozenset(_WAITING),
    }
)
"""The states in which a job can be changed by each action."""
DEFAULT_STATES: Final[Mapping[BulkAction, tuple[State, ...]]] = MappingProxyType(
    {
        BulkAction.CANCEL: _WAITING,
        BulkAction.RETRY: (State.DISCARDED,),
        BulkAction.DELETE: tuple(state for state in State if state in TERMINAL),
        BulkAction.PURGE: tuple(state for state in State if state is not State.ACTIVE),
        BulkAction.PRIORITY: _WAITING,
        BulkAction.DISCARD: (*_WAITING, State.ACTIVE),
        BulkAction.MOVE: _WAITING,
    }
)
"""The states of a filter that names none. Active jobs are cancelled only if the filter says so."""


@dataclass(frozen=True, slots=True)
class JobSummary:
    """The small fields of a stored job that a filter compares. Times are Unix milliseconds.

    Args:
        id: the job's id.
        state: the state.
        queue: the queue.
        type: the job type.
        created_ms: when the job was created.
        finished_ms: when it reached its terminal state, None before.
        priority: the priority.
        dead: whether it is a dead letter.
        hidden: whether it was deleted and only reserves its id.
        replays: how often an operator has retried it, the ``replay_count`` of the spec.
        attempt: the number of attempts so far.
        worker: the worker that holds the active job, empty for none.
    """

    id: str
    state: State
    queue: str
    type: str
    created_ms: int
    finished_ms: int | None = None
    priority: int = 0
    dead: bool = False
    hidden: bool = False
    replays: int = 0
    attempt: int = 0
    worker: str = ""


@dataclass(frozen=True, slots=True)
class Selection:
    """The jobs that a bulk operation chooses; a field of None admits all. Times are milliseconds.

    ``admits`` compares the small fields of a job. ``needs_content`` tells whether the content
    decides, too.

    Args:
        states: the states, at least one.
        queue: the queue.
        type: a job type, or a prefix followed by ``*``.
        since_ms: jobs created at this time or later. With ``dead``, jobs that ended in that time.
        until_ms: jobs created before this time. With ``dead``, jobs that ended before it.
        older_than_ms: ended jobs that ended before this time, and other jobs created before it.
        priority: the priority.
        dead: only dead letters.
        within: patterns of the queues that the API key may access.
        error_type: type of the job's last error. ``admits`` does not compare it.
        error_message: normalised message of the job's last error, only together with its type.
            ``admits`` does not compare it.
        error_since_ms: the last error occurred at this time or later. ``admits`` does not compare
            it.
        error_until_ms: the last error occurred before this time. ``admits`` does not compare it.
        query: a search (``core.search``) without times. ``since_ms`` and ``until_ms`` have them:
            an age such as ``2h`` is the time before the operation was created.
        tenant: only jobs of this tenant. ``admits`` does not compare it.
    """

    states: tuple[State, ...]
    queue: str | None = None
    type: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    older_than_ms: int | None = None
    priority: int | None = None
    dead: bool = False
    within: tuple[str, ...] | None = None
    error_type: str | None = None
    error_message: str | None = None
    error_since_ms: int | None = None
    error_until_ms: int | None = None
    query: str | None = None
    tenant: str | None = None

    @property
    def search(self) -> Search | None:
        """The parsed search, None if there is none."""
        return None if self.query is None else _search_of(self.query)

    @property
    def needs_content(self) -> bool:
        """Whether a job is read as a whole, to compare its tenant, errors, tags, args or meta."""
        search = self.search
        return (
            self.names_error
            or self.tenant is not None
            or (search is not None and search.needs_content)
        )

    @property
    def names_error(self) -> bool:
        """Whether the last error of a job decides."""
        return (self.error_type, self.error_since_ms, self.error_until_ms) != (None, None, None)

    def admits(self, job: JobSummary) -> bool:
        """Return whether the small fields of a job match the selection."""
        return (
            not job.hidden
            and job.state in self.states
            and (self.queue is None or job.queue == self.queue)
            and (self.type is None or _is_of_type(job.type, self.type))
            and (self.priority is None or job.priority == self.priority)
            and (job.dead or not self.dead)
            and (self.within is None or QueuePatterns(self.within).admits(job.queue))
            and self._admits_times(job)
            and ((search := self.search) is None or search.admits_without_content(job))
        )

    def _admits_times(self, job: JobSummary) -> bool:
        dated_ms = job.created_ms if not self.dead else job.finished_ms or 0
        last_change_ms = job.created_ms if job.finished_ms is None else job.finished_ms
        return (
            (self.since_ms is None or self.since_ms <= dated_ms)
            and (self.until_ms is None or dated_ms < self.until_ms)
            and (self.older_than_ms is None or last_change_ms < self.older_than_ms)
        )

    def members(self) -> dict[str, Any]:
        """Return the fields that are set, as members of a JSON object."""
        # A priority or a time of 0 is a condition, but equals False, so identity decides.
        return {
            name: value
            for name, value in asdict(self).items()
            if value is not None and value is not False
        }

    @classmethod
    def of_members(cls, members: Any) -> Selection:
        """Return the selection whose ``members`` were stored.

        Raises:
            ValueError: a member is missing or has a wrong type.
        """
        try:
            within = members.get("within")
            selection = cls(
                **{
                    **members,
                    "states": tuple(State(state) for state in members["states"]),
                    "within": None if within is None else tuple(str(text) for text in within),
                }
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"the filter is damaged: {error}") from None
        if not selection._has_valid_types():
            raise ValueError("the filter is damaged")
        return selection

    def _has_valid_types(self) -> bool:
        texts = (
            *(self.queue, self.type, self.error_type, self.error_message),
            *(self.query, self.tenant),
        )
        times = (self.since_ms, self.until_ms, self.older_than_ms)
        numbers = (*times, self.error_since_ms, self.error_until_ms, self.priority)
        return (
            bool(self.states)
            and all(text is None or isinstance(text, str) for text in texts)
            and all(number is None or type(number) is int for number in numbers)
            and self._has_valid_search()
        )

    def _has_valid_search(self) -> bool:
        try:
            return self.query is None or _search_of(self.query) is not None
        except InvalidRequest:
            return False


@lru_cache(maxsize=128)
def _search_of(text: str) -> Search:
    # The search has no times, so the time now does not matter.
    return parse_search(text, now_ms=0)


def _is_of_type(name: str, wanted: str) -> bool:
    return name.startswith(wanted[:-1]) if wanted.endswith("*") else name == wanted
