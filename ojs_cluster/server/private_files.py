"""Files and folders that only their owner may read."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

_MAX_LINKS = 40
"""Maximum number of symbolic links to follow, as in Linux."""


class NotPrivate(Exception):
    """A path belongs to another user or is not a folder; the message names the path."""


def open_private(path: str, flags: int) -> int:
    """Open a file that only its owner may read and write.

    Pass this function to ``open`` as its ``opener``. An existing file keeps its content, but loses
    the permissions of other users.
    """
    fd = os.open(path, flags | os.O_NOFOLLOW, 0o600)
    os.fchmod(fd, 0o600)
    return fd


def private_folder(path: Path) -> None:
    """Create a folder that only its owner may use, or restrict an existing folder.

    A symbolic link is followed only if this user owns it. A link of another user could lead to a
    folder into which that user can put files.

    Raises:
        NotPrivate: another user owns the folder or a link to it, or the path is not a folder.
        OSError: the folder cannot be created.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for _ in range(_MAX_LINKS):
        status = path.lstat()
        if status.st_uid != os.geteuid():
            raise NotPrivate(f"{path} belongs to user {status.st_uid}")
        if not stat.S_ISLNK(status.st_mode):
            break
        path = path.parent / path.readlink()
    if not stat.S_ISDIR(status.st_mode):
        raise NotPrivate(f"{path} is not a folder")
    if stat.S_IMODE(status.st_mode) & 0o077:
        path.chmod(0o700)


def stored_password(path: Path) -> str:
    """Return the password in this file; if the file is missing or empty, store a random password.

    Raises:
        OSError: the file cannot be read or written.
    """
    with open(path, "a+", opener=open_private) as file:
        file.seek(0)
        password = file.read().strip()
        if not password:
            password = secrets.token_urlsafe(32)
            file.write(password + "\n")
    return password
