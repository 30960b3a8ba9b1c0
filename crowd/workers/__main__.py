"""A worker's process: ``python -m crowd.workers``, which the engine's process starts.

Decides what a process that takes requests needs besides its station: the descriptors that it
was given, a log, and which signals it hears. It ends when its link does. SIGTERM has it drain;
SIGINT and SIGHUP, which a terminal sends to a node's every process, are the node's to hear.
"""

from __future__ import annotations

import argparse
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, Any

from twisted.logger import globalLogBeginner

from crowd import garbage, polling
from crowd.logs import json_lines
from crowd.workers.link import OneLink
from crowd.workers.port import SharedEndpoint
from crowd.workers.process import LINK_FD, LISTENING_FD
from crowd.workers.station import Station

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Take requests until the engine's process says otherwise, or is gone."""
    options = _options(arguments)
    observer: Any = json_lines(sys.stderr)
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)
    from twisted.internet import reactor as installed  # noqa: PLC0415  not before it is wanted

    reactor: Any = installed
    reactor.seconds = time.monotonic  # see crowd.service
    endpoints = [
        SharedEndpoint(reactor, socket.socket(fileno=LISTENING_FD + place))
        for place in range(options.sockets)
    ]
    station = Station(reactor, endpoints, reactor.stop)
    with socket.socket(fileno=LINK_FD) as link:
        reactor.adoptStreamConnection(link.fileno(), socket.AF_UNIX, OneLink(station.link))
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: reactor.callFromThread(station.drain))
    garbage.settle()
    polling.call_directly(reactor)
    reactor.run(installSignalHandlers=False)
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="crowd.workers", description="Take requests for a node, which starts this by itself."
    )
    parser.add_argument(
        "--node", required=True, metavar="NAME", help="for those who look at processes"
    )
    parser.add_argument("--number", required=True, type=int, help="the same")
    parser.add_argument("--sockets", required=True, type=int, help="listening sockets given")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
