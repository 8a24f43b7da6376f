"""Errors between this process and Redis.

Callers of the client see two of these errors: ``RedisReplyError`` (Redis answered with an error)
and ``ReplyTooLarge``. When Redis cannot be reached, callers see ``core.errors.BackendUnavailable``,
which says whether the command may have been applied.

A ``ReplyFailure`` is never raised. It is an object that a waiting caller gets instead of a reply.
One lost connection wakes many callers with the same object. If all of them raised it, it would
collect the tracebacks of all tasks.
"""

from __future__ import annotations

from typing import Final

from ojs_cluster.core.errors import OJSError

# After an error with one of these codes, the command was not applied and may be sent again.
RETRYABLE_CODES: Final = frozenset(
    {"TRYAGAIN", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "READONLY", "BUSY", "NOREPLICAS"}
)
# Retryable codes after which the known topology may be stale.
STALE_TOPOLOGY_CODES: Final = frozenset({"CLUSTERDOWN", "MASTERDOWN", "READONLY"})
# Retryable codes that only a replica returns.
REPLICA_CODES: Final = frozenset({"MASTERDOWN", "READONLY"})

# Redis has no memory (OOM), or cannot persist to its disk (MISCONF). The command was not applied. A
# script gets these errors at its first write. The client does not repeat such a call: the state may
# last for hours, and calls that wait use the memory of this process.
WRITES_REFUSED_CODES: Final = frozenset({"OOM", "MISCONF"})
# Texts of errors that a script gets while its slot moves to another node, when it touches a key
# that has been moved or does not exist. Redis stops the script, and the earlier writes of the
# script stay. A script with a preflight has no earlier writes. The second text is that of Redis 8.
# For keys that the script declares there is no such error: Redis checks them before the script
# starts, and answers TRYAGAIN or ASK.
_MOVED_UNDER_SCRIPT: Final = (
    "access a non local key",
    "undeclared keys were accessed during rehashing of the slot",
)

# Redis refuses the credentials, or the ACL user has no right to run the command.
CREDENTIAL_CODES: Final = frozenset({"WRONGPASS", "NOAUTH", "NOPERM"})
# A key has another type than the command needs. In scripts, the code may be another one.
WRONG_TYPE: Final = "WRONGTYPE"
# A server with too many clients answers the first command of a new connection with this.
TOO_MANY_CLIENTS: Final = "max number of clients"


class RedisReplyError(Exception):
    """An error reply. ``code`` is its first word (``ERR``, ``WRONGTYPE``), ``message`` the rest."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        code, _, message = text.partition(" ")
        self.code = code
        self.message = message

    @property
    def has_wrong_type(self) -> bool:
        """Whether a key has another type than the command, or one of a script, needs."""
        return WRONG_TYPE in f"{self.code} {self}"


def stopped_by_moving_slot(error: RedisReplyError) -> bool:
    """Return whether Redis stopped a script because its slot is moving to another node."""
    return any(text in error.message for text in _MOVED_UNDER_SCRIPT)


class ReplyTooLarge(OJSError):
    """A reply exceeded ``ClientSettings.max_reply_bytes``, and its connection was closed.

    The command was applied. This class is an ``OJSError``, because HTTP clients see the message.
    """


class MalformedKey(OJSError, RedisReplyError):
    """A key has another type than this server gives it, because another program has written it.

    This class is an ``OJSError``, because HTTP clients see the message. A script may have written
    other keys before.

    Args:
        error: Redis's answer.
        fault: which key, and what is wrong with it.
        kind: what all such keys have in common in their names (docs/keys.md).
        retry_after_s: time in seconds after which the client may try again.
    """

    def __init__(
        self, error: RedisReplyError, fault: str, kind: str | None, *, retry_after_s: float = 10.0
    ) -> None:
        super().__init__(f"Redis's data is malformed: {fault}", kind=kind, outcome="unknown")
        self.code = error.code
        self.retry_after_s = retry_after_s


class AuthenticationFailed(Exception):
    """The server refused the credentials. An operator has to change them here or on the server."""


class NoSuchDatabase(Exception):
    """The server has no database of the configured number."""


class ConnectFailed(Exception):
    """No connection to a node could be opened; the message names the node and the reason."""


class ReplyFailure(Exception):
    """Base class of the objects that a waiting caller may get instead of a reply."""


class ReplyLost(ReplyFailure):
    """The connection ended before the reply, so it is unknown whether the command was applied."""


class CommandNotSent(ReplyFailure):
    """The command was not sent, so it may be sent again without risk."""


class OversizedReply(ReplyFailure):
    """The reply to this command is larger than ``ClientSettings.max_reply_bytes``."""
