"""Disks that are small, and disks whose flush fails.

Decides what a node's directory stands on and what is loaded into its process. What a disk
that forgets does is ``forgetful``'s.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tests.faults.leftovers import MOUNT, unmount
from tests.faults.nodes import Ground
from tests.faults.waiting import FaultError

if TYPE_CHECKING:
    from collections.abc import Mapping

SMALL_MIB = 512
"""crowd closes its door below 256 MiB of free space; a log of two segments takes 128 MiB."""

BALLAST = "ballast"
SHIM = Path(__file__).with_name("shim.c")


def lack_of_mounts() -> str | None:
    """Return what is missing for mounts, or None."""
    if os.geteuid():
        return "needs root, to mount file systems"
    return None


def lack_of_compiler() -> str | None:
    """Return what is missing to build the shim, or None."""
    if shutil.which("cc") is None:
        return "needs a C compiler as cc; on Debian: apt-get install gcc libc6-dev"
    return None


class SmallDisks(Ground):
    """Each node's directory is a tmpfs of its own, and beside its files lies ballast."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._mounted: dict[str, Path] = {}

    def prepare(self, name: str, directory: Path) -> None:
        directory.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={SMALL_MIB}m,mode=0750", f"{MOUNT}-{os.getpid()}",
             str(directory)], check=False, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise FaultError(f"cannot mount a tmpfs: {done.stderr.strip()}")
        self._mounted[name] = directory

    def fill(self, name: str, free_bytes: int) -> None:
        """Leave so much space: the ballast takes the rest. 0: not one block is left."""
        with (self._mounted[name] / BALLAST).open("ab") as ballast:
            while True:
                size_bytes = ballast.seek(0, os.SEEK_END)
                room = os.fstatvfs(ballast.fileno())
                more_bytes = room.f_bavail * room.f_frsize - free_bytes
                if more_bytes <= 0:
                    return
                # The node writes too: what is gone when we come to it is looked at anew.
                with suppress(OSError):
                    os.posix_fallocate(ballast.fileno(), size_bytes, more_bytes)

    def free(self, name: str) -> None:
        """Take the ballast away."""
        (self._mounted[name] / BALLAST).unlink(missing_ok=True)

    def close(self) -> None:
        for directory in self._mounted.values():
            unmount(directory)


class FailingSyncs(Ground):
    """A shim in each node fails the flush of its log while the node's trigger file exists."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._shim = directory / "shim.so"
        built = subprocess.run(
            ["cc", "-shared", "-fPIC", "-O2", "-Wall", "-o", str(self._shim), str(SHIM), "-ldl"],
            check=False, capture_output=True, text=True,
        )  # fmt: skip
        if built.returncode:
            raise FaultError(f"cannot build the shim: {built.stderr.strip()}")

    def environment(self, name: str) -> Mapping[str, str]:
        return {"LD_PRELOAD": str(self._shim), "CROWD_FAULT_TRIGGER": str(self._trigger(name))}

    def fail(self, name: str) -> None:
        """Make every flush of this node's log fail from now on."""
        self._trigger(name).touch()

    def mend(self, name: str) -> None:
        """Let them succeed again."""
        self._trigger(name).unlink(missing_ok=True)

    def _trigger(self, name: str) -> Path:
        return self.directory / f"{name}.fails"
