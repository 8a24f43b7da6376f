"""Read the certificate and the address of the client of a connection."""

from __future__ import annotations

from typing import Any, Final

import trio

_SHORT_NAMES: Final = {
    "commonName": "CN",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "stateOrProvinceName": "ST",
    "localityName": "L",
    "streetAddress": "street",
    "domainComponent": "DC",
    "userId": "UID",
    "givenName": "GN",
    "surname": "SN",
    "uniqueIdentifier": "uid",
    "rfc822Mailbox": "mail",
    "countryCode3c": "c3",
    "countryCode3n": "n3",
    "jurisdictionLocalityName": "jurisdictionL",
    "jurisdictionStateOrProvinceName": "jurisdictionST",
    "jurisdictionCountryName": "jurisdictionC",
}
"""Short names of OpenSSL, where they differ from its long names, which Python returns."""
_ESCAPES: Final = str.maketrans(
    {character: f"\\{character}" for character in '"+,;<>\\'}
    | {code: f"\\{code:02X}" for code in (*range(0x20), 0x7F)}
)


def subject_of(stream: object) -> str:
    """Return the subject of the client's verified certificate; empty if there is none.

    The subject has the form of RFC 4514, with the most specific attribute first, as in
    ``CN=ci,O=Example``. The same text is printed by ``openssl x509 -noout -subject -nameopt
    RFC2253,-esc_msb,-dump_unknown``. For an unverified certificate the result is empty, because
    Python returns the content of verified certificates only.
    """
    if not isinstance(stream, trio.SSLStream):
        return ""
    certificate: dict[str, Any] | None = stream.getpeercert()
    if not certificate:
        return ""
    names = reversed(certificate.get("subject", ()))
    return ",".join(_relative_name(pairs) for pairs in names)


def peer_of(stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]) -> str:
    """Return the address of a connection's client, without its port; empty if disconnected."""
    plain = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    try:
        peer: tuple[str, int] = plain.socket.getpeername()
    except OSError:
        return ""
    return peer[0]


def _relative_name(pairs: tuple[tuple[str, str], ...]) -> str:
    """Return one relative distinguished name, with its attributes in the order of ``openssl``."""
    return "+".join(
        f"{_SHORT_NAMES.get(name, name)}={_escaped(value)}" for name, value in reversed(pairs)
    )


def _escaped(value: str) -> str:
    text = value.translate(_ESCAPES)
    if text.startswith(("#", " ")):
        text = f"\\{text}"
    if text.endswith(" ") and len(value) > 1:
        text = f"{text[:-1]}\\ "
    return text
