"""Errors between this process and Redis.

Callers of the client see two of these: ``RedisReplyError`` (Redis answered with an error) and
``ReplyTooLarge``. When Redis could not be reached they see ``core.errors.BackendUnavailable``,
which says whether the command may have been applied.

Nothing raises a ``ReplyFailure``. A waiting caller gets it in place of a reply. One lost connection
wakes many callers, and an exception that several tasks raise would collect all their tracebacks.
"""

from __future__ import annotations

from typing import Final

from ojs_cluster.core.errors import OJSError

# The command was not applied and may be sent again.
RETRYABLE_CODES: Final = frozenset(
    {"TRYAGAIN", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "READONLY", "BUSY", "NOREPLICAS"}
)
# Of these, the codes after which the known topology may be stale.
STALE_TOPOLOGY_CODES: Final = frozenset({"CLUSTERDOWN", "MASTERDOWN", "READONLY"})
# Of these, the codes that only a replica returns.
REPLICA_CODES: Final = frozenset({"MASTERDOWN", "READONLY"})

# No memory, or no disk to persist to. The command was not applied either, but the state lasts, and
# every waiting caller takes memory too. A script gets these at its first write.
WRITES_REFUSED_CODES: Final = frozenset({"OOM", "MISCONF"})
# A script touched a key that a slot migration has already moved to another node, or that does not
# exist while the slot moves. Redis stops the script there, and earlier writes of the script stay
# applied. A script with a preflight has made none. Redis checks declared keys before the script
# starts and answers TRYAGAIN or ASK. The second text is Redis 8's, for a command of which some keys
# have moved.
_MOVED_UNDER_SCRIPT: Final = (
    "access a non local key",
    "undeclared keys were accessed during rehashing of the slot",
)

# The user may not do this, or is not who it claims to be.
CREDENTIAL_CODES: Final = frozenset({"WRONGPASS", "NOAUTH", "NOPERM"})
# A server with too many clients answers the first command of a new connection with this.
TOO_MANY_CLIENTS: Final = "max number of clients"


class RedisReplyError(Exception):
    """An error reply. ``code`` is its first word (``ERR``, ``WRONGTYPE``), ``message`` the rest."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        code, _, message = text.partition(" ")
        self.code = code
        self.message = message


def stopped_by_moving_slot(error: RedisReplyError) -> bool:
    """Return whether a script touched a key that is not on the node while its slot moves."""
    return any(text in error.message for text in _MOVED_UNDER_SCRIPT)


class ReplyTooLarge(OJSError):
    """A reply grew past ``ClientSettings.max_reply_bytes``; its connection was closed.

    The command was applied. An ``OJSError``, because an HTTP client may see the message.
    """


class AuthenticationFailed(Exception):
    """The server refused the credentials. A retry helps only after either side changes them."""


class NoSuchDatabase(Exception):
    """The server has no database of the configured number."""


class ConnectFailed(Exception):
    """No connection to a node could be opened; the message names the node and the reason."""


class ReplyFailure(Exception):
    """Base of what a waiting caller may get in place of a reply."""


class ReplyLost(ReplyFailure):
    """The command was sent, and its connection ended before the reply: outcome unknown."""


class CommandNotSent(ReplyFailure):
    """The connection ended, or was full, before the command was sent: safe to send again."""


class OversizedReply(ReplyFailure):
    """The reply to this command is larger than the limit."""
