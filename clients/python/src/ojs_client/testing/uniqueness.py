"""Which jobs count as the same (spec: ojs-unique-jobs)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from ojs_client.testing.refusals import not_allowed
from ojs_client.testing.times import duration_ms, iso_duration

_STATES: Final = ("available", "active", "scheduled", "retryable", "pending")
_CONFLICTS: Final = ("reject", "ignore", "replace", "replace_except_schedule")


class Uniqueness:
    """The uniqueness policy of a job.

    Args:
        policy: the policy of the enqueue request.
        type: the type of the job.
        queue: its queue.
        args: its arguments.
        meta: its metadata.

    Raises:
        Refusal: the policy is not allowed.
    """

    def __init__(
        self, policy: Mapping[str, Any], type: str, queue: str, args: list[Any], meta: Any
    ) -> None:
        path = "options.unique"
        self.on_conflict: str = policy.get("on_conflict", "reject")
        if self.on_conflict not in _CONFLICTS:
            raise not_allowed(f"on_conflict must be one of {_CONFLICTS}", f"{path}.on_conflict")
        period = policy.get("period")
        self._period_ms = None if period is None else duration_ms(period, f"{path}.period")
        self._states: list[str] = policy.get("states") or list(_STATES)
        keys, names = policy.get("keys") or [], policy.get("args_keys") or []
        keys = ["type", *(key for key in keys if key != "type")]
        shown = {"keys": keys, "args_keys": names, "meta_keys": policy.get("meta_keys")}
        self._shown: dict[str, Any] = {name: value for name, value in shown.items() if value}
        parts: dict[str, Any] = {"type": type}
        if "queue" in keys:
            parts["queue"] = queue
        if names:
            parts["args"] = {name: _argument(args, name) for name in names}
        elif "args" in keys:
            parts["args"] = args
        if "meta" in keys:
            if not policy.get("meta_keys"):
                raise not_allowed("meta_keys must name at least one key", f"{path}.meta_keys")
            parts["meta"] = {name: meta[name] for name in policy["meta_keys"] if name in meta}
        self.fingerprint: str = json.dumps(parts, sort_keys=True)

    def json(self) -> dict[str, Any]:
        """Return the policy as the envelope shows it."""
        value = {**self._shown, "states": self._states, "on_conflict": self.on_conflict}
        if self._period_ms is not None:
            value["period"] = iso_duration(self._period_ms)
        return value

    def counts(self, state: str, age_ms: int) -> bool:
        """Return whether an earlier job in this state and of this age conflicts."""
        return state in self._states and (self._period_ms is None or age_ms < self._period_ms)


def _argument(args: list[Any], name: str) -> Any:
    """Return a member of the first object in ``args`` that has it, or the argument at a position.

    Raises:
        Refusal: there is none.
    """
    for arg in args:
        if isinstance(arg, dict) and name in arg:
            return arg[name]
    if name.isascii() and name.isdecimal() and int(name) < len(args):
        return args[int(name)]
    raise not_allowed(
        f"unique.args_keys names '{name}', which is not in args", "options.unique.args_keys"
    )
