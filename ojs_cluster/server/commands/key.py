"""The command ``key new``: print a new secret and its entry for the file of API keys."""

from __future__ import annotations

import json
import secrets
import sys
from dataclasses import dataclass
from typing import Final

from ojs_cluster.core.access.key_file import KeyFileError, parse_key_file
from ojs_cluster.core.access.scopes import digest

EXIT_INVALID_OPTIONS: Final = 2
_SECRET_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class NewKey:
    """The options of a new API key.

    Attributes:
        name: name of the API key.
        preset: name of the set of scopes that the API key has.
        queues: patterns of the names of queues that the API key may use; empty for every queue.
        expires_at: time at which the API key expires, with a time zone; empty for no expiry.
        tenant: the tenant that the API key is bound to; empty for none.
    """

    name: str
    preset: str
    queues: tuple[str, ...] = ()
    expires_at: str = ""
    tenant: str = ""

    def entry(self, secret: str) -> str:
        """Return the TOML table of this API key for the file of API keys."""
        lines = [
            "[[key]]",
            f"name = {_toml_string(self.name)}",
            f'sha256 = "{digest(secret).hex()}"',
            f"preset = {_toml_string(self.preset)}",
        ]
        if self.queues:
            lines.append(f"queues = [{', '.join(map(_toml_string, self.queues))}]")
        if self.tenant:
            lines.append(f"tenant = {_toml_string(self.tenant)}")
        if self.expires_at:
            lines.append(f"expires_at = {_toml_string(self.expires_at)}")
        return "".join(f"{line}\n" for line in lines)


def run_key_new(key: NewKey) -> int:
    """Print a new secret and its entry for the file of API keys; return the exit code."""
    # By the prefix, secret scanners find an API key that was committed to a repository by mistake.
    secret = f"ojs_{secrets.token_urlsafe(_SECRET_BYTES)}"
    entry = key.entry(secret)
    try:
        parse_key_file(entry.encode(), {}, {})
    except KeyFileError as error:
        for problem in error.problems:
            print(f"ojs-cluster: {problem}", file=sys.stderr)
        return EXIT_INVALID_OPTIONS
    print("# The secret for the client. It is stored nowhere and will not be shown again:")
    print(f"# {secret}")
    print("# The entry of this API key for the file that OJS_API_KEYS_FILE names:")
    print(entry, end="")
    return 0


def _toml_string(value: str) -> str:
    # A JSON string is a valid TOML string unless it has surrogates, which a valid name never has.
    return json.dumps(value)
