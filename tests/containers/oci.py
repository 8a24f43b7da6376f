"""OCI containers, run by ``runc``: what containerd and CRI-O would ask it for."""

from __future__ import annotations

import contextlib
import json
import platform
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RUNC = shutil.which("runc")
SECCOMP = Path("/usr/share/containers/seccomp.json")
"""The profile that ``RuntimeDefault`` means, of Debian's ``golang-github-containers-common``."""
DEFAULT_CAPABILITIES = (
    *("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_SETGID", "CAP_SETUID"),
    *("CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL"),
)
_ARCHITECTURES = {
    "x86_64": ("amd64", "SCMP_ARCH_X86_64"),
    "aarch64": ("arm64", "SCMP_ARCH_AARCH64"),
}
_MASKED = ("/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware")
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_START_S, _END_S = 60, 60


@dataclass(frozen=True)
class Mount:
    """A file or folder of this machine, and where a container sees it."""

    source: Path
    target: str
    read_only: bool = True

    def rendered(self) -> dict[str, Any]:
        options = ["bind", "nosuid", "nodev", "ro" if self.read_only else "rw"]
        return _mount(self.target, "bind", str(self.source), *options)


@dataclass(frozen=True)
class Settings:
    """How one container is to run.

    Attributes:
        root: its root file system; several containers may share one that is read-only.
        network: path of a network namespace; None for this machine's.
        memory_bytes: limit of its memory; None for none.
        confined: apply the seccomp profile, when this machine has it.
    """

    root: Path
    command: Sequence[str]
    env: Mapping[str, str]
    cwd: str = "/"
    uid: int = 0
    gid: int = 0
    groups: Sequence[int] = ()
    read_only: bool = True
    capabilities: Sequence[str] = ()
    no_new_privileges: bool = True
    confined: bool = True
    memory_bytes: int | None = None
    mounts: Sequence[Mount] = ()
    network: str | None = None
    hostname: str = "container"

    def rendered(self) -> dict[str, Any]:
        """The bundle's ``config.json``."""
        kinds = ("bounding", "effective", "permitted")
        user = {"uid": self.uid, "gid": self.gid, "additionalGids": list(self.groups)}
        namespaces = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]
        if self.network is not None:
            namespaces.append({"type": "network", "path": self.network})
        memory = {} if self.memory_bytes is None else {"memory": {"limit": self.memory_bytes}}
        linux: dict[str, Any] = {
            "namespaces": namespaces,
            "resources": {"devices": [{"allow": False, "access": "rwm"}], **memory},
            "maskedPaths": list(_MASKED),
            "readonlyPaths": list(_READ_ONLY),
        }
        if self.confined and SECCOMP.exists():
            linux["seccomp"] = seccomp(self.capabilities)
        return {
            "ociVersion": "1.0.2",
            "process": {
                "user": user,
                "args": list(self.command),
                "env": [f"{name}={value}" for name, value in self.env.items()],
                "cwd": self.cwd,
                "capabilities": {kind: list(self.capabilities) for kind in kinds},
                "noNewPrivileges": self.no_new_privileges,
                "oomScoreAdj": 0,
            },
            "root": {"path": str(self.root), "readonly": self.read_only},
            "hostname": self.hostname,
            "mounts": [*_STANDARD, *(each.rendered() for each in self.mounts)],
            "linux": linux,
        }


def _mount(target: str, kind: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": source, "options": list(options)}


_STANDARD = (
    _mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
    _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
    _mount("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666"),
    _mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),  # noqa: S108
    _mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
    _mount("/sys", "none", "/sys", "rbind", "nosuid", "noexec", "nodev", "ro"),
)


def seccomp(capabilities: Sequence[str]) -> dict[str, Any]:
    """The profile for a container with these capabilities, in the form that runc reads."""
    profile = json.loads(SECCOMP.read_text())
    machine, native = _ARCHITECTURES[platform.machine()]
    (known,) = (each for each in profile["archMap"] if each["architecture"] == native)

    def applies(rule: Mapping[str, Any]) -> bool:
        wanted, refused = rule.get("includes") or {}, rule.get("excludes") or {}
        if machine not in wanted.get("arches", [machine]) or machine in refused.get("arches", []):
            return False
        has = set(capabilities)
        return has >= set(wanted.get("caps", [])) and not has & set(refused.get("caps", []))

    kept = ("names", "action", "args", "errnoRet")
    rules = [
        {name: rule[name] for name in kept if rule.get(name)}
        for rule in profile["syscalls"]
        if applies(rule)
    ]
    return {
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile["defaultErrnoRet"],
        "architectures": [native, *known["subArchitectures"]],
        "syscalls": rules,
    }


@dataclass
class Container:
    """One container; ``start`` it, and ``remove`` it at the end."""

    name: str
    settings: Settings
    folder: Path
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def text(self) -> str:
        """The end of what it has said."""
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""

    def start(self) -> None:
        """Start its process. Returns when it runs or has ended."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "config.json").write_text(json.dumps(self.settings.rendered()))
        (self.folder / "pid").unlink(missing_ok=True)
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._runc("run", "--bundle", str(self.folder), self.name),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def _runc(self, *words: str) -> list[str]:
        assert RUNC is not None, "check ``missing`` first"
        return [RUNC, "--root", str(self.folder.parent / "state"), *words]

    def state(self) -> dict[str, Any]:
        """What runc says of it; empty before it was created and after its end."""
        done = subprocess.run(
            self._runc("state", self.name), capture_output=True, text=True, check=False
        )
        found: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
        return found

    @property
    def pid(self) -> int:
        """Its first process, as this machine numbers it."""
        return int(self.state()["pid"])

    def ended(self) -> int | None:
        """Its exit code, 128 and the number for a signal; None while it runs."""
        assert self._process is not None, "it was not started"
        return self._process.poll()

    def wait(self, timeout_s: float) -> int:
        """Return its exit code. Raises AssertionError when it does not end in time."""
        assert self._process is not None, "it was not started"
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name}: still runs\n{self.text()}") from None

    def memory(self) -> dict[str, int]:
        """What the kernel says of its memory, in bytes: ``limit``, and ``max``, the most it had."""
        done = subprocess.run(
            self._runc("events", "--stats", self.name), capture_output=True, text=True, check=True
        )
        found: dict[str, int] = json.loads(done.stdout)["data"]["memory"]["usage"]
        return found

    def send(self, number: signal.Signals) -> None:
        """Send a signal to its first process, which may have ended."""
        command = self._runc("kill", self.name, str(int(number)))
        subprocess.run(command, capture_output=True, check=False)

    def execute(self, *command: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command in it, with its user, rights and environment."""
        return subprocess.run(
            self._runc("exec", self.name, *command),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def remove(self) -> None:
        """Kill whatever is left of it."""
        command = self._runc("delete", "--force", self.name)
        subprocess.run(command, capture_output=True, check=False)
        if self._process is not None:
            with contextlib.suppress(AssertionError):
                self.wait(_END_S)


def missing() -> str:
    """Say what this machine lacks to run containers; empty when it lacks nothing."""
    lacking = [name for name in ("runc", "ip") if shutil.which(name) is None]
    if platform.machine() not in _ARCHITECTURES:
        lacking.append("a known architecture")
    return ", ".join(lacking)
