"""The link to one node: it keeps a connection open, and replaces a connection that has ended.

Callers use the attribute ``connection`` of the link. While it is None, they wait until the router
reports a change (a link has connected, or there is a new topology), and read the attribute again.
"""

from __future__ import annotations

import logging
import random
import ssl
from collections.abc import Callable

import trio

from ojs_cluster.redis.connection import Arg, NodeConnection, RedisConnection, pack
from ojs_cluster.redis.errors import (
    CREDENTIAL_CODES,
    TOO_MANY_CLIENTS,
    AuthenticationFailed,
    ConnectFailed,
    NoSuchDatabase,
    RedisReplyError,
    ReplyFailure,
)
from ojs_cluster.redis.group_commit import CommitPlan, GroupCommitConnection
from ojs_cluster.redis.reply_waiters import CoarseClock
from ojs_cluster.redis.settings import Address, ClientSettings
from ojs_cluster.redis.transport import Transport, open_transport

log = logging.getLogger("ojs.redis")

BACKOFF_FIRST_S = 0.02
BACKOFF_MAX_S = 0.5
STABLE_S = 1.0
"""After a connection that lasted longer, the first delay before a reconnection is short again."""
_DRAIN_POLL_S = 0.005

# Texts of errors for a database number that is too high, or that is not 0 on a cluster.
_NO_DATABASE = ("DB index", "out of range", "cluster mode")

Command = tuple[Arg, ...]


class Backoff:
    """Delays that double up to a maximum, each shortened by a random part of at most half."""

    def __init__(self, first_s: float, max_s: float) -> None:
        self._first_s = first_s
        self._max_s = max_s
        self._next_s = first_s

    def reset(self) -> None:
        """Begin again with the shortest delay."""
        self._next_s = self._first_s

    def next_s(self) -> float:
        """Return the delay to sleep now, in seconds."""
        delay = self._next_s
        self._next_s = min(delay * 2, self._max_s)
        return delay * (0.5 + random.random() / 2)  # noqa: S311 - not used for security


def handshake_commands(settings: ClientSettings) -> list[Command]:
    """Return the commands that a new connection sends first, in order."""
    commands: list[Command] = []
    if settings.password is not None:
        user: Command = (settings.username,) if settings.username is not None else ()
        commands.append((b"AUTH", *user, settings.password))
    if settings.client_name:
        commands.append((b"CLIENT", b"SETNAME", settings.client_name))
    if settings.db:
        commands.append((b"SELECT", settings.db))
    return commands


async def dial(
    address: Address, settings: ClientSettings, tls: ssl.SSLContext | None, deadline: float
) -> Transport:
    """Open a transport to a node.

    Args:
        address: the address of the node.
        settings: the settings of the client.
        tls: the context for TLS; None for plain TCP.
        deadline: the time by which the transport must be open, in seconds of trio's clock.

    Raises:
        ConnectFailed: the transport could not be opened. The message names the node and the reason.
    """
    try:
        with trio.fail_at(deadline):
            return await open_transport(address, tls)
    except trio.TooSlowError:
        reason = f"no connection within {settings.connect_timeout_s:g} s"
    except (OSError, UnicodeError) as error:  # UnicodeError: the host name is invalid
        reason = _reason(error)
    raise ConnectFailed(f"{address}: {reason}")


def _reason(error: Exception) -> str:
    """Return the messages of the system. trio tries several addresses and keeps their errors."""
    cause = error.__cause__
    if isinstance(cause, BaseExceptionGroup):
        return "; ".join(str(inner) for inner in cause.exceptions)
    if isinstance(cause, OSError):
        return str(cause)
    return str(error) or type(error).__name__


