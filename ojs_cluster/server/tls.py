"""TLS for the API: the certificate's files, and the handshakes of new connections.

trio's `SSLStream` does the work, because hypercorn can go on with one. A process looks at its files
now and then, so a renewed certificate is shown to whoever connects next, and nothing restarts.
"""

from __future__ import annotations

import logging
import os
import ssl
from typing import Final

import trio

from ojs_cluster.server.config.settings import ListenSettings

log = logging.getLogger("ojs.http")

TlsStream = trio.SSLStream[trio.SocketStream]

LOOK_S: Final = 10.0
"""How often the files are looked at, at most."""


class TlsFilesError(Exception):
    """The files cannot be used; the message says which and why."""


def make_context(listen: ListenSettings) -> ssl.SSLContext:
    """Give what the files of `listen` say.

    Raises:
        TlsFilesError: they cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A client of TLS 1.2 that negotiates anew again and again costs much and asks for nothing.
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["h2", "http/1.1"])
    cert, key = listen.tls_cert, listen.tls_key
    _check_readable("OJS_TLS_CERT", cert)
    _check_readable("OJS_TLS_KEY", key)
    try:
        # Without a password OpenSSL would ask for one at the terminal.
        context.load_cert_chain(cert, key, password=_no_passphrase)
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise TlsFilesError(
            f"OJS_TLS_CERT={cert!r} and OJS_TLS_KEY={key!r}: not a PEM certificate chain and its "
            f"private key ({reason})"
        ) from error
    if listen.tls_client_ca:
        _check_readable("OJS_TLS_CLIENT_CA", listen.tls_client_ca)
        try:
            context.load_verify_locations(listen.tls_client_ca)
        except ssl.SSLError as error:
            raise TlsFilesError(
                f"OJS_TLS_CLIENT_CA={listen.tls_client_ca!r}: no PEM certificates ({error.reason})"
            ) from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class Tls:
    """The handshakes of one process."""

    def __init__(self, listen: ListenSettings) -> None:
        """Read the files.

        Raises:
            TlsFilesError: they cannot be used.
        """
        self._listen = listen
        self._seen = _versions(listen)
        self._context = make_context(listen)
        self._look_at = trio.current_time() + LOOK_S
        self._handshakes: set[trio.CancelScope] = set()
        self._drained = False

    async def secure(self, stream: trio.SocketStream) -> TlsStream | None:
        """Shake hands within the read timeout. Gives None when `stream` is closed instead."""
        self._look()
        # Clients end connections without the farewell of TLS; HTTP says itself where a body ends.
        secured = trio.SSLStream(stream, self._context, server_side=True, https_compatible=True)
        with trio.move_on_after(self._listen.read_timeout_s) as scope:
            self._handshakes.add(scope)
            try:
                if not self._drained:
                    await secured.do_handshake()
                    return secured
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                # Whoever speaks plain HTTP, scans ports or hangs up: not worth a line for each.
                log.debug("no TLS handshake: %s", error.__cause__ or error)
            finally:
                self._handshakes.discard(scope)
        await trio.aclose_forcefully(stream)
        return None

    def drain(self) -> None:
        """Close connections that have not shaken hands: nothing was asked on them yet."""
        self._drained = True
        for scope in self._handshakes:
            scope.cancel()

    def _look(self) -> None:
        """Take over files that have changed. While they cannot be used the old ones hold."""
        if trio.current_time() < self._look_at:
            return
        self._look_at = trio.current_time() + LOOK_S
        seen = _versions(self._listen)
        if seen == self._seen:
            return
        try:
            self._context = make_context(self._listen)
        except TlsFilesError as error:  # perhaps only one of them has been replaced yet
            log.warning("the certificate is not renewed: %s", error)
            return
        self._seen = seen
        log.info("certificate renewed")


def _check_readable(name: str, path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise TlsFilesError(f"{name}={path!r}: cannot be read ({error.strerror})") from error


def _no_passphrase() -> str:
    raise ValueError("the key has a passphrase")


def _versions(listen: ListenSettings) -> list[tuple[int, int, int] | None]:
    """What changes with the files' content, whether they are written anew or swapped."""
    paths = (listen.tls_cert, listen.tls_key, listen.tls_client_ca)
    return [file_version(path) for path in paths if path]


def file_version(path: str) -> tuple[int, int, int] | None:
    """Return what changes when the file is written or replaced; None when it is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
