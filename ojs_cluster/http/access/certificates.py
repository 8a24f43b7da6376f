"""Who is connected: the certificate that a client has shown, and its address."""

from __future__ import annotations

from typing import Any, Final

import trio

_SHORT: Final = {
    "commonName": "CN",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "stateOrProvinceName": "ST",
    "localityName": "L",
    "streetAddress": "STREET",
    "domainComponent": "DC",
    "userId": "UID",
}
"""Short names of attributes (RFC 4514 3); others go by their long names, as in OpenSSL."""
_SPECIAL: Final = str.maketrans({each: f"\\{each}" for each in '"+,;<>\\'})


def subject_of(stream: object) -> str:
    """Return the subject of the verified certificate of a stream's client, empty for none.

    In the form of RFC 4514, which `openssl x509 -noout -subject -nameopt RFC2253` prints: the most
    specific part first, as in ``CN=ci,O=Example``. An unverified certificate has none: Python gives
    the content of verified ones alone.
    """
    if not isinstance(stream, trio.SSLStream):
        return ""
    certificate: dict[str, Any] | None = stream.getpeercert()
    if not certificate:
        return ""
    return ",".join(_part(each) for each in reversed(certificate.get("subject", ())))


def peer_of(stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]) -> str:
    """Return the address that a connection came from, without its port; empty when it is gone."""
    plain = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    try:
        peer: tuple[str, int] = plain.socket.getpeername()
    except OSError:
        return ""
    return peer[0]


def _part(pairs: tuple[tuple[str, str], ...]) -> str:
    return "+".join(
        f"{_SHORT.get(name, name)}={_escaped(value)}" for name, value in reversed(pairs)
    )


def _escaped(value: str) -> str:
    text = value.translate(_SPECIAL).replace("\0", "\\00")
    if text.startswith(("#", " ")):
        text = f"\\{text}"
    if text.endswith(" ") and len(value) > 1:
        text = f"{text[:-1]}\\ "
    return text
