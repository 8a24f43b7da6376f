"""A network for pods: each has a network namespace and an address of its own, behind one bridge.

The bridge is in a namespace too, so the firewall and the forwarding rules of this machine do not
touch what pods send to each other. One cable leads to the machine: tests reach pods, and pods reach
nothing else.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Interface:
    """What a pod has."""

    namespace: str
    address: str

    @property
    def path(self) -> str:
        return f"/run/netns/{self.namespace}"


@dataclass
class Network:
    """One bridge, with the pods that are connected to it.

    Addresses are of 198.18.0.0/15, which is set aside for tests and routed nowhere.
    """

    prefix: str = field(default_factory=lambda: f"ojs{os.getpid()}")
    _net: str = ""
    _next: int = 2
    _pods: list[str] = field(default_factory=list)

    def open(self) -> None:
        """Make the bridge, and the cable to it."""
        taken = _ip("-4", "-o", "address", "show")
        start = os.getpid() % 256
        candidates = (f"198.18.{(start + offset) % 256}" for offset in range(256))
        self._net = next(net for net in candidates if f" {net}." not in taken)
        hub = f"{self.prefix}-hub"
        _ip("netns", "add", hub)
        _ip("-n", hub, "link", "add", "bridge0", "type", "bridge")
        _ip("-n", hub, "link", "set", "bridge0", "up")
        _ip("link", "add", self.prefix, "type", "veth", "peer", "name", "host", "netns", hub)
        _ip("-n", hub, "link", "set", "host", "master", "bridge0", "up")
        _ip("address", "add", f"{self._net}.1/24", "dev", self.prefix)
        _ip("link", "set", self.prefix, "up")

    def connect(self) -> Interface:
        """Give a new pod an address that no other had before."""
        number, self._next = self._next, self._next + 1
        assert number < 255, "this network has no address left"
        pod, hub = f"{self.prefix}-{number}", f"{self.prefix}-hub"
        _ip("netns", "add", pod)
        self._pods.append(pod)
        cable = ("link", "add", "eth0", "type", "veth", "peer", "name", f"pod{number}")
        _ip("-n", pod, *cable, "netns", hub)
        _ip("-n", pod, "address", "add", f"{self._net}.{number}/24", "dev", "eth0")
        _ip("-n", pod, "link", "set", "eth0", "up")
        _ip("-n", pod, "link", "set", "lo", "up")
        _ip("-n", hub, "link", "set", f"pod{number}", "master", "bridge0", "up")
        return Interface(pod, f"{self._net}.{number}")

    def disconnect(self, interface: Interface) -> None:
        """Take a pod's address away at once, as when its host is lost."""
        number = interface.address.rpartition(".")[2]
        _ip("-n", f"{self.prefix}-hub", "link", "del", f"pod{number}")
        _ip("netns", "del", interface.namespace)
        self._pods.remove(interface.namespace)

    def close(self) -> None:
        """Remove everything, pods included."""
        for name in (*self._pods, f"{self.prefix}-hub"):
            _ip("netns", "del", name, check=False)
        _ip("link", "del", self.prefix, check=False)


def _ip(*words: str, check: bool = True) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)  # noqa: S607
    assert done.returncode == 0 or not check, f"ip {' '.join(words)}: {done.stderr}"
    return done.stdout
