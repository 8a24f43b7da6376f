"""Files and folders that only their owner may read."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

_MOST_LINKS = 40
"""As many as Linux follows in one path."""


class NotPrivate(Exception):
    """A path belongs to another user or is not a folder; the message names it."""


def open_private(path: str, flags: int) -> int:
    """Open a file that only its owner may read; an ``opener`` for ``open``.

    An existing file keeps its content, and others lose their rights.
    """
    fd = os.open(path, flags | os.O_NOFOLLOW, 0o600)
    os.fchmod(fd, 0o600)
    return fd


def private_folder(path: Path) -> None:
    """Create a folder that only its owner may use, or restrict an existing one.

    Follows a symbolic link when this user owns it and its target: no other user can have made it.

    Raises:
        NotPrivate: another user owns the folder, or a link to it, and could put files into it; or
            it is not a folder.
        OSError: it cannot be made.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for _ in range(_MOST_LINKS):
        found = path.lstat()
        if found.st_uid != os.geteuid():
            raise NotPrivate(f"{path} belongs to user {found.st_uid}")
        if not stat.S_ISLNK(found.st_mode):
            break
        path = path.parent / path.readlink()
    if not stat.S_ISDIR(found.st_mode):
        raise NotPrivate(f"{path} is not a folder")
    if stat.S_IMODE(found.st_mode) & 0o077:
        path.chmod(0o700)


def stored_password(path: Path) -> str:
    """Return the password in this file; generate one when it is missing or empty.

    Raises:
        OSError: it cannot be read or written.
    """
    with open(path, "a+", opener=open_private) as file:
        file.seek(0)
        password = file.read().strip()
        if not password:
            password = secrets.token_urlsafe(32)
            file.write(password + "\n")
    return password
