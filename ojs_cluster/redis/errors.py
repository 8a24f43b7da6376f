"""What can go wrong between this process and Redis.

Two of these reach the callers of the client: ``RedisReplyError`` (Redis answered, with an error)
and ``ReplyTooLarge``. Everything that means "Redis could not be asked" is
``core.errors.BackendUnavailable``, which also says whether the command may have been applied.

The signals below never travel as raised exceptions. They are handed to a waiting caller in place
of a reply, because one lost connection wakes many callers and an exception instance raised in
several tasks would collect all their tracebacks.
"""

from __future__ import annotations

from typing import Final

from ojs_cluster.core.errors import OJSError

# Replies that say "not now": the command was not applied and may be sent again.
BUSY_CODES: Final = frozenset(
    {"TRYAGAIN", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "READONLY", "BUSY", "NOREPLICAS"}
)
# Of these, the ones after which the topology is in doubt.
STALE_CODES: Final = frozenset({"CLUSTERDOWN", "MASTERDOWN", "READONLY"})
# Of these, the ones that only a replica gives.
REPLICA_CODES: Final = frozenset({"MASTERDOWN", "READONLY"})

# No memory, or no disk to persist to: not applied either, but not over in a few seconds, and
# every waiting caller is memory too. A script meets them at its first write.
REFUSED_CODES: Final = frozenset({"OOM", "MISCONF"})
# A script ran into a key that its slot's migration has already taken to another node, or that
# does not exist while the slot moves. Redis finds that out when the script touches the key, so
# whatever the script wrote before that has been applied: nothing, if it looks first at all it may
# touch. Keys that are declared are checked before the script starts and give TRYAGAIN or ASK.
# The second text is what Redis 8 says when some keys of one command are there and others are not.
_MOVED_UNDER_SCRIPT: Final = (
    "access a non local key",
    "undeclared keys were accessed during rehashing of the slot",
)


# Whatever was asked: it is not for whom we say we are.
CREDENTIAL_CODES: Final = frozenset({"WRONGPASS", "NOAUTH", "NOPERM"})
# A server that is full says this in place of the first answer, whatever was asked.
TOO_MANY_CLIENTS: Final = "max number of clients"


class RedisReplyError(Exception):
    """An error reply. ``code`` is its first word (``ERR``, ``WRONGTYPE``), ``message`` the rest."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        code, _, message = text.partition(" ")
        self.code = code
        self.message = message


def stopped_by_moving_slot(error: RedisReplyError) -> bool:
    """Whether a script ran into a key that is not here while its slot moves."""
    return any(text in error.message for text in _MOVED_UNDER_SCRIPT)


class ReplyTooLarge(OJSError):
    """A reply grew past ``ClientSettings.max_reply_bytes``; its connection was closed.

    The command itself was carried out. Its caller may be told, hence an ``OJSError``.
    """


class AuthenticationFailed(Exception):
    """The server refused the credentials: either side's have to change first."""


class NoSuchDatabase(Exception):
    """The server has no database of the number that we were given."""


class ConnectFailed(Exception):
    """No usable connection to a node could be made; the message says to which and why."""


class Signal(Exception):
    """Base of what a waiter may be handed in place of a reply."""


class Lost(Signal):
    """The command was sent, and its connection ended before the reply: outcome unknown."""


class NotSent(Signal):
    """The connection ended, or was full, before the command was sent: safe to send again."""


class TooLarge(Signal):
    """The reply to this very command passed the size limit."""
