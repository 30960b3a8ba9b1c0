"""What a run that was killed -9 leaves behind: mounts, name spaces and links.

All of them carry the process id of the run that made them, so those of a dead one are known.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

SPACE = "crowdfault"
LINK = "crf"
"""Links have few letters: with a process id and a node's letter behind this, at most 15."""
MOUNT = "crowd-faults"

_SPACE = re.compile(rf"{SPACE}-(\d+)-\w+")
_LINK = re.compile(rf"{LINK}(\d+)[a-z]?")
_MOUNT = re.compile(rf"{MOUNT}-(\d+) (\S+) ")


def quietly(*command: str) -> None:
    """Run a command whose failure changes nothing: what it would remove is gone already."""
    subprocess.run(command, check=False, capture_output=True, timeout=30)


def unmount(directory: str | Path) -> None:
    """Unmount, now or when its last user is gone; nothing if nothing is mounted there."""
    quietly("umount", "-l", str(directory))


def sweep() -> None:
    """Remove all that belongs to a process that lives no more. Needs root; else does nothing."""
    if os.geteuid():
        return
    for name in _names(Path("/run/netns")):
        if _is_dead(_SPACE.fullmatch(name)):
            quietly("ip", "netns", "del", name)
    for name in _names(Path("/sys/class/net")):
        if _is_dead(_LINK.fullmatch(name)):
            quietly("ip", "link", "del", name)
    for line in Path("/proc/mounts").read_text("utf-8").splitlines():
        found = _MOUNT.match(line)
        if found is not None and _is_dead(found):
            unmount(found[2])


def _names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()] if directory.is_dir() else []


def _is_dead(found: re.Match[str] | None) -> bool:
    return found is not None and not Path(f"/proc/{found[1]}").exists()
