"""An admin port in memory: requests in, answers out."""

from __future__ import annotations

import json

from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

TOKEN = "5e" * 32
SHOWN = f"Authorization: Bearer {TOKEN}"
JSON = "Content-Type: application/json"


class Nobody:
    """Carries out nothing, for pages that ask for nothing."""


def asking(site):
    """Return a function that asks `site` for a path; it returns status, fields and body."""
    site.reactor = Clock()

    def run(
        path,
        method="GET",
        host="127.0.0.1:2106",
        address="127.0.0.1",
        fields=(),
        body=b"",
        chunks=b"",
    ):
        transport = StringTransport(hostAddress=IPv4Address("TCP", address, 2106))
        channel = site.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
        channel.makeConnection(transport)
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *fields]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        channel.dataReceived("\r\n".join([*lines, "", ""]).encode() + body + chunks)
        head, _, body = transport.value().partition(b"\r\n\r\n")
        status, *lines = head.split(b"\r\n")
        return int(status.split()[1]), dict(line.lower().split(b": ", 1) for line in lines), body

    return run


def problem(answered):
    """Return a problem's status, the last part of its type, and its detail."""
    status, fields, body = answered
    assert fields[b"content-type"] == b"application/problem+json"
    document = json.loads(body)
    assert document["status"] == status
    return status, document["type"].removeprefix("/problems/"), document.get("detail", "")
