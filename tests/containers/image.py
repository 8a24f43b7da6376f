"""Builds the image as a container engine does: a file system per stage, a container per RUN."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from tests.containers.base import PATH
from tests.containers.oci import DEFAULT_CAPABILITIES, Container, Mount, Settings
from tests.image.dockerfile import Instruction, Stage, pairs, read_stages, words

_STEP_S = 600
_TRIES = 3
"""How often a step that downloads is run: an index that is away says nothing about the file."""
_FROM_THIS_MACHINE = ("/etc/pip.conf", "/etc/xdg/pip", "/etc/resolv.conf", "/etc/ssl", "/etc/hosts")
"""What a step sees to reach the package index that this machine uses."""
_VARIABLE = re.compile(r"\$\{(\w+)\}|\$(\w+)")


@dataclass
class Image:
    """A root file system, and what its Dockerfile says about how to run it."""

    root: Path
    env: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})
    user: str = "0:0"
    workdir: str = "/"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def ids(self) -> tuple[int, int]:
        """User and group of its processes, which have to be numbers."""
        uid, _, gid = self.user.partition(":")
        return int(uid), int(gid or 0)


@dataclass
class Builder:
    """Carries out a Dockerfile.

    Attributes:
        context: the folder with the Dockerfile.
        base: root file system that stands for the base image of every stage.
        folder: an empty folder for the stages.
        env: variables that every RUN gets besides those of the stage, as ``--build-arg`` would.
    """

    context: Path
    base: Path
    folder: Path
    env: Mapping[str, str]
    _stages: dict[str, Image] = field(default_factory=dict)

    def build(self) -> Image:
        """Give the image of the last stage. Raises AssertionError when a step fails."""
        made = None
        for number, stage in enumerate(read_stages((self.context / "Dockerfile").read_text())):
            assert re.fullmatch(r"python:3\.\d+-slim-\w+", stage.base), f"no base: {stage.base}"
            made = self._stage(stage, self.folder / f"stage-{number}")
            self._stages[stage.name or str(number)] = made
        assert made is not None, "a Dockerfile without FROM"
        return made

    def _stage(self, stage: Stage, root: Path) -> Image:
        subprocess.run(["cp", "-a", "--reflink=auto", str(self.base), str(root)], check=True)  # noqa: S607
        image = Image(root)
        arguments: dict[str, str] = {}
        for step in stage.instructions:
            if step.name == "ARG":
                arguments |= pairs(step.rest, {})
            else:
                self._carry_out(step, image, arguments)
        return image

    def _carry_out(self, step: Instruction, image: Image, arguments: Mapping[str, str]) -> None:
        known = {**arguments, **image.env}
        match step.name:
            case "ENV":
                image.env |= pairs(step.rest, known)
            case "LABEL":
                image.labels |= pairs(step.rest, known)
            case "WORKDIR":
                image.workdir = os.path.join(image.workdir, step.rest)
                _inside(image.root, image.workdir).mkdir(parents=True, exist_ok=True)
            case "COPY":
                self._copy(step.rest.split(), image)
            case "RUN":
                self._run(step.rest, image, known)
            case "USER":
                image.user = step.rest
            case "HEALTHCHECK":
                image.health = words(step.rest.partition("CMD ")[2])
            case "ENTRYPOINT":
                image.entrypoint, image.command = words(step.rest), []
            case "CMD":
                image.command = words(step.rest)
            case "EXPOSE" | "STOPSIGNAL":
                pass
            case _:
                raise AssertionError(f"not understood: {step}")

    def _run(self, command: str, image: Image, known: Mapping[str, str]) -> None:
        uid, gid = image.ids
        mounts = [Mount(Path(name), name) for name in _FROM_THIS_MACHINE if os.path.exists(name)]
        # Folders of wheels that pip was told of lie on this machine; at paths that no step uses.
        wheels = {name: f"/run{name}" for name in self._wheel_folders()}
        mounts += [Mount(Path(name), inside) for name, inside in wheels.items()]
        links = {"PIP_FIND_LINKS": " ".join(wheels.values())} if wheels else {}
        settings = Settings(
            image.root,
            ["/bin/sh", "-c", command],
            {"HOME": "/root", **self.env, **links, **known},
            cwd=image.workdir,
            uid=uid,
            gid=gid,
            read_only=False,
            capabilities=DEFAULT_CAPABILITIES,
            no_new_privileges=False,
            mounts=mounts,
        )
        for number in range(_TRIES if "pip" in command else 1):
            name = f"ojs-build-{os.getpid()}-{len(list(self.folder.iterdir()))}-{number}"
            step = Container(name, settings, self.folder / name)
            step.start()
            try:
                if step.wait(_STEP_S) == 0:
                    return
            finally:
                step.remove()
        raise AssertionError(f"{command}\n{step.text()}")

    def _wheel_folders(self) -> list[str]:
        found = self.env.get("PIP_FIND_LINKS", "").split()
        return [name for name in found if os.path.isdir(name)]

    def _copy(self, arguments: Sequence[str], image: Image) -> None:
        source_root, names = self.context, [*arguments]
        if names[0].startswith("--from="):
            source_root = self._stages[names.pop(0).removeprefix("--from=")].root
            assert len(names) == 2, "one path of another stage at a time"
        *sources, target = names
        into = _inside(image.root, os.path.join(image.workdir, target))
        assert len(sources) == 1 or target.endswith("/"), "several files go into a folder"
        for name in sources:
            source = _inside(source_root, name)
            if source_root is self.context:
                self._copy_from_context(source, into, target)
            elif source.is_dir():
                shutil.copytree(source, into, symlinks=True, dirs_exist_ok=True)
            else:
                _copy_file(source, into, target)

    def _copy_from_context(self, source: Path, into: Path, target: str) -> None:
        sent = [path for path in _files(source) if self._is_sent(path.relative_to(self.context))]
        assert sent, f"{source.name} is not let in by .dockerignore"
        for path in sent:
            if source.is_dir():
                where = into / path.relative_to(source)
                where.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, where)
            else:
                _copy_file(path, into, target)

    def _is_sent(self, path: Path) -> bool:
        """Whether .dockerignore lets a file in: the last rule that names it or a parent decides."""
        sent = True
        lines = (self.context / ".dockerignore").read_text().splitlines()
        for line in (line.strip() for line in lines):
            if not line or line.startswith("#"):
                continue
            pattern = line.removeprefix("!")
            parents = [str(path), *map(str, path.parents)][:-1]
            if any(_matches(each, pattern) for each in parents):
                sent = line.startswith("!")
        return sent


def _matches(path: str, pattern: str) -> bool:
    """One rule of .dockerignore: ``*`` stays within a name, ``**/`` stands for any folders."""
    if pattern.startswith("**/"):
        return fnmatch(Path(path).name, pattern.removeprefix("**/"))
    return path.count("/") == pattern.count("/") and fnmatch(path, pattern)


def _files(source: Path) -> list[Path]:
    return [path for path in source.rglob("*") if path.is_file()] if source.is_dir() else [source]


def _copy_file(source: Path, into: Path, target: str) -> None:
    if target.endswith("/") or into.is_dir():
        into.mkdir(parents=True, exist_ok=True)
        into = into / source.name
    shutil.copy(source, into)


def _inside(root: Path, path: str) -> Path:
    return Path(os.path.normpath(root / path.lstrip("/")))
