"""The lasting relation to one node: keeps a connection open, and opens the next one.

A link outlives its connections. Callers look at ``connection``; when it is None they wait for the
client's next change (a link that came up, a new topology) and look again.
"""

from __future__ import annotations

import logging
import random
import ssl
from collections.abc import Callable

import trio

from ojs_cluster.redis.connection import Arg, Channel, Connection, pack
from ojs_cluster.redis.errors import (
    CREDENTIAL_CODES,
    TOO_MANY_CLIENTS,
    AuthenticationFailed,
    ConnectFailed,
    NoSuchDatabase,
    RedisReplyError,
    Signal,
)
from ojs_cluster.redis.group_commit import CommitPlan, Committer
from ojs_cluster.redis.reply_waiters import Clock
from ojs_cluster.redis.settings import Address, ClientSettings
from ojs_cluster.redis.transport import Transport, open_transport

log = logging.getLogger("ojs.redis")

BACKOFF_FIRST_S = 0.02
BACKOFF_MAX_S = 0.5
STABLE_S = 1.0
_DRAIN_POLL_S = 0.005

# What servers say to a database number that is too high, or on a cluster.
_NO_DATABASE = ("DB index", "out of range", "cluster mode")

Command = tuple[Arg, ...]


class Backoff:
    """Delays that double up to a limit, each spread over its upper half so that a crowd thins."""

    def __init__(self, first_s: float, max_s: float) -> None:
        self._first_s = first_s
        self._max_s = max_s
        self._next_s = first_s

    def reset(self) -> None:
        """Start again with the shortest delay."""
        self._next_s = self._first_s

    def next_s(self) -> float:
        """The delay to sleep now, in seconds."""
        delay = self._next_s
        self._next_s = min(delay * 2, self._max_s)
        return delay * (0.5 + random.random() / 2)  # noqa: S311 - spreads load, protects nothing


def handshake(settings: ClientSettings) -> list[Command]:
    """Commands that open every connection, in order."""
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
    """Open a transport before ``deadline``, which is shared with the handshake that follows.

    Raises:
        ConnectFailed: with the node and the reason.
    """
    try:
        with trio.fail_at(deadline):
            return await open_transport(address, tls)
    except trio.TooSlowError:
        reason = f"no connection within {settings.connect_timeout_s:g} s"
    except (OSError, UnicodeError) as error:  # UnicodeError: no host can have such a name
        reason = _reason(error)
    raise ConnectFailed(f"{address}: {reason}")


def _reason(error: Exception) -> str:
    """The operating system's words, which trio keeps as the cause: one per address tried."""
    cause = error.__cause__
    if isinstance(cause, BaseExceptionGroup):
        return "; ".join(str(inner) for inner in cause.exceptions)
    if isinstance(cause, OSError):
        return str(cause)
    return str(error) or type(error).__name__


