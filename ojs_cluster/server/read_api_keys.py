"""Read the API keys from variables and from the file ``OJS_API_KEYS_FILE``.

A separate module from ``api_keys``, because the supervisor checks the file at its start and must
not import any HTTP code.
"""

from __future__ import annotations

from collections.abc import Mapping

from ojs_cluster.core.access.key_file import MAX_BYTES, KeyFileError, parse_key_file
from ojs_cluster.core.access.scopes import Keyring, principals_from_variables
from ojs_cluster.server.config.settings import MIN_STRONG_KEY_LENGTH, AccessSettings
from ojs_cluster.server.logs import mask_secrets


def read_keys(settings: AccessSettings, environ: Mapping[str, str]) -> Keyring:
    """Return all API keys. From now on, logs mask the secrets that the file names.

    Args:
        settings: the path of the file, and the API keys of variables.
        environ: the environment, with the variables that ``secret_env`` in the file names.

    Raises:
        KeyFileError: the file cannot be read or is invalid.
    """
    from_variables = principals_from_variables(settings.api_key, settings.api_keys)
    if not settings.keys_file:
        return Keyring(from_variables, {})
    try:
        with open(settings.keys_file, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise KeyFileError([f"cannot be read ({error.strerror})"]) from error
    shortest = MIN_STRONG_KEY_LENGTH if settings.require_strong_keys else 0
    keyring = parse_key_file(raw, environ, from_variables, shortest_secret=shortest)
    mask_secrets(keyring.secrets)
    return keyring


def key_file_problems(settings: AccessSettings, environ: Mapping[str, str]) -> list[str]:
    """Return one line for each problem of the file; no line if no file is configured."""
    try:
        read_keys(settings, environ)
    except KeyFileError as error:
        prefix = f"OJS_API_KEYS_FILE={settings.keys_file!r}"
        return [f"{prefix}: {problem}" for problem in error.problems]
    return []
