"""Two opinions of which requests are in the same bytes: crowd's intake's, and h11's."""

from __future__ import annotations

from typing import Any, NamedTuple

import h11

from crowd.web.intake import Intake, Stage
from crowd.web.limits import SLICE_BYTES, WebLimits

LIMITS = WebLimits()


class Seen(NamedTuple):
    """What is compared of a request."""

    method: bytes
    target: bytes
    body: bytes


class Intaken:
    """Crowd's opinion: implements `crowd.web.intake.Receiver`."""

    def __init__(self) -> None:
        self.requests: list[Seen] = []
        self.refusals: list[int] = []

    def head(self, *_: Any, **__: Any) -> None:
        pass

    def request(
        self, method: bytes, target: bytes, headers: Any, fields: Any, body: bytes, alive: object
    ) -> None:
        assert not self.refusals, "nothing follows a refusal"
        self.requests.append(Seen(method, target, body))

    def refused(self, reply: Any) -> None:
        self.refusals.append(reply.status)


def crowds(pieces: list[bytes]) -> tuple[list[Seen], list[int]]:
    """Return the requests that crowd finds, and the status with which it refuses the rest."""
    receiver = Intaken()
    intake = Intake(LIMITS, receiver)
    for piece in pieces:
        for at in range(0, len(piece), SLICE_BYTES):
            if intake.stage not in (Stage.ENDED, Stage.REFUSED):
                intake.feed(piece[at : at + SLICE_BYTES])
    return receiver.requests, receiver.refusals


def is_comparable(data: bytes) -> bool:
    """Tell whether the two should agree: h11 takes no number with many zeros before it, as decided."""
    return b"0" * 15 not in data


def h11s(data: bytes) -> tuple[list[Seen], bool]:
    """Return the requests that h11 finds, and whether it rejects the rest.

    One empty line before a request is ignored, as by crowd (docs/decisions/0012-strict-requests.md).
    """
    found: list[Seen] = []
    while True:
        request, data, goes_on = _h11s_first(data.removeprefix(b"\r\n"))
        if request is None:
            return found, not goes_on
        found.append(request)
        if not goes_on:
            return found, False


def _h11s_first(data: bytes) -> tuple[Seen | None, bytes, bool]:
    """Return the first request in `data`, if there is one, what follows it, and whether to go on."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(data)
    method = target = body = version = b""
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError:
            return None, b"", False
        if isinstance(event, h11.Request):
            method, target, version = event.method, event.target, event.http_version
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            connection.send(h11.Response(status_code=404, headers=[("Content-Length", "0")]))
            connection.send(h11.EndOfMessage())
            goes_on = connection.our_state is h11.DONE and connection.their_state is h11.DONE
            goes_on = goes_on or version == b"1.0"  # h11 does not know its keep-alive
            return Seen(method, target, body), connection.trailing_data[0], goes_on
        else:
            return None, b"", True
