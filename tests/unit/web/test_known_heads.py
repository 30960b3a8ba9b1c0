"""A head that is like the one before is not read again: what is found in it is the same.

The oracle is the same intake, given one byte after the other: it never has a whole head at once, so
that llhttp reads them all.
"""

from __future__ import annotations

import httptools
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.logger import capturedLogs

from crowd.web.intake import KNOWN_BYTES_MAX, Intake
from crowd.web.limits import WebLimits
from crowd.web.problems import BAD_TARGET, problem_reply
from tests.unit.web.hostile.grammar import CUTS, cut, requests

KEYS = st.sampled_from(
    [b"", b"1", b"2", b'"1"', b'"a b"', b" 1", b"1 ", b"a\tb", b"\xe9", b"a\r\nHost: b", b"a\nb", b"a\x00", b"x" * 300]
)  # fmt: skip
NAMES = st.sampled_from([b"Idempotency-Key", b"idempotency-key", b"X-Idempotency-Key"])
FIELDS = st.sampled_from(
    [b"Host: a.test", b"Content-Type: a/b", b"Connection: keep-alive", b"Connection: close", b"Expect: 100-continue",
     b"Connection: idempotency-key", b"Transfer-Encoding: chunked", b"Upgrade: h2c", b"X-A: Idempotency-Key: 1"]
)  # fmt: skip
LINES = st.sampled_from(
    [b"POST /leads HTTP/1.1"] * 6
    + [b"\r\nPOST /leads HTTP/1.1", b"POST http://b.test/leads HTTP/1.1", b"POST /leads HTTP/1.0", b"CONNECT a:80 HTTP/1.1", b"GET /leads HTTP/1.1"]
)  # fmt: skip


@st.composite
def keyed(draw):
    """A request with a key, and perhaps more than one; mostly a good one."""
    key = b"%s:%s%s" % (draw(NAMES), draw(st.sampled_from([b" ", b"", b"\t "])), draw(KEYS))
    lines = [draw(LINES), b"Host: a.test", *draw(st.lists(FIELDS, max_size=2)), key]
    lines += draw(st.lists(FIELDS | st.just(key), max_size=1))
    return b"\r\n".join([*lines, b"Content-Length: 3", b"", b"abc"])


@st.composite
def alike(draw):
    """Some requests, each like the one before it."""
    request = draw(keyed() | keyed() | requests())
    found = [request]
    for _ in range(draw(st.integers(1, 4))):
        how = draw(st.sampled_from(["same", "key", "key", "body", "bytes"]))
        key = draw(KEYS)
        if how == "key":
            start = request.find(b"Key:") + 4
            request = (
                request[:start] + b" " + key + request[max(request.find(b"\r\n", start), start) :]
            )
        elif how == "body":
            request = request[:-3] + b"xyz"
        elif how == "bytes":
            at = draw(st.integers(0, len(request)))
            request = (
                request[:at] + draw(st.binary(max_size=2)) + request[at + draw(st.integers(0, 2)) :]
            )
        found.append(request)
    return b"".join(found)


class Told:
    """What a receiver was told, in its order. Refuses requests to `/no` at their heads."""

    def __init__(self):
        self.told = []

    def head(self, body_bytes, method, target, fields, *, expects):
        self.told.append((body_bytes, method, target, said(fields), expects))
        return problem_reply(BAD_TARGET) if target.startswith(b"/no") else None

    def request(self, *request):
        method, target, headers, fields, body, alive = request
        old = self.intake.old_version
        self.told.append((method, target, list(headers), said(fields), body, alive, old))

    def refused(self, reply):
        self.told.append((reply.status, reply.body))


def said(fields):
    """Return all that fields say, and how they are stored; as it is now, since they are shared."""
    told = {name: getattr(fields, name) for name in fields.__struct_fields__ if name[:1] != "_"}
    told["kept"] = list(fields.kept)
    return told | {"packed": fields.packed(fields.kept)}


def told(pieces, limits=None):
    receiver = Told()
    receiver.intake = intake = Intake(limits or WebLimits(), receiver)
    for piece in pieces:
        intake.feed(piece)
    return receiver.told


def singly(data):
    return [data[at : at + 1] for at in range(len(data))]


def keys(*values, ahead=b""):
    head = b"POST /leads HTTP/1.1\r\nHost: a.test\r\n%sIdempotency-Key: %s\r\nContent-Length: 3\r\n\r\nabc"
    return b"".join(head % (ahead, value) for value in values)


def twice(*lines, body=b"abc", version=b"1.1"):
    return b"\r\n".join([b"POST /leads HTTP/" + version, b"Host: a.test", *lines, b"", body]) * 2


