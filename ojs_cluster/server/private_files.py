"""Files and folders that only their owner may read."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

_MOST_LINKS = 40
"""As many as Linux follows in one path."""


class NotPrivate(Exception):
    """A path exists and belongs to another user, or is no plain folder; the message names it."""


def private(path: str, flags: int) -> int:
    """Open a file for its owner alone; an ``opener`` for ``open``.

    A file that exists keeps its content and loses the rights of others.
    """
    fd = os.open(path, flags | os.O_NOFOLLOW, 0o600)
    os.fchmod(fd, 0o600)
    return fd


def private_folder(path: Path) -> None:
    """Make a folder, or take the rights of others away from one that exists.

    A link is followed when this user owns it and what it leads to: nobody else can have made it.

    Raises:
        NotPrivate: another user owns the folder, or a link to it, and could put files into it; or
            it is no folder.
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


def kept_password(path: Path) -> str:
    """Return the password in this file; make one when the file is missing or empty.

    Raises:
        OSError: it cannot be read or written.
    """
    with open(path, "a+", opener=private) as file:
        file.seek(0)
        password = file.read().strip()
        if not password:
            password = secrets.token_urlsafe(32)
            file.write(password + "\n")
    return password
