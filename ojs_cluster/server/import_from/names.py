"""Turn names of other systems into job types and queue names that OJS allows.

``Billing::ChargeJob`` becomes ``billing.charge_job``, and the queue ``Billing_EU`` becomes
``billing-eu``. A name that is valid already stays the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ojs_cluster.core.jobs.envelope import MAX_TYPE_LENGTH
from ojs_cluster.core.jobs.options import MAX_QUEUE_LENGTH

_SEPARATORS = re.compile(r"::|[.:/\\#\s]+")
_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_NOT_TYPE = re.compile(r"[^a-z0-9_\-]+")
_NOT_QUEUE = re.compile(r"[^a-z0-9.\-]+")


class Names:
    """Names of types and queues, with exceptions that the operator gives.

    Args:
        types: type in the other system to type in OJS.
        queues: queue in the other system to queue in OJS.
    """

    def __init__(self, types: Mapping[str, str], queues: Mapping[str, str]) -> None:
        self._types, self._queues = types, queues

    def type(self, name: str) -> str:
        """Return the job type for a name; it may be invalid, and parsing the job then says so."""
        return self._types.get(name) or _type(name)

    def queue(self, name: str) -> str:
        """Return the queue name for a name; it may be invalid, as for ``type``."""
        return self._queues.get(name) or default_queue_name(name)


def _type(name: str) -> str:
    words = (
        _NOT_TYPE.sub("-", _WORD_START.sub("_", part).lower()).strip("_-").lstrip("0123456789")
        for part in _SEPARATORS.split(name)
    )
    return ".".join(filter(None, words))[:MAX_TYPE_LENGTH]


def default_queue_name(name: str) -> str:
    """Return the queue name for a name that the operator does not change; it may be empty."""
    return _NOT_QUEUE.sub("-", name.lower()).strip("-.")[:MAX_QUEUE_LENGTH]
