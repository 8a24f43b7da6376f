"""Settings of the Redis client: addresses, credentials, timeouts and limits."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from ojs_cluster.redis.durability import Durability
from ojs_cluster.redis.url import parse_redis_url


class Address(NamedTuple):
    """Host name or IP address, and TCP port, of one node."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """Certificates for ``rediss://``.

    Without paths, the system's CAs apply and the client sends no certificate. ``verify=False``
    accepts any certificate (tests, tunnels). ``check_hostname=False`` still requires one that the
    CA signed, for clusters that announce bare IP addresses.
    """

    ca_file: str | None = None
    ca_path: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    key_password: str | None = field(default=None, repr=False)
    check_hostname: bool = True
    verify: bool = True

    def context(self) -> ssl.SSLContext:
        """Return an SSL context of these settings.

        Raises:
            OSError: a file cannot be read.
            ssl.SSLError: a file is not what it should be.
        """
        context = ssl.create_default_context(cafile=self.ca_file, capath=self.ca_path)
        context.check_hostname = self.check_hostname and self.verify
        if not self.verify:
            context.verify_mode = ssl.CERT_NONE
        self.load_client_certificate(context)
        return context

    def load_client_certificate(self, context: ssl.SSLContext) -> None:
        """Load the client certificate and its key into ``context``.

        Raises:
            OSError: a file cannot be read.
            ssl.SSLError: a file is not what it should be, or the passphrase is wrong.
        """
        if self.cert_file is not None:
            # Without a passphrase, OpenSSL would prompt at the terminal and block there.
            context.load_cert_chain(self.cert_file, self.key_file, self.key_password or "")


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """Everything ``open_client`` needs. Times are in seconds, sizes in bytes.

    Attributes:
        nodes: start nodes, tried in turn until one reports the topology.
        username: ACL user, None for the default user.
        password: None for no authentication. Never part of the repr.
        db: database number; only 0 on a cluster.
        tls: None for plain TCP.
        client_name: shown by CLIENT LIST.
        connect_timeout_s: TCP, TLS and handshake of one connection together.
        reply_timeout_s: a node with unanswered commands that sends nothing for this long counts as
            dead, and its connection is closed.
        call_timeout_s: one call in total, including retries and the wait for a connection.
        max_in_flight: commands queued or unanswered per node; further callers wait.
        max_reply_bytes: largest accepted reply, to the nearest read of 64 KiB.
        durability: what scripts wait for before they answer; a request may ask for more.
        durability_timeout_s: how long they wait, at most half of ``reply_timeout_s``: a node that
            sends nothing for longer counts as dead.
        durability_replicas: how many replicas of a master must have a write; FSYNC on a standalone
            server counts none.
        probe_keys: (slot, key) pairs of keys that the client may write at any time; required by
            every durability but ASYNC.
    """

    nodes: tuple[Address, ...]
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    db: int = 0
    tls: TlsSettings | None = None
    client_name: str = "ojs-cluster"
    connect_timeout_s: float = 2.0
    reply_timeout_s: float = 5.0
    call_timeout_s: float = 10.0
    max_in_flight: int = 1024
    max_reply_bytes: int = 64 * 1024 * 1024
    durability: Durability = Durability.ASYNC
    durability_timeout_s: float = 1.0
    durability_replicas: int = 1
    probe_keys: tuple[tuple[int, bytes], ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if not self.nodes:
            raise ValueError("at least one Redis node is needed")
        times = ("connect_timeout_s", "reply_timeout_s", "call_timeout_s", "durability_timeout_s")
        for name in (*times, "max_in_flight"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive")
        if self.max_reply_bytes < 64 * 1024:
            raise ValueError("max_reply_bytes must be at least 65536")

    @classmethod
    def from_url(cls, url: str, **overrides: Any) -> ClientSettings:
        """Return settings for a ``redis://`` or ``rediss://`` URL, see ``ojs_cluster.redis.url``.

        Args:
            url: the URL.
            overrides: fields of this class that win over the URL.

        Raises:
            ValueError: the URL is malformed; the message never repeats the URL, which may hold a
                password.
        """
        parsed = parse_redis_url(url)
        tls = TlsSettings(**parsed.tls) if parsed.secure else None
        settings = cls(
            nodes=tuple(Address(host, port) for host, port in parsed.nodes),
            username=parsed.username,
            password=parsed.password,
            db=parsed.db,
            tls=tls,
        )
        if parsed.client_name is not None:
            settings = replace(settings, client_name=parsed.client_name)
        return replace(settings, **overrides)