class Link:
    """One node. ``run`` is started once, in the client's nursery, and ends when cancelled.

    With a ``plan``, replies come when they are confirmed (see ``committer``).
    """

    def __init__(
        self,
        address: Address,
        settings: ClientSettings,
        tls: ssl.SSLContext | None,
        clock: Clock,
        on_change: Callable[[Link], None],
        plan: CommitPlan | None = None,
    ) -> None:
        self.address = address
        self.connection: Channel | None = None
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
        self._told_down = False
        self._replaced = trio.Event()

    @property
    def usable(self) -> Channel | None:
        """The connection, if commands may be sent now.

        One that has just ended is still here until its tasks have: a command given to it then
        would never be answered.
        """
        connection = self.connection
        return connection if connection is not None and connection.open else None

    def __repr__(self) -> str:
        return f"<Link {self.address} {'up' if self.connection is not None else 'down'}>"

    def reconnect(self, why: str) -> bool:
        """Replace the connection: the address is resolved again, and may lead to another server.

        Nothing is sent on the old one any more; commands under way get their replies first.
        Returns whether there was a connection to replace.
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
                    await self._one_connection()
                except ConnectFailed as error:
                    self.last_error = error
                self._tell_down()
                self._on_change(self)
                await trio.sleep(self._backoff.next_s())

    async def _one_connection(self) -> None:
        deadline = trio.current_time() + self._settings.connect_timeout_s
        transport = await dial(self.address, self._settings, self._tls, deadline)
        connection = Connection(
            transport,
            self._clock,
            name=str(self.address),
            max_in_flight=self._settings.max_in_flight,
            max_reply_bytes=self._settings.max_reply_bytes,
        )
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._serve, connection, nursery.cancel_scope)
                try:
                    await introduce(connection, self._settings, deadline)
                except (ConnectFailed, AuthenticationFailed, NoSuchDatabase) as error:
                    self.last_error = error
                    nursery.cancel_scope.cancel()
                else:
                    self._came_up(connection, nursery)
        finally:
            self.connection = None
            connection.close("the client was closed")

    def _came_up(self, connection: Connection, nursery: trio.Nursery) -> None:
        if connection.open:
            self.connection = connection
            if self._plan is not None:
                committer = Committer(connection, self._plan, self._settings.max_in_flight)
                nursery.start_soon(committer.run)
                self.connection = committer
            self.last_error = None
            self._up_since = trio.current_time()
            self._told_down = False
            log.info("Redis node %s is connected", self.address)
            self._replaced = trio.Event()
            nursery.start_soon(self._drain, self.connection, nursery.cancel_scope)
            self._on_change(self)

    async def _drain(self, channel: Channel, scope: trio.CancelScope) -> None:
        """End the connection once it is replaced and owes no reply."""
        await self._replaced.wait()
        with trio.move_on_after(self._settings.reply_timeout_s):
            while channel.pending:  # noqa: ASYNC110 - an event per reply would cost every command
                await trio.sleep(_DRAIN_POLL_S)
        scope.cancel()

    def _tell_down(self) -> None:
        """Log the first failure of a row; the retries that follow would only repeat it."""
        if not self._told_down and self.retired_at is None:
            self._told_down = True
            log.warning("Redis node %s is not connected: %s", self.address, self.last_error)

    async def _serve(self, connection: Connection, scope: trio.CancelScope) -> None:
        reason = await connection.run()
        if self.connection is not None:
            self.connection = None
            self.last_error = ConnectFailed(f"{self.address}: {reason}")
            self._reset_backoff()
        scope.cancel()

    def _reset_backoff(self) -> None:
        # A node that accepts and hangs up at once must not reset the delay each time.
        if trio.current_time() - self._up_since > STABLE_S:
            self._backoff.reset()


def check_refusal(name: str, command: Command, error: RedisReplyError) -> None:
    """Judge an error reply to a command of the handshake with node ``name``.

    Returns when the connection can do without: a user who may not name its connections.

    Raises:
        AuthenticationFailed: it is about the credentials.
        NoSuchDatabase: it is about the database number.
        ConnectFailed: it is about anything else, which may be over soon.
    """
    what = command[0]
    if what == b"CLIENT" and error.code == "NOPERM":
        return
    # The same code as that of many a passing trouble, so the text has to tell.
    plain = error.code == "ERR" and TOO_MANY_CLIENTS not in error.message
    if what == b"SELECT" and plain and any(text in error.message for text in _NO_DATABASE):
        raise NoSuchDatabase(f"{name} has no database {command[1]!r}: {error}")
    if error.code in CREDENTIAL_CODES or (what == b"AUTH" and plain):
        shown = what.decode() if isinstance(what, bytes) else "the handshake"
        raise AuthenticationFailed(f"{name} refused {shown}: {error}")
    raise ConnectFailed(f"{name}: {error}")


async def introduce(connection: Connection, settings: ClientSettings, deadline: float) -> None:
    """Send the handshake and check every answer, before ``deadline``.

    Raises:
        AuthenticationFailed, NoSuchDatabase: the server refused one of them.
        ConnectFailed: the connection ended, or time was up.
    """
    with trio.move_on_at(deadline) as scope:
        for command in handshake(settings):
            answer = await connection.execute(pack(command))
            if isinstance(answer, RedisReplyError):
                check_refusal(connection.name, command, answer)
            elif isinstance(answer, Signal):
                raise ConnectFailed(f"{connection.name}: {answer}")
    if scope.cancelled_caught:
        raise ConnectFailed(f"{connection.name}: no answer to the handshake in time")
