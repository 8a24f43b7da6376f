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

    Without paths, the client trusts the CAs of the system and sends no certificate. With
    ``verify=False`` the client accepts any certificate (for tests and tunnels). With
    ``check_hostname=False`` the certificate may name any host, but a CA must have signed it (for
    clusters that announce IP addresses).
    """

    ca_file: str | None = None
    ca_path: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    key_password: str | None = field(default=None, repr=False)
    check_hostname: bool = True
    verify: bool = True

    def context(self) -> ssl.SSLContext:
        """Return an SSL context with these settings.

        Raises:
            OSError: a file cannot be read.
            ssl.SSLError: a file has no certificate, or no key, in PEM form.
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
            ssl.SSLError: a file has no certificate, or no key, in PEM form, or the passphrase is
                wrong.
        """
        if self.cert_file is not None:
            # Without a passphrase, OpenSSL would prompt at the terminal and block there.
            context.load_cert_chain(self.cert_file, self.key_file, self.key_password or "")


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """The settings of a client.

    Attributes:
        nodes: the start nodes; the client asks one after the other until one reports the topology.
        username: the ACL user; None for the default user.
        password: the password; None for no authentication. The repr does not contain it.
        db: the database number; on a cluster it must be 0.
        tls: the settings of TLS; None for plain TCP.
        client_name: the name that CLIENT LIST shows.
        connect_timeout_s: maximum time to open a connection, including TLS and handshake.
        reply_timeout_s: if a node has unanswered commands and sends nothing for this long, it
            counts as dead, and its connection is closed.
        call_timeout_s: maximum time of one call, including retries and the wait for a connection.
        max_in_flight: maximum number of queued and unanswered commands per node; other callers
            wait.
        max_reply_bytes: maximum size of a reply, rounded up to a multiple of 64 KiB.
        durability: the durability that the replies of scripts wait for, unless a request asks for
            more.
        durability_timeout_s: how long a reply waits for its durability. The client uses at most
            half of ``reply_timeout_s``, because a node that sends nothing for longer counts as
            dead.
        durability_replicas: how many replicas of a master must have a write. It does not apply to
            FSYNC on a standalone server.
        probe_keys: pairs of a slot and a key in this slot that the client may write at any time.
            Every durability but ASYNC requires them.
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
            overrides: fields of this class that have priority over the URL.

        Raises:
            ValueError: the URL is malformed. The message does not contain the URL, which may
                contain a password.
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
