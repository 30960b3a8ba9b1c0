"""Each node in a network name space of its own, and the cuts between them.

Decides how nodes are joined (a veth each, on one bridge) and how a link is cut: iptables in
the receiver's name space drops what comes from the other's address, so a cut has a direction
and nobody is told of it, as with a cable. The load, the consumer and the operator are at the
bridge itself and never cut off. Addresses are of 10.77.0.0/16, in a network that is ours alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

from tests.faults.leftovers import LINK, SPACE, quietly
from tests.faults.nodes import Ground
from tests.faults.waiting import FaultError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def lack() -> str | None:
    """Return what is missing for name spaces, or None."""
    if os.geteuid():
        return "needs root, for network name spaces"
    for program, package in (
        ("ip", "iproute2"),
        ("iptables", "iptables"),
        ("nsenter", "util-linux"),
    ):
        if shutil.which(program) is None:
            return f"needs {program}; on Debian: apt-get install {package}"
    probe = f"{SPACE}-{os.getpid()}-probe"
    try:
        _run("ip", "netns", "add", probe)
        _run("ip", "netns", "exec", probe, "iptables", "-w", "5", "-L", "-n")
    except FaultError as error:
        return f"no network name spaces here: {error}"
    finally:
        quietly("ip", "netns", "del", probe)
    return None


class Network(Ground):
    """The bridge and the name spaces of nodes a to d."""

    names = "abcd"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._net = _free_network()
        self.sink_host = f"10.77.{self._net}.1"
        self.port = 2104
        self._bridge = f"{LINK}{os.getpid()}"
        self._spaces: list[str] = []
        self._cut: set[str] = set()
        try:
            self._make()
        except FaultError:
            self.close()
            raise

    def hosts(self, names: Iterable[str]) -> tuple[str, ...]:
        return tuple(self.address(name) for name in names)

    def address(self, name: str) -> str:
        """Return a node's address."""
        return f"10.77.{self._net}.{10 + self.names.index(name)}"

    def command(self, name: str) -> list[str]:
        return ["nsenter", f"--net=/run/netns/{self._space(name)}"]

    def cut(self, sender: str, receiver: str) -> None:
        """Let nothing that `sender` sends reach `receiver`; the other way stays open."""
        _run(*self.command(receiver), "iptables", "-w", "5",
             "-A", "INPUT", "-s", self.address(sender), "-j", "DROP")  # fmt: skip
        self._cut.add(receiver)

    def part(self, one: str, other: str) -> None:
        """Cut both ways between two nodes."""
        self.cut(one, other)
        self.cut(other, one)

    def heal(self) -> None:
        """Mend every cut."""
        for name in sorted(self._cut):
            _run(*self.command(name), "iptables", "-w", "5", "-F", "INPUT")
        self._cut.clear()

    def close(self) -> None:
        # The links by name: a name space lives on while a socket in it has bytes unsent.
        for name in self.names:
            quietly("ip", "link", "del", f"{self._bridge}{name}")
        for space in self._spaces:
            quietly("ip", "netns", "del", space)
        quietly("ip", "link", "del", self._bridge)

    def _space(self, name: str) -> str:
        return f"{SPACE}-{os.getpid()}-{name}"

    def _make(self) -> None:
        _run("ip", "link", "add", self._bridge, "type", "bridge")
        _run("ip", "addr", "add", f"{self.sink_host}/24", "dev", self._bridge)
        _run("ip", "link", "set", self._bridge, "up")
        for name in self.names:
            space, outer = self._space(name), f"{self._bridge}{name}"
            self._spaces.append(space)
            _run("ip", "netns", "add", space)
            _run("ip", "link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", space)
            _run("ip", "link", "set", outer, "master", self._bridge, "up")
            _run("ip", "-n", space, "addr", "add", f"{self.address(name)}/24", "dev", "eth0")
            _run("ip", "-n", space, "link", "set", "eth0", "up")
            _run("ip", "-n", space, "link", "set", "lo", "up")


def _free_network() -> int:
    shown = subprocess.run(["ip", "-o", "addr"], check=True, capture_output=True, text=True).stdout
    for net in range(os.getpid() % 200, 250):
        if f" 10.77.{net}." not in shown:
            return net
    raise FaultError("no network of 10.77.0.0/16 is free")


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    if done.returncode:
        raise FaultError(f"{' '.join(command)}: {done.stderr.strip()}")
