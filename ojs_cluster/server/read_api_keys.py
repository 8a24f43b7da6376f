"""Read the API keys of variables and of ``OJS_API_KEYS_FILE``.

A separate module, because a supervisor checks the keys and serves no requests. ``ApiKeys`` reloads
them.
"""

from __future__ import annotations

from collections.abc import Mapping

from ojs_cluster.core.access.key_file import MAX_BYTES, KeyFileError, parse_key_file
from ojs_cluster.core.access.scopes import Keyring, principals_from_variables
from ojs_cluster.server.config.settings import STRONG_KEY, AccessSettings
from ojs_cluster.server.logs import mask_secrets


def read_keys(settings: AccessSettings, environ: Mapping[str, str]) -> Keyring:
    """Return all keys as configured now. Logs mask the secrets of ``secret_env`` from then on.

    Args:
        settings: names the file, and has the keys of variables.
        environ: the variables that the file's ``secret_env`` name.

    Raises:
        KeyFileError: the file cannot be used.
    """
    named = principals_from_variables(settings.api_key, settings.api_keys)
    if not settings.keys_file:
        return Keyring(named, {})
    try:
        with open(settings.keys_file, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise KeyFileError([f"cannot be read ({error.strerror})"]) from error
    shortest = STRONG_KEY if settings.require_strong_keys else 0
    found = parse_key_file(raw, environ, named, shortest_secret=shortest)
    mask_secrets(found.secrets)
    return found


def key_file_problems(settings: AccessSettings, environ: Mapping[str, str]) -> list[str]:
    """Return one line for each reason why the file cannot be used; none without a file."""
    try:
        read_keys(settings, environ)
    except KeyFileError as error:
        return [f"OJS_API_KEYS_FILE={settings.keys_file!r}: {each}" for each in error.problems]
    return []
