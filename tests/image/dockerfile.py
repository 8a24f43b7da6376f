"""Reads a Dockerfile, and carries out what it says in a folder instead of an image.

Only what ours uses is understood; anything else fails, so that a step is never passed over.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

NOBODY = 65534
USER = NOBODY if os.geteuid() == 0 else None
"""Who carries out the steps, and which further groups it has; None for who runs the tests."""
GROUPS: list[int] | None = None if USER is None else []
_VARIABLE = re.compile(r"\$(\w+)|\$\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One line: its name in capitals, and the rest with continuations joined."""

    name: str
    rest: str


@dataclass(slots=True)
class Stage:
    """From one FROM to the next."""

    base: str
    name: str
    instructions: list[Instruction] = field(default_factory=list)

    def all(self, name: str) -> list[str]:
        return [item.rest for item in self.instructions if item.name == name]

    def last(self, name: str) -> str:
        return self.all(name)[-1]


def read_stages(text: str) -> list[Stage]:
    """The stages of a Dockerfile."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    stages: list[Stage] = []
    for line in filter(str.strip, joined.splitlines()):
        name, _, rest = line.strip().partition(" ")
        rest = " ".join(rest.split()) if name != "HEALTHCHECK" else rest.strip()
        if name == "FROM":
            base, _, alias = rest.partition(" AS ")
            stages.append(Stage(base, alias))
        else:
            stages[-1].instructions.append(Instruction(name, rest))
    return stages


def words(rest: str) -> list[str]:
    """The exec form of CMD and ENTRYPOINT."""
    decoded = json.loads(rest)
    assert isinstance(decoded, list)
    return [str(word) for word in decoded]


def pairs(rest: str, known: Mapping[str, str]) -> dict[str, str]:
    """The values of ENV, with variables that are known put in."""
    found = {}
    for word in shlex.split(rest):
        name, _, value = word.partition("=")
        found[name] = _VARIABLE.sub(lambda m: known.get(m[1] or m[2], ""), value)
    return found


_DOWNLOADS = 3
"""How often a step that downloads is tried: an index that is away says nothing about the file."""


@dataclass(slots=True)
class Built:
    """What the steps made.

    Attributes:
        root: the folder that stands for the image's root.
        env: the variables that the last stage sets, PATH as the image has it.
    """

    root: Path
    env: dict[str, str]

    def inside(self, text: str) -> str:
        """A text of the Dockerfile with its absolute paths moved below the root."""
        return re.sub(r"(?<![\w./])/(opt|src)\b", rf"{self.root}/\1", text)


def build(context: Path, root: Path, inherited: Mapping[str, str]) -> Built:
    """Carry out the COPY and RUN lines of all stages, RUN as an unprivileged user.

    Args:
        context: the folder with the Dockerfile.
        root: an empty folder that everybody may enter.
        inherited: variables that every step gets besides those of ENV.
    """
    python = root / "bin" / "python"
    python.parent.mkdir()
    # A script and no link: the virtual environments it makes are to know the real program.
    python.write_text(f'#!/bin/sh\nexec "{Path(sys.executable).resolve()}" "$@"\n')
    python.chmod(0o755)
    (root / "opt").mkdir()
    _hand_over(root)
    built = Built(root, {})
    allowed = _allowed((context / ".dockerignore").read_text())
    for stage in read_stages((context / "Dockerfile").read_text()):
        env = {"PATH": f"{python.parent}:/usr/bin:/bin"}
        here = root
        for step in stage.instructions:
            match step.name:
                case "ENV":
                    env |= {k: built.inside(v) for k, v in pairs(step.rest, env).items()}
                case "WORKDIR":
                    here = root / step.rest.lstrip("/")
                    here.mkdir(exist_ok=True)
                    _hand_over(here)
                case "COPY" if step.rest.startswith("--from="):
                    _, source, target = step.rest.split()
                    assert source == target, "one folder stands for all stages"
                case "COPY":
                    *sources, target = step.rest.split()
                    _copy(context, [name.rstrip("/") for name in sources], here / target, allowed)
                case "RUN":
                    _run(built.inside(step.rest), here, {**inherited, **env})
                case "ARG" | "LABEL" | "USER" | "EXPOSE" | "STOPSIGNAL" | "HEALTHCHECK":
                    pass
                case "ENTRYPOINT" | "CMD":
                    pass
                case _:
                    raise AssertionError(f"not understood: {step}")
        built.env = env
    return built


def _run(command: str, here: Path, env: Mapping[str, str]) -> None:
    for _ in range(_DOWNLOADS if "pip" in command else 1):
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=here,
            env=env,
            capture_output=True,
            text=True,
            check=False,
            user=USER,
            group=USER,
            extra_groups=GROUPS,
        )
        if done.returncode == 0:
            return
    raise AssertionError(f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


def _copy(context: Path, sources: Sequence[str], target: Path, allowed: Sequence[str]) -> None:
    several = len(sources) > 1
    for name in sources:
        assert any(name == entry or entry.startswith(f"{name}/") for entry in allowed), (
            f"{name} is not let in by .dockerignore"
        )
        source = context / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
            shutil.copytree(source, target, ignore=ignored)
        else:
            shutil.copy(source, target / name if several else target)
    _hand_over(target)


def _allowed(text: str) -> list[str]:
    return [line[1:] for line in text.splitlines() if line.startswith("!")]


def _hand_over(path: Path) -> None:
    """Give a tree to the user who runs the steps."""
    for entry in (path, *path.rglob("*")):
        entry.chmod(0o755 if entry.is_dir() or entry.parent.name == "bin" else 0o644)
        if USER is not None:
            os.chown(entry, NOBODY, NOBODY)
