"""Root file systems that stand in for the base images, made of what this machine has installed.

What is the same as in ``python:3.*-slim``: the set of Debian packages (those of priority
``required``, ``ca-certificates``, ``netbase``, ``tzdata``, and what these depend on), so a program
that the slim image lacks is missing here, too; ``python`` with ``pip`` and ``venv`` on PATH; root
as the user of every step.

What differs: versions are those of this machine, Python's as well. Python lies where the machine
has it, with links in ``/usr/local/bin``, and its libraries are those that it is linked against.
``valkey/valkey`` becomes the same base with the server program of the tests and a client, under the
names of that image. Nothing here proves that a tag exists or that it can be pulled.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pip

PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
_EXTRA = ("ca-certificates", "netbase", "tzdata")
_LEFT_OUT = re.compile(r"/usr/share/(doc|man|locale|info|lintian|bug)/")
_GENERATED = ("/usr/bin/awk", "/etc/alternatives/awk", "/etc/ssl/certs/ca-certificates.crt")
"""Files of these packages that no package lists: an alternative, and what a trigger writes."""
_NOT_SHIPPED = {"site-packages", "dist-packages", "test", "idlelib", "turtledemo", "__pycache__"}


def make_python(root: Path) -> None:
    """Fill an empty folder with the stand-in for ``python:3.*-slim``."""
    program = Path(sys.executable).resolve()
    library = list(_walk(Path(sysconfig.get_path("stdlib")), _NOT_SHIPPED))
    wheels = _walk(Path("/usr/share/python-wheels"), set())  # Debian keeps those of ensurepip there
    _copy([*_debian(), *wheels], [str(program), *library], root)
    _configure(root)
    for name in ("python", "python3"):
        _link(root, name, str(program))
    # The machine's own pip may be patched or absent; this one belongs to the tests.
    source = Path(pip.__file__).parent
    shutil.copytree(source, root / _site_packages(program).lstrip("/") / "pip", dirs_exist_ok=True)


def make_valkey(root: Path, server: Path, client: Path) -> None:
    """Fill an empty folder with the stand-in for ``valkey/valkey``."""
    _copy(_debian(), [str(server.resolve()), str(client.resolve())], root)
    _configure(root)
    _link(root, "valkey-server", str(server.resolve()))
    _link(root, "valkey-cli", str(client.resolve()))


def _debian() -> list[str]:
    """Files of the packages that the slim image has, with those that they depend on."""
    form = "-f=${Package}\t${Essential}\t${Priority}\t${Pre-Depends},${Depends}\n"
    needs, wanted = {}, list(_EXTRA)
    for line in _output("dpkg-query", "-W", form).splitlines():
        name, essential, level, depends = line.split("\t")
        needs[name] = re.findall(r"(?:^|[,|])\s*([a-z0-9][a-z0-9+.-]+)", depends)
        if essential == "yes" or level == "required":
            wanted.append(name)
    found = set()
    while wanted:
        if (name := wanted.pop()) in needs and name not in found:
            found.add(name)
            wanted += needs[name]
    files = _output("dpkg-query", "-L", *sorted(found)).splitlines()
    return [name for name in (*files, *_GENERATED) if name.startswith("/")]


def _copy(packaged: Iterable[str], added: Sequence[str], root: Path) -> None:
    """Copy files to the same paths below a root.

    Args:
        packaged: files of packages, whose libraries are packages among them.
        added: other files, which bring the libraries that they are linked against.
    """
    found = {_real_folder(name) for name in (*packaged, *added) if os.path.lexists(name)}
    found = {name for name in found if not _LEFT_OUT.match(name) and name != "/."}
    programs = sorted(name for name in added if _is_elf(name))
    for line in _output("ldd", *programs, check=False).splitlines():
        if match := re.search(r"(?:=> |^\s)(/\S+) \(0x", line):
            found |= {_real_folder(match[1]), os.path.realpath(match[1])}
    # The machine's own: a link to a folder has to come before what lies in it.
    ordered = sorted(found, key=lambda name: (not os.path.islink(name), name))
    with subprocess.Popen(
        ["tar", "-C", "/", "--no-recursion", "--null", "-T", "-", "-c"],  # noqa: S607
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as packer:
        assert packer.stdin is not None
        unpacker = subprocess.Popen(["tar", "-C", str(root), "-x"], stdin=packer.stdout)  # noqa: S607
        packer.stdin.write(b"\0".join(name.lstrip("/").encode() for name in ordered))
        packer.stdin.close()
        assert (unpacker.wait(), packer.wait()) == (0, 0), "the base could not be copied"


def _real_folder(name: str) -> str:
    """A path whose folders are no links, so that ``/lib/x`` and ``/usr/lib/x`` are one file."""
    folder, base = os.path.split(name.rstrip("/"))
    return os.path.join(os.path.realpath(folder), base)


def _is_elf(name: str) -> bool:
    if not os.path.isfile(name) or os.path.islink(name):
        return False
    if not (os.access(name, os.X_OK) or name.endswith(".so")):
        return False
    with open(name, "rb") as file:
        return file.read(4) == b"\x7fELF"


def _walk(folder: Path, left_out: set[str]) -> Iterator[str]:
    for here, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in left_out]
        yield here
        for name in names:
            # A sitecustomize of the machine is no part of Python.
            if name != "sitecustomize.py":
                yield os.path.join(here, name)


def _configure(root: Path) -> None:
    """Write what the packages' own scripts would have written."""
    for name in ("tmp", "proc", "sys", "dev", "run", "root", "var/tmp", "usr/local/bin"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in ("tmp", "var/tmp"):
        (root / name).chmod(0o1777)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    for name in ("hosts", "hostname", "resolv.conf"):
        (root / "etc" / name).write_text("")


def _link(root: Path, name: str, target: str) -> None:
    link = root / "usr/local/bin" / name
    if not os.path.lexists(link):
        link.symlink_to(target)


def _site_packages(python: Path) -> str:
    return _output(str(python), "-I", "-c", "import site; print(site.getsitepackages()[0])").strip()


def _output(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, f"{command[:4]}: {done.stderr}"
    return done.stdout


def missing() -> str:
    """Say what this machine lacks for such a base; empty when it lacks nothing."""
    if platform.system() != "Linux" or os.geteuid() != 0:
        return "root on Linux"
    lacking = [name for name in ("dpkg-query", "ldd", "tar") if shutil.which(name) is None]
    return ", ".join(lacking)
