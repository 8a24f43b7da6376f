"""Profiles: servers with their keys, in a file that only its owner may read.

The key always comes from the same place as the address, so that no server gets the key of another:
``--url`` and ``OJS_URL`` go with ``OJS_API_KEY``, a profile with its own key.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from ojs_client.http.addresses import DEFAULT_URL, server_address, shown_address

_MAX_BYTES: Final = 1024 * 1024


class ProfileError(Exception):
    """A profile or its file cannot be used; the message says why."""


class NoHome(ProfileError):
    """The user has no folder for profiles."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A server.

    Args:
        url: its address.
        api_key: the API key; empty for none. It is never printed.
    """

    url: str
    api_key: str = ""

    def __repr__(self) -> str:
        key = "***" if self.api_key else ""
        return f"Profile(url={shown_address(self.url)!r}, api_key={key!r})"


@dataclass(frozen=True, slots=True)
class Connection:
    """The server of a command.

    Args:
        url: its address.
        api_key: the API key; empty for none. It is never printed.
        source: where the address is from, for people.
    """

    url: str
    api_key: str
    source: str

    def __repr__(self) -> str:
        return f"Connection(url={shown_address(self.url)!r}, source={self.source!r})"


def path() -> Path:
    """Return the path of the file: ``OJS_PROFILES``, or in the configuration folder of the user.

    Raises:
        NoHome: the user has no home, as in a container.
    """
    given = os.environ.get("OJS_PROFILES")
    if given:
        return Path(given)
    base = os.environ.get("XDG_CONFIG_HOME")
    try:
        folder = Path(base) if base else Path.home() / ".config"
    except RuntimeError:
        raise NoHome("there is no home for profiles: set OJS_PROFILES") from None
    return folder / "ojsctl" / "profiles.json"


@dataclass(slots=True)
class Profiles:
    """The profiles of the file, and the name of the one in use."""

    profiles: dict[str, Profile]
    current: str = ""

    @classmethod
    def load(cls) -> Profiles:
        """Read the file; without one there are no profiles.

        Raises:
            ProfileError: others may read the file, or it is damaged.
        """
        file = path()
        try:
            with file.open("rb") as opened:
                if os.name == "posix" and os.fstat(opened.fileno()).st_mode & 0o077:
                    raise ProfileError(f"others may read {file}: run chmod 600 {file}")
                return cls._parsed(json.loads(opened.read(_MAX_BYTES)))
        except FileNotFoundError:
            return cls({})
        except OSError as error:
            raise ProfileError(f"cannot read {file}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ProfileError(f"{file} is damaged: correct it or delete it") from None

    @classmethod
    def _parsed(cls, value: Mapping[str, Any]) -> Profiles:
        profiles = {
            str(name): Profile(str(each["url"]), str(each.get("api_key", "")))
            for name, each in value["profiles"].items()
        }
        return cls(profiles, str(value.get("current", "")))

    def save(self) -> None:
        """Write the file, atomically and for its owner alone.

        Raises:
            ProfileError: it cannot be written.
        """
        file = path()
        value = {
            "current": self.current,
            "profiles": {
                name: {"url": each.url, **({"api_key": each.api_key} if each.api_key else {})}
                for name, each in self.profiles.items()
            },
        }
        try:
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle, name = tempfile.mkstemp(dir=file.parent, prefix=".profiles-")  # mode 0600
            try:
                with os.fdopen(handle, "w") as opened:
                    json.dump(value, opened, indent=2)
                    opened.write("\n")
                os.replace(name, file)
            except BaseException:
                os.unlink(name)
                raise
        except OSError as error:
            raise ProfileError(f"cannot write {file}: {error.strerror}") from None

    def get(self, name: str) -> Profile:
        """Return a profile.

        Raises:
            ProfileError: there is no such profile.
        """
        found = self.profiles.get(name)
        if found is None:
            known = ", ".join(sorted(self.profiles)) or "none"
            raise ProfileError(f"there is no profile {name!r}; there are: {known}")
        return found


def check_url(url: str) -> str:
    """Return an address without its final slash.

    Raises:
        ProfileError: it is no address of a server.
    """
    try:
        address = server_address(url)
    except ValueError as error:
        raise ProfileError(str(error)) from None
    parts = urlsplit(address)
    if parts.username or parts.password:
        raise ProfileError("an address has no user name and no password: use an API key")
    return address


def connection(url: str | None, profile: str | None) -> Connection:
    """Return the server of a command.

    The first of these that is given: ``url`` or ``profile``, ``OJS_URL``, ``OJS_PROFILE``, the
    profile in use, port 8080 of this machine.

    Args:
        url: the address that the command line names; None without one.
        profile: the profile that the command line names; None without one.

    Raises:
        ProfileError: both are given, or a profile or an address cannot be used.
    """
    if url and profile:
        raise ProfileError("give --url or --profile, not both")
    key = os.environ.get("OJS_API_KEY", "")
    if url:
        return Connection(check_url(url), key, "--url")
    if not profile:
        given = os.environ.get("OJS_URL")
        if given:
            return Connection(check_url(given), key, "OJS_URL")
        profile = os.environ.get("OJS_PROFILE")
    try:
        profiles = Profiles.load()
    except NoHome:
        if profile:
            raise
        profiles = Profiles({})
    name = profile or profiles.current
    if not name:
        return Connection(DEFAULT_URL, key, "the default")
    found = profiles.get(name)
    return Connection(check_url(found.url), found.api_key, f"profile {name}")
