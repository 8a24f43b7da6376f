"""The command ``key new``: print a new secret and its entry for the file of API keys."""

from __future__ import annotations

import json
import secrets
import sys
from dataclasses import dataclass
from typing import Final

from ojs_cluster.core.access.key_file import KeyFileError, parse_key_file
from ojs_cluster.core.access.scopes import digest

EXIT_WRONG: Final = 2
_SECRET_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class NewKey:
    """A new key.

    Attributes:
        name: of the key.
        preset: of scopes.
        queues: patterns of queues; empty for every queue.
        expires_at: a time with its time zone; empty for no expiry.
    """

    name: str
    preset: str
    queues: tuple[str, ...] = ()
    expires_at: str = ""

    def entry(self, secret: str) -> str:
        """Return the TOML table of this key."""
        lines = [
            "[[key]]",
            f"name = {_text(self.name)}",
            f'sha256 = "{digest(secret).hex()}"',
            f"preset = {_text(self.preset)}",
        ]
        if self.queues:
            lines.append(f"queues = [{', '.join(map(_text, self.queues))}]")
        if self.expires_at:
            lines.append(f"expires_at = {_text(self.expires_at)}")
        return "".join(f"{line}\n" for line in lines)


def run_key_new(key: NewKey) -> int:
    """Print a new secret and its entry; return the exit code."""
    # The prefix lets scanners of source code find a secret that was committed by mistake.
    secret = f"ojs_{secrets.token_urlsafe(_SECRET_BYTES)}"
    entry = key.entry(secret)
    try:
        parse_key_file(entry.encode(), {}, {})
    except KeyFileError as error:
        for problem in error.problems:
            print(f"ojs-cluster: {problem}", file=sys.stderr)
        return EXIT_WRONG
    print("# The secret, for the client. It is not stored anywhere and not shown again:")
    print(f"# {secret}")
    print("# Its entry for the file that OJS_API_KEYS_FILE names:")
    print(entry, end="")
    return 0


def _text(value: str) -> str:
    # A JSON string is a TOML string too, except for surrogates, which no command line contains.
    return json.dumps(value)