@example(data=keys(b"1", b"2", b"2", b"1", b'"c"', b"long" * 20), sizes=[7])
@example(data=keys(b"1", b"2") + keys(b"1", ahead=b"X-A: b\r\n") + keys(b"3"), sizes=[7])
@example(data=twice(b"Transfer-Encoding: chunked", body=b"3\r\nabc\r\n0\r\n\r\n"), sizes=[7])
@example(data=twice(b"Connection: upgrade", b"Upgrade: h2c", b"Content-Length: 3"), sizes=[7])
@example(data=twice(b"Connection: keep-alive", b"Content-Length: 3", version=b"1.0"), sizes=[7])
@example(data=twice(b"Expect: 100-continue", b"Content-Length: 3"), sizes=[7])
@example(data=keys(b"1", b"2\r\nIdempotency-Key: 3", b"4"), sizes=[7])
@example(data=keys(b"1", b"2", ahead=b"X-A: Idempotency-Key: 3\r\n"), sizes=[7])
@example(data=keys(b"1", b"2\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\nA: "), sizes=[7])
@settings(max_examples=400, deadline=None)
@given(data=alike(), sizes=CUTS)
def test_what_is_found_does_not_depend_on_what_came_before(data, sizes):
    oracle = told(singly(data))
    assert told([data]) == oracle
    assert told(cut(data, sizes)) == oracle


@example(data=keys(b"1", b"x" * 300), length=200)
@given(data=alike(), length=st.integers(30, 400))
@settings(deadline=None)
def test_the_bound_of_a_head_holds_for_one_that_is_known(data, length):
    limits = WebLimits(head_bytes_max=length)
    assert told([data], limits) == told(singly(data), limits)


@pytest.fixture
def read(monkeypatch):
    """The pieces that llhttp is given."""
    pieces = []

    class Parser(httptools.HttpRequestParser):
        def feed_data(self, data):
            pieces.append(bytes(data))
            super().feed_data(data)

    monkeypatch.setattr(httptools, "HttpRequestParser", Parser)
    return pieces


@pytest.mark.parametrize("ahead", [b"", b"Connection: keep-alive\r\n"])
def test_llhttp_reads_the_first_of_requests_that_are_alike(read, ahead):
    found = told([keys(b"1", b"1", b"2", b'"3"', ahead=ahead)])
    assert len(found) == 8
    assert len(read) == 2, "a head and a body"


def test_llhttp_reads_long_heads_each_time(read):
    """They are not held: a connection is to cost a bounded amount of memory."""
    told([keys(b"1", b"1", b"2", ahead=b"X-A: %s\r\n" % (b"x" * KNOWN_BYTES_MAX))])
    assert len(read) == 6
    read.clear()
    told([keys(b"1", b"1", b"2" * KNOWN_BYTES_MAX)])
    assert len(read) == 4, "the second is as the first"


@pytest.mark.parametrize(
    "other",
    [keys(b"a b"), keys(b"1", ahead=b"A: b\r\n"), keys(b"2")[:-1], keys(b"2").replace(b"POST", b"PUT")],
    ids=["a blank", "a field more", "a body that is not there yet", "another method"],
)  # fmt: skip
def test_llhttp_reads_what_is_not(read, other):
    told([keys(b"1"), other])
    assert read[2:] == [
        other[: other.index(b"\r\n\r\n") + 4],
        other[other.index(b"\r\n\r\n") + 4 :],
    ]


def test_a_request_like_the_last_is_refused_at_its_head_as_well():
    class Wary(Told):
        def head(self, *head, **expects):
            super().head(*head, **expects)
            return problem_reply(BAD_TARGET) if len(self.told) > 2 else None

    receivers = Wary(), Wary()
    for receiver, pieces in zip(
        receivers, ([keys(b"1", b"2", b"3")], singly(keys(b"1", b"2", b"3"))), strict=True
    ):
        receiver.intake = intake = Intake(WebLimits(), receiver)
        for piece in pieces:
            intake.feed(piece)
    assert receivers[0].told == receivers[1].told
    assert len(receivers[0].told) == 4


def test_a_defect_loses_the_connection_and_is_told():
    class Broken(Told):
        def request(self, *request):
            super().request(*request)
            if len(self.told) > 2:
                raise KeyError("a defect")

    receiver = Broken()
    with capturedLogs() as events:
        receiver.intake = Intake(WebLimits(), receiver)
        receiver.intake.feed(keys(b"1", b"2", b"3"))
    assert receiver.told[-1][0] == 500
    assert len(receiver.told) == 5
    assert [repr(event["log_failure"].value) for event in events] == ["KeyError('a defect')"]
