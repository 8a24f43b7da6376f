"""Other users of the machine can neither read the server's files nor replace them."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest
import redis

from ojs_cluster.server.embedded import ports
from ojs_cluster.server.embedded.servers import Embedded, find_server
from ojs_cluster.server.private_files import (
    NotPrivate,
    open_private,
    private_folder,
    stored_password,
)


@pytest.fixture
def shared_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder of this test alone, in the place of the machine's."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_folder_that_others_could_read_loses_that_right(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    private_folder(folder)
    assert _mode(folder) == 0o700


def test_a_link_of_the_owner_s_own_is_followed(tmp_path: Path) -> None:
    """Data is moved to a larger disk so."""
    disk = tmp_path / "disk"
    disk.mkdir(mode=0o755)
    disk.chmod(0o755)
    (tmp_path / "link").symlink_to("disk")
    (tmp_path / "data").symlink_to(tmp_path / "link")
    private_folder(tmp_path / "data")
    assert _mode(disk) == 0o700


@pytest.mark.parametrize("stranger", ["link", "second link", "disk"])
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_link_of_another_user_or_to_another_s_folder_is_refused(
    tmp_path: Path, stranger: str
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir(mode=0o755)
    (tmp_path / "second link").symlink_to("disk")
    (tmp_path / "link").symlink_to("second link")
    os.chown(tmp_path / stranger, 12_345, 12_345, follow_symlinks=False)
    mode = _mode(disk)
    with pytest.raises(NotPrivate, match="belongs to user 12345"):
        private_folder(tmp_path / "link")
    assert _mode(disk) == mode


def test_a_link_to_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "data").symlink_to("file")
    with pytest.raises((NotPrivate, FileExistsError)):
        private_folder(tmp_path / "data")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_reservations_in_a_folder_of_another_user_are_refused(shared_temporary: Path) -> None:
    planted = shared_temporary / f"ojs-cluster-ports-{os.getuid()}"
    planted.mkdir(mode=0o777)
    os.chown(planted, 12_345, 12_345)
    with pytest.raises(NotPrivate, match="belongs to user 12345"):
        ports.reserve_any()


def test_a_reservation_does_not_follow_a_planted_link(shared_temporary: Path) -> None:
    victim = shared_temporary / "victim"
    victim.write_text("kept")
    folder = shared_temporary / f"ojs-cluster-ports-{os.getuid()}"
    folder.mkdir(mode=0o700)
    (folder / "12345.lock").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic link"):
        ports.reserve(12_345)
    assert victim.read_text() == "kept"


def test_a_file_that_others_could_read_is_rewritten_for_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "server.conf"
    path.write_text("old")
    path.chmod(0o644)
    with open(path, "w", opener=open_private) as file:
        file.write("new")
    assert _mode(path) == 0o600


def test_a_password_is_made_once_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "password"
    password = stored_password(path)
    assert len(password) >= 32
    assert stored_password(path) == password
    assert _mode(path) == 0o600
    assert stored_password(tmp_path / "other") != password


@pytest.mark.parametrize("cluster", [False, True])
def test_an_embedded_server_with_a_password_serves_no_client_without_it(
    tmp_path: Path, cluster: bool
) -> None:
    """With replicas: they need the password as well."""
    password = 'with "quotes" and \\ and @/:'
    with Embedded(
        tmp_path,
        binary=find_server(),
        cluster=cluster,
        replicas=1 if cluster else 0,
        append_only=False,
        password=password,
    ) as embedded:
        for node in embedded.nodes:
            with redis.Redis(port=node.port) as stranger, pytest.raises(redis.AuthenticationError):
                stranger.ping()
            with node.client() as client:
                assert client.ping()
            assert _mode(node.directory / "server.conf") == 0o600
        with redis.Redis.from_url(embedded.url.split(",")[0]) as by_url:
            assert by_url.ping()
