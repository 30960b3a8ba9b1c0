"""The PROXY protocol: what is a header, who may send one, and whose connection it is then."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, UNIXAddress

from crowd.web.announced import (
    SIGNATURE,
    Balancers,
    Header,
    MalformedHeaderError,
    read_header,
)
from tests.unit.web.conftest import Answers, Transport

POST = b"POST /leads HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"
LINE = b"PROXY TCP4 198.51.100.9 192.0.2.1 4711 80\r\n"


def binary(
    command: int = 0x21, family: int = 0x11, body: bytes | None = None, more: bytes = b""
) -> bytes:
    if body is None:
        body = bytes([198, 51, 100, 9, 192, 0, 2, 1]) + (4711).to_bytes(2) + (443).to_bytes(2)
    body += more
    return SIGNATURE + bytes([command, family]) + len(body).to_bytes(2) + body


SOURCE, TARGET = ("198.51.100.9", 4711), ("192.0.2.1", 443)
TLS = b"\x20\x00\x05\x01\x00\x00\x00\x00"
V6 = bytes(range(32)) + (1).to_bytes(2) + (2).to_bytes(2)


@pytest.mark.parametrize(
    ("data", "header"),
    [
        (LINE, Header(len(LINE), SOURCE, ("192.0.2.1", 80))),
        (b"PROXY TCP6 2001:db8::1 ::1 1 65535\r\n", Header(36, ("2001:db8::1", 1), ("::1", 65535))),
        (b"PROXY UNKNOWN\r\n", Header(15)),
        (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", Header(35)),
        (binary(), Header(28, SOURCE, TARGET)),
        (binary(more=TLS), Header(36, SOURCE, TARGET, over_tls=True)),
        (binary(more=b"\x04\x00\x01x" + TLS), Header(40, SOURCE, TARGET, over_tls=True)),
        (binary(more=b"\x20\x00\x05\x00\x00\x00\x00\x00"), Header(36, SOURCE, TARGET)),
        (binary(0x20, 0x00, b""), Header(16)),
        (binary(0x21, 0x00, b""), Header(16)),
        (binary(0x21, 0x31, bytes(216)), Header(232)),
    ],
)
def test_headers(data, header):
    """However they are cut, and whatever follows."""
    assert read_header(data + POST) == header
    assert read_header(data) == header
    assert all(read_header(data[:size]) is None for size in range(len(data)))


def test_addresses_of_ip_6():
    header = read_header(binary(0x21, 0x21, V6))
    assert header.source == ("1:203:405:607:809:a0b:c0d:e0f", 1)
    assert header.destination[1] == 2


@pytest.mark.parametrize(
    "data",
    [
        POST, b"\r\n\r\nPOST", b"PROXY\r\n", b"proxy TCP4", b"PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
        b"PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n", b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n", b"PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 ::1 ::1 1 2\r\n", b"PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n\r\n", b"PROXY TCP4 " + b"1" * 100, b"PROXY UNKNOWN" + b" x" * 60,
        SIGNATURE + b"\x11\x11\x00\x00", SIGNATURE + b"\x22\x11\x00\x00", SIGNATURE + b"\x21\x11\xff\xff",
        binary(0x21, 0x12), binary(0x21, 0x11, b"short"), binary(0x21, 0x21), binary(more=b"\x20\x00\x09x"),
        binary(more=b"\x20"), b"\x16\x03\x01\x02\x00",
    ],
)  # fmt: skip
def test_what_is_no_header(data):
    with pytest.raises(MalformedHeaderError):
        read_header(data)


@given(
    st.one_of(
        st.binary(max_size=60),
        st.binary(max_size=60).map(lambda tail: SIGNATURE + tail),
        st.binary(max_size=60).map(lambda tail: b"PROXY " + tail),
    )
)
def test_any_bytes_are_a_header_or_its_error(data):
    """A decoder: a value, or its one error, nothing else."""
    try:
        header = read_header(data)
    except MalformedHeaderError:
        return
    assert header is None or header.size <= len(data)


class Balancer:
    """A connection from a balancer, in memory."""

    def __init__(self, door: Any, address: Any = None) -> None:
        self.factory = Balancers(
            door.producers,
            ["192.0.2.0/24", "::1/128"],
            door.clock,
            header_s=10.0,
            refused=door.producers.refuse,
        )
        self.protocol = self.factory.buildProtocol(address or IPv4Address("TCP", "192.0.2.7", 1))
        self.transport = Transport()
        if self.protocol is not None:
            self.protocol.makeConnection(self.transport)

    @property
    def statuses(self) -> list[int]:
        answers = Answers()
        answers.feed(self.transport.value())
        return [answer.status for answer in answers.all]


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_the_producer_is_whom_the_balancer_names(door, size):
    """The message has the producer's address and scheme, not the balancer's."""
    balancer = Balancer(door)
    data = binary(more=TLS) + POST
    for at in range(0, len(data), size):
        balancer.protocol.dataReceived(data[at : at + size])
    (message,) = door.acceptor.messages
    assert (message.client, message.scheme) == (b"198.51.100.9", b"https")
    door.acceptor.answer_all()
    assert balancer.statuses == [200]
    assert balancer.factory.pending == 0


def test_a_balancers_own_connection_is_its_own(door):
    balancer = Balancer(door)
    balancer.protocol.dataReceived(binary(0x20, 0x00, b"") + POST)
    assert door.acceptor.messages[0].client == b"192.0.2.7"


def test_whoever_sends_no_header_is_refused(door):
    """And nothing of what he sent is looked at; nor may a header come from elsewhere, or late."""
    plain = Balancer(door)
    plain.protocol.dataReceived(POST)
    plain.protocol.dataReceived(LINE + POST)
    assert plain.transport.aborted
    stranger = Balancer(door, IPv4Address("TCP", "203.0.113.9", 1))
    assert stranger.protocol is None
    silent = Balancer(door)
    silent.protocol.dataReceived(b"PROXY ")
    door.wait(11)
    assert silent.transport.aborted
    assert door.acceptor.offered == []
    assert door.producers.connections_refused == 3
    assert Balancer(door, UNIXAddress(b"/run/crowd")).protocol is not None
    assert Balancer(door, IPv4Address("TCP", "::ffff:192.0.2.8", 1)).protocol is not None


def test_a_second_header_is_no_request(door):
    balancer = Balancer(door)
    balancer.protocol.dataReceived(LINE + LINE + POST)
    assert balancer.statuses == [400]
    assert door.acceptor.offered == []


def test_ends_are_handed_on(door):
    from twisted.internet.error import ConnectionDone
    from twisted.python.failure import Failure

    before, behind = Balancer(door), Balancer(door)
    before.protocol.readConnectionLost()
    assert before.transport.disconnecting
    behind.protocol.dataReceived(LINE + POST)
    behind.protocol.readConnectionLost()
    door.acceptor.answer_all()
    assert behind.transport.disconnecting
    for each in (before, behind):
        each.protocol.connectionLost(Failure(ConnectionDone()))
        assert each.factory.pending == 0
    assert door.producers.connections == 0