class NodeLink:
    """The link to one node. ``run`` starts once, in the client's nursery, and ends when cancelled.

    Attributes:
        address: the address of the node.
        connection: the connection; None while there is none. If the link has a ``plan``, it is a
            ``GroupCommitConnection``.
        last_error: why the last connection ended or could not be opened; None if connected.
        retired_at: since when no slot needs the node, in seconds of the client's clock; None if a
            slot needs it.
        scope: the cancel scope of ``run``.
    """

    def __init__(
        self,
        address: Address,
        settings: ClientSettings,
        tls: ssl.SSLContext | None,
        clock: CoarseClock,
        on_change: Callable[[NodeLink], None],
        plan: CommitPlan | None = None,
    ) -> None:
        self.address = address
        self.connection: NodeConnection | None = None
        self.last_error: Exception | None = None
        self.retired_at: float | None = None
        self.scope = trio.CancelScope()
        self._settings = settings
        self._tls = tls
        self._clock = clock
        self._on_change = on_change
        self._plan = plan
        self._backoff = Backoff(BACKOFF_FIRST_S, BACKOFF_MAX_S)
        self._up_since = 0.0
        self._logged_down = False
        self._replaced = trio.Event()

    @property
    def usable(self) -> NodeConnection | None:
        """The connection if commands may be sent on it, otherwise None.

        A connection that has ended stays in ``connection`` until its tasks have ended. Commands
        must not be sent on it, because it would never answer.
        """
        connection = self.connection
        return connection if connection is not None and connection.open else None

    def __repr__(self) -> str:
        return f"<NodeLink {self.address} {'up' if self.connection is not None else 'down'}>"

    def reconnect(self, why: str) -> bool:
        """Replace the connection; return whether there was one.

        The new connection may lead to another server, because the host name is resolved again. The
        old connection gets no new commands, and ends after the replies to its earlier commands.
        """
        if self.connection is None:
            return False
        self.connection = None
        self.last_error = ConnectFailed(f"{self.address}: {why}")
        self._reset_backoff()
        self._replaced.set()
        self._on_change(self)
        return True

    async def run(self) -> None:
        """Keep a connection to the node until cancelled."""
        with self.scope:
            while True:
                try:
                    await self._run_connection()
                except ConnectFailed as error:
                    self.last_error = error
                self._log_down()
                self._on_change(self)
                await trio.sleep(self._backoff.next_s())

    async def _run_connection(self) -> None:
        deadline = trio.current_time() + self._settings.connect_timeout_s
        transport = await dial(self.address, self._settings, self._tls, deadline)
        connection = RedisConnection(
            transport,
            self._clock,
            name=str(self.address),
            max_in_flight=self._settings.max_in_flight,
            max_reply_bytes=self._settings.max_reply_bytes,
        )
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._run_until_closed, connection, nursery.cancel_scope)
                try:
                    await perform_handshake(connection, self._settings, deadline)
                except (ConnectFailed, AuthenticationFailed, NoSuchDatabase) as error:
                    self.last_error = error
                    nursery.cancel_scope.cancel()
                else:
                    self._set_connected(connection, nursery)
        finally:
            self.connection = None
            connection.close("the client was closed")

    def _set_connected(self, connection: RedisConnection, nursery: trio.Nursery) -> None:
        if connection.open:
            self.connection = connection
            if self._plan is not None:
                group_commit = GroupCommitConnection(
                    connection, self._plan, self._settings.max_in_flight
                )
                nursery.start_soon(group_commit.run)
                self.connection = group_commit
            self.last_error = None
            self._up_since = trio.current_time()
            self._logged_down = False
            log.info("Redis node %s is connected", self.address)
            self._replaced = trio.Event()
            nursery.start_soon(self._drain, self.connection, nursery.cancel_scope)
            self._on_change(self)

    async def _drain(self, connection: NodeConnection, scope: trio.CancelScope) -> None:
        """End the connection once it is replaced and has no unanswered commands."""
        await self._replaced.wait()
        with trio.move_on_after(self._settings.reply_timeout_s):
            while connection.pending:  # noqa: ASYNC110 - an event per reply would cost every command
                await trio.sleep(_DRAIN_POLL_S)
        scope.cancel()

    def _log_down(self) -> None:
        """Log the first of several failures in a row."""
        if not self._logged_down and self.retired_at is None:
            self._logged_down = True
            log.warning("Redis node %s is not connected: %s", self.address, self.last_error)

    async def _run_until_closed(self, connection: RedisConnection, scope: trio.CancelScope) -> None:
        reason = await connection.run()
        if self.connection is not None:
            self.connection = None
            self.last_error = ConnectFailed(f"{self.address}: {reason}")
            self._reset_backoff()
        scope.cancel()

    def _reset_backoff(self) -> None:
        # If a node accepts connections and closes them at once, the delays have to grow.
        if trio.current_time() - self._up_since > STABLE_S:
            self._backoff.reset()


def check_handshake_error(name: str, command: Command, error: RedisReplyError) -> None:
    """Raise the exception for an error reply to a command of the handshake.

    If the ACL user may not set the name of the connection, no exception is raised, because the
    connection works without a name.

    Args:
        name: the name of the node for the message.
        command: the command.
        error: the error reply.

    Raises:
        AuthenticationFailed: the server refused the credentials.
        NoSuchDatabase: the server has no such database.
        ConnectFailed: any other error, which may be temporary.
    """
    word = command[0]
    if word == b"CLIENT" and error.code == "NOPERM":
        return
    # The error for too many clients is temporary, but has the code ERR of permanent errors.
    permanent = error.code == "ERR" and TOO_MANY_CLIENTS not in error.message
    if word == b"SELECT" and permanent and any(text in error.message for text in _NO_DATABASE):
        raise NoSuchDatabase(f"{name} has no database {command[1]!r}: {error}")
    if error.code in CREDENTIAL_CODES or (word == b"AUTH" and permanent):
        shown = word.decode() if isinstance(word, bytes) else "the handshake"
        raise AuthenticationFailed(f"{name} refused {shown}: {error}")
    raise ConnectFailed(f"{name}: {error}")


async def perform_handshake(
    connection: RedisConnection, settings: ClientSettings, deadline: float
) -> None:
    """Send the commands of the handshake and check every answer.

    Args:
        connection: a new connection whose ``run`` is running.
        settings: the settings of the client.
        deadline: the time by which all answers must have arrived, in seconds of trio's clock.

    Raises:
        AuthenticationFailed: the server refused the credentials.
        NoSuchDatabase: the server has no database of the configured number.
        ConnectFailed: the connection ended, or the time was up.
    """
    with trio.move_on_at(deadline) as scope:
        for command in handshake_commands(settings):
            answer = await connection.execute(pack(command))
            if isinstance(answer, RedisReplyError):
                check_handshake_error(connection.name, command, answer)
            elif isinstance(answer, ReplyFailure):
                raise ConnectFailed(f"{connection.name}: {answer}")
    if scope.cancelled_caught:
        raise ConnectFailed(f"{connection.name}: no answer to the handshake in time")
